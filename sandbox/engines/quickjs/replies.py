"""Read what a QuickJS child wrote: hostile bytes in, records out. Pure, and never believed about limits.

A child is taken at its word about its program's own doing only: the value, the exception, the log lines, that
the source does not parse, that the kernel refused it memory. How its process ended, and what it used, comes
from the zygote.
"""

from __future__ import annotations

import re
from json import loads
from typing import get_args

import msgspec
from msgspec import Raw, json

from sandbox.limits import Limits
from sandbox.outcome import (
    BadResult,
    LogLevel,
    LogLine,
    MemoryLimit,
    Ok,
    Outcome,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
)

WRAPPER_VERSION = 2
"""Goes up when zygote.py wraps a program otherwise; stored wrapped code of another version is made again."""

HEADER_BYTES = 5
LINE_OVERHEAD_BYTES = 16
"""What a log line counts beside its text, so that a flood of empty lines ends too."""

_TEXT_BYTES = 256 * 1024
"""Cap of an exception's, a syntax error's or a bad result's payload; the prelude cuts each text far below."""

_RUN_KINDS = frozenset("lvobxms")
_CHECK_KINDS = frozenset("wms")

_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
_raw_decoder = json.Decoder(Raw)

# In a stack, the program's own text is `eval_script` when it is a body, below one line of wrapper, and
# `program` when it is a module. Lines of code that the program made with eval have `<input>`.
_FRAME = re.compile(
    r"^ *at (?:(?P<function>.*) \()?(?P<file>eval_script|program|check|<input>)"
    r":(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?$"
)
_OURS = "promptlog:"


