"""Read what an engine's process wrote: hostile bytes in, records out. Pure, and never believed about limits.

It is taken at its word about its program's own doing only: the value, the exception, the log lines, that the source
does not parse, that the kernel refused it memory. How the process ended, and what it used, comes from the kernel.

Frames: a letter, the size of what follows (4 bytes, big-endian), the payload. v a value's JSON; o the size of one that
is too large; b why there is none; x an exception, s a syntax error, m a refusal of memory (name, message, stack, each
with its size before it); q the same as s, while more is looked for that the process may not survive, or nothing, which
takes it back; l a console line, its level first, and 5 or 10 more for how its stacks count lines; w the form of a
source that was checked, and of TypeScript its text without types.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from json import loads
from typing import Protocol, get_args

import msgspec
from msgspec import Raw, json

from sandbox.engines.columns import Text
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

WRAPPER_VERSIONS = {"quickjs": 2, "deno": 1002}
"""A number goes up when its engine wraps a program otherwise; stored code of another is made again."""

DENO_WRAPPERS = 1000
"""From here on the numbers are Deno's."""

HEADER_BYTES = 5
_MAP_BYTES = 256 * 1024
"""Of a run's console lines with stacks in them: what is more is left as the engine wrote it."""

LINE_OVERHEAD_BYTES = 16
"""What a log line counts beside its text, so that a flood of empty lines ends too."""

_TEXT_BYTES = 256 * 1024
"""Cap of an exception's, a syntax error's or a bad result's payload; the prelude cuts each text far below."""

_RUN_KINDS = frozenset("lvobxms")
_CHECK_KINDS = frozenset("wms")

_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
_raw_decoder = json.Decoder(Raw)


class Stacks(Protocol):
    """What reads an engine's account of places: a module of that engine's, `stack`."""

    MAPPED: int
    """How many ways there are beside the usual in which its stacks count lines."""

    def position(self, stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
        """Return (line, column) of what does not parse."""

    def shown(self, stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
        """Return the stack in terms of the program as submitted, and the place of its first frame there."""

    def logged(self, text: str, source_name: str, source: Text, *, mapped: int) -> str:
        """Return a console line with the stacks in it in terms of the program. `mapped`: how they count lines."""


class BadReply(Exception):
    """What the child wrote is no reply that its engine writes: it was taken over, or it broke."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A source that is no program."""

    error: ProgramSyntaxError


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A source that is a program: from a process its form alone, a letter, and from a cell what the engine runs."""

    code: bytes


class ReplyReader:
    """Collect one child's bytes up to the caps; give its log lines and, at last, what it said of its end."""

    def __init__(
        self,
        *,
        limits: Limits,
        source_name: str,
        stacks: Stacks,
        source: Callable[[], bytes],
        token: bytes = b"",
        kinds: frozenset[str] | None = None,
        wrapped_bytes: int = 0,
    ) -> None:
        """`stacks`: reads this engine's. `source`: gives the program as its author wrote it.

        `token`: what stands before each frame, and a program does not know. `kinds`: of frames that may come; default:
        QuickJS's. `wrapped_bytes`: for a check, the most that its answer may have; 0 for a run.
        """
        self._token = token
        self._kinds = kinds or (_CHECK_KINDS if wrapped_bytes else _RUN_KINDS)
        self._header_bytes = len(token) + HEADER_BYTES
        self._source = source
        self._limits = limits
        self._source_name = source_name
        self._stacks = stacks
        self._wrapped_bytes = wrapped_bytes
        self._buffer = bytearray()
        self._log_left = limits.log_bytes
        self._to_map = _MAP_BYTES
        self._said: Outcome | Wrapped | Refused | None = None
        self.at_least: Outcome | Wrapped | Refused | None = None
        """What is said already, should the process come to an end before it has said it in full."""
        self.logs_truncated = False

    @cached_property
    def _text(self) -> Text:
        return Text(self._source())

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
        before, header = len(self._token), self._header_bytes
        while len(buffer) >= header and self._said is None:
            if buffer[:before] != self._token:
                raise BadReply("something that is no frame")
            kind, size = chr(buffer[before]), int.from_bytes(buffer[before + 1 : header], "big")
            if kind == "v" and size > self._limits.result_bytes and not self._wrapped_bytes:
                # The prelude counts UTF-16 units, the limit is of bytes.
                self._said = OutputLimit(limit=self._limits.result_bytes, used=size)
                break
            if size > self._cap(kind):
                raise BadReply(f"a frame of kind {kind!r} that announces {size} bytes")
            if len(buffer) < header + size:
                break
            payload = bytes(buffer[header : header + size])
            del buffer[: header + size]
            if kind == "l":
                self._log(payload, lines)
            elif kind == "q":
                self.at_least = self._end("s", payload) if payload else None
            else:
                self._said = self._end(kind, payload)
        return lines

    def _cap(self, kind: str) -> int:
        if kind not in self._kinds:
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
        mapped, level = divmod(payload[0] - ord("0"), len(_LEVELS)) if payload else (-1, 0)
        if not 0 <= mapped <= self._stacks.MAPPED:
            raise BadReply("a log line without a level")
        body = payload[1:]
        if b"\n    at " in body and self._to_map > 0:
            self._to_map -= len(body)
            text = body.decode("utf-8", "ignore")
            body = self._stacks.logged(text, self._source_name, self._text, mapped=mapped).encode()
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
            line, column = self._stacks.position(stack, module=module, source=self._text)
            return Refused(error=ProgramSyntaxError(message=message, line=line, column=column))
        if kind == "m":
            return MemoryLimit(limit=self._limits.memory_bytes, used=0)
        own, line, column = self._stacks.shown(stack, self._source_name, self._text)
        return ProgramException(name=name, message=message, stack=own, line=line, column=column)

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
