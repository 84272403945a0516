"""Converts the last message of a process to an outcome. The message is hostile: it counts only as a claim of the
program about itself."""

from __future__ import annotations

import re
import signal

import msgspec
from msgspec import Raw, json

from sandbox.engines.host.columns import Text
from sandbox.engines.host.console import Stacks
from sandbox.limits import Limits
from sandbox.outcome import (
    BadResult,
    Crashed,
    MemoryLimit,
    Ok,
    Outcome,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
)
from sandbox.protocol.events import Checked, Last, NoJson, OutOfMemory, Refused, Thrown, TooLarge, Value

Verdict = Outcome | Checked | Value
"""How a job ended. `Checked`: the checked source is a program. `Value`: a result of more than INLINE_BYTES.

The decoder turns such a result into an outcome with `read_value`.
"""

INLINE_BYTES = 512 * 1024
"""A result up to this size is checked at once: 1 ms of the loop for nested lists, or for a result that ends with a lone
surrogate."""

_TEXT_CHARACTERS = 32 * 1024
"""Maximum length of each text of an error that the engines' scripts write. Three take 1.4 ms to encode."""

_raw_decoder = json.Decoder(Raw)

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..", re.DOTALL)
_HALVES = 2000
"""Maximum number of escaped surrogates that are examined: 2 ms. Engines escape only lone surrogates, so the first one
is lone, unless a program controls the engine."""

_BACKSLASHES = 4096
"""Bytes before an escape that are searched for backslashes. An odd number of them escapes the escape's own
backslash."""

_DAMAGED_BYTES = 32 * 1024
"""Bytes that are kept of a text that is not UTF-8. An error has up to three texts, and replacing invalid bytes in them
takes 0.5 ms. Engines write UTF-8, unless a program controls them."""


class Reader:
    """Decodes the last message of one run."""

    def __init__(self, limits: Limits, stacks: Stacks, source_name: str, text: Text) -> None:
        self._limits = limits
        self._stacks = stacks
        self._source_name = source_name
        self._text = text

    def outcome(self, last: Last, peak_bytes: int) -> Verdict:
        """Return the outcome for the message. `peak_bytes`: the process's peak, for a memory limit."""
        match last:
            case Value(json=value):
                return last if len(value) > INLINE_BYTES else read_value(bytes(value))
            case TooLarge(size=size):
                return OutputLimit(limit=self._limits.result_bytes, used=size)
            case NoJson(message=message):
                return BadResult(message=_text(message))
            case OutOfMemory():
                return MemoryLimit(limit=self._limits.memory_bytes, used=peak_bytes)
            case Refused(module=module, message=message, stack=stack):
                line, column = self._stacks.position(_text(stack), module=module, source=self._text)
                return ProgramSyntaxError(message=_text(message), line=line, column=column)
            case Thrown(name=name, message=message, stack=stack):
                own, line, column = self._stacks.shown(_text(stack), self._source_name, self._text)
                return ProgramException(name=_text(name), message=_text(message), stack=own, line=line, column=column)
            case Checked():
                return last


def signalled(number: int) -> Crashed:
    """Return the outcome for a process that was ended by a signal. Real-time signals have no names."""
    name = signal.Signals(number).name if number in {known.value for known in signal.Signals} else f"signal {number}"
    return Crashed(signal=name, message="the engine was ended by a signal")


def read_value(payload: bytes) -> Ok | BadResult | Crashed:
    """Return the outcome for a result: exactly one JSON value on one line, because it may become part of a line."""
    if b"\n" in payload or b"\r" in payload:
        return Crashed(message="the engine wrote a value with a line break")
    try:
        payload.decode("utf-8")
        _raw_decoder.decode(payload)
    except RecursionError:
        return BadResult(message="the result is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _has_lone_surrogate(payload):
            return BadResult(message="the result has a lone surrogate, which is not valid text")
        return Crashed(message=f"the engine wrote a value that is not JSON: {error}")
    return Ok(value=Raw(payload))


def _has_lone_surrogate(payload: bytes) -> bool:
    """Whether a JSON text has an escaped lone surrogate, as written by JSON.stringify."""
    at = 0
    for _ in range(_HALVES):
        found = _HALF.search(payload, at)
        if found is None:
            return False
        at = found.start()
        before = payload[max(0, at - _BACKSLASHES) : at]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            at += 1  # its backslash is itself escaped
            continue
        pair = _PAIR.match(payload, at)
        if pair is None:
            return True
        at = pair.end()
    return False


def _text(payload: bytes) -> str:
    try:
        return payload.decode()[:_TEXT_CHARACTERS]
    except UnicodeDecodeError:
        return payload[:_DAMAGED_BYTES].decode("utf-8", "replace")[:_TEXT_CHARACTERS]