class BadReply(Exception):
    """What the child wrote is no reply that its engine writes: it was taken over, or it broke."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A source that is no program."""

    error: ProgramSyntaxError


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A source that is a program, in the form that the engine runs."""

    code: bytes


class ReplyReader:
    """Collect one child's bytes up to the caps; give its log lines and, at last, what it said of its end."""

    def __init__(
        self, *, limits: Limits, source_name: str, wrapped_bytes: int = 0, source_lines: int | None = None
    ) -> None:
        """`wrapped_bytes`: for a check, the most that the wrapped code may have; 0 for a run.

        `source_lines`: how many lines the program has, where it comes as its author wrote it.
        """
        self._source_lines = source_lines
        self._limits = limits
        self._source_name = source_name
        self._wrapped_bytes = wrapped_bytes
        self._buffer = bytearray()
        self._log_left = limits.log_bytes
        self._said: Outcome | Wrapped | Refused | None = None
        self.logs_truncated = False

    @property
    def said(self) -> Outcome | Wrapped | Refused | None:
        """How the child said that its program ended; None if it said nothing."""
        return self._said

    def feed(self, data: bytes) -> list[LogLine]:
        """Take the child's next bytes, return the log lines they complete. Raises BadReply.

        What comes after the child's last word is dropped.
        """
        if self._said is not None:
            return []
        buffer = self._buffer
        buffer += data
        lines: list[LogLine] = []
        while len(buffer) >= HEADER_BYTES and self._said is None:
            kind, size = chr(buffer[0]), int.from_bytes(buffer[1:HEADER_BYTES], "big")
            if kind == "v" and size > self._limits.result_bytes and not self._wrapped_bytes:
                # The prelude counts UTF-16 units, the limit is of bytes.
                self._said = OutputLimit(limit=self._limits.result_bytes, used=size)
                break
            if size > self._cap(kind):
                raise BadReply(f"a frame of kind {kind!r} that announces {size} bytes")
            if len(buffer) < HEADER_BYTES + size:
                break
            payload = bytes(buffer[HEADER_BYTES : HEADER_BYTES + size])
            del buffer[: HEADER_BYTES + size]
            if kind == "l":
                self._log(payload, lines)
            else:
                self._said = self._end(kind, payload)
        return lines

    def _cap(self, kind: str) -> int:
        if kind not in (_CHECK_KINDS if self._wrapped_bytes else _RUN_KINDS):
            raise BadReply(f"a frame of no known kind, {kind!r}")
        match kind:
            case "v":
                return self._limits.result_bytes
            case "l":
                # The prelude counts UTF-16 units; in UTF-8 a unit takes three bytes at the most.
                return 3 * self._limits.log_bytes + 8
            case "w":
                return self._wrapped_bytes
            case _:
                return _TEXT_BYTES

    def _log(self, payload: bytes, lines: list[LogLine]) -> None:
        if self._log_left <= 0:
            self.logs_truncated = True
            return
        level = payload[0] - ord("0") if payload else -1
        if not 0 <= level < len(_LEVELS):
            raise BadReply("a log line without a level")
        body = payload[1:]
        if len(body) > self._log_left:
            self.logs_truncated = True
            body = body[: self._log_left]
        self._log_left -= len(body) + LINE_OVERHEAD_BYTES
        lines.append(LogLine(level=_LEVELS[level], text=body.decode("utf-8", "ignore")))

    def _end(self, kind: str, payload: bytes) -> Outcome | Wrapped | Refused:
        match kind:
            case "v":
                return self._value(payload)
            case "o":
                used = int(payload) if payload.isdigit() and len(payload) < 16 else 0
                return OutputLimit(limit=self._limits.result_bytes, used=used)
            case "b":
                return BadResult(message=_text(payload))
            case "w":
                return Wrapped(code=payload)
        name, message, stack = _fields(payload)
        if kind == "s":
            module = name.startswith("M")
            line, column = self._position(stack, module=module)
            return Refused(error=ProgramSyntaxError(message=message, line=line, column=column))
        if kind == "m":
            return MemoryLimit(limit=self._limits.memory_bytes, used=0)
        shown, line, column = self._stack(stack)
        return ProgramException(name=name, message=message, stack=shown, line=line, column=column)

    def _value(self, payload: bytes) -> Outcome:
        # One JSON value and nothing besides: on a JSON connection it goes out as a part of a line.
        try:
            if b"\n" in payload or b"\r" in payload:
                raise BadReply("a value with a line break")
            payload.decode("utf-8")
            _raw_decoder.decode(payload)
        except RecursionError:
            return BadResult(message="the result is nested too deeply")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if _is_json(payload):
                return BadResult(message="the result holds half of a surrogate pair, which is no text")
            raise BadReply(f"a value that is not JSON: {error}") from None
        return Ok(value=Raw(payload))

    def _position(self, stack: str, *, module: bool) -> tuple[int | None, int | None]:
        for line in stack.splitlines():
            if frame := _FRAME.match(line):
                number = int(frame["line"]) - (0 if module else 1)
                if self._source_lines is not None and number > self._source_lines:
                    return self._source_lines, None  # the wrapper's end: something was left open
                return (number, int(frame["column"])) if number > 0 else (None, None)
        return None, None

    def _stack(self, stack: str) -> tuple[str, int | None, int | None]:
        """Return the stack in terms of the program as submitted, and the place of its first frame there."""
        shown: list[str] = []
        place: tuple[int, int] | None = None
        for text in stack.splitlines():
            if _OURS in text:
                if shown and shown[-1].strip() == "at apply (native)":
                    shown.pop()  # how the prelude calls
                continue
            frame = _FRAME.match(text)
            if frame is None or frame["file"] == "<input>":
                shown.append(text)
                continue
            line = int(frame["line"]) - (1 if frame["file"] == "eval_script" else 0)
            if line < 1 or frame["function"] == "<eval>":
                continue
            column = int(frame["column"])
            place = place or (line, column)
            function = frame["function"] or "<anonymous>"
            shown.append(f"    at {function} ({self._source_name}:{line}:{column})")
        return "\n".join(shown), *(place or (None, None))


def _is_json(payload: bytes) -> bool:
    """Whether this is JSON to a reader that bears lone surrogates, which JSON.stringify escapes."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        loads(payload, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _fields(payload: bytes) -> tuple[str, str, str]:
    fields: list[str] = []
    at = 0
    for _ in range(3):
        end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
        if len(payload) < at + 4 or end > len(payload):
            raise BadReply("a frame whose fields do not fill it")
        fields.append(_text(payload[at + 4 : end]))
        at = end
    return fields[0], fields[1], fields[2]
