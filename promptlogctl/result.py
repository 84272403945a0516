"""What requests give back, and how requests are made of plain arguments. No sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from promptlogctl.errors import ProgramFailed, RequestRefused
from promptlogd.wire import ClientSession
from promptlogd.wire.framing import HEADER_BYTES, MAX_FRAME_BYTES
from promptlogd.wire.messages import NO_ENV, Engine, Error, Finished, Id, Language, LimitsAsked, Request, Run, Submit
from sandbox.outcome import LogLine, Ok, Outcome, Usage, describe

Isolation = Literal["cell", "jail"]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A kept program: its hash, whether it was new, and what runs it."""

    hash: str
    created: bool
    engine: Engine


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, what it logged and what it used. `logs` is empty where `on_log` got the lines."""

    hash: str
    outcome: Outcome
    logs: list[LogLine]
    logs_truncated: bool
    usage: Usage

    @classmethod
    def of(cls, reply: Finished) -> RunResult:
        """Return the result that a `finished` reply tells."""
        return cls(
            hash=reply.hash,
            outcome=reply.outcome,
            logs=reply.logs,
            logs_truncated=reply.logs_truncated,
            usage=reply.usage,
        )

    @property
    def ok(self) -> bool:
        """Whether the program gave a result."""
        return isinstance(self.outcome, Ok)

    @property
    def json(self) -> str:
        """The result's JSON, byte for byte as the program serialised it. Raises ProgramFailed."""
        if not isinstance(self.outcome, Ok):
            raise ProgramFailed(self)
        return bytes(self.outcome.value).decode()

    @property
    def value(self) -> Any:
        """The result as Python objects. Raises ProgramFailed if there is none."""
        return json.loads(self.json, parse_int=_integer)

    def describe(self) -> str:
        """Return the outcome as one sentence."""
        return describe(self.outcome)


def text(source: str | bytes) -> str:
    """Return a source as text. Raises ValueError, naming the byte, for one that is not UTF-8."""
    if isinstance(source, str):
        return _whole("the program", source)
    if not isinstance(source, bytes):
        raise TypeError(f"a program is str or bytes, not {type(source).__name__}")
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the program is not UTF-8: byte {error.start} is 0x{source[error.start]:02x}") from None


def _whole(what: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has half of a surrogate pair at {error.start}, which is no text") from None
    return value


def _env(env: Mapping[str, Any]) -> msgspec.Raw:
    """Return an env as JSON. Raises TypeError or ValueError for what JSON does not have: sets, NaN."""
    try:
        given = json.dumps(dict(env), allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise TypeError(f"`env` must be a JSON object: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`env` must be a JSON object: {error}") from None
    return msgspec.Raw(_whole("`env`", given).encode())


def _integer(digits: str) -> int | float:
    """Return a JSON number without a point; as in JavaScript one of thousands of digits is infinite."""
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return float(digits)


def encoded(session: ClientSession, request: Request) -> bytes:
    """Return a request's bytes. Raises RequestRefused for one that no message may be as large as.

    The daemon would refuse it too, and end the connection that others share.
    """
    data = session.send(request)
    if len(data) - HEADER_BYTES > MAX_FRAME_BYTES:
        message = f"the request has {len(data)} bytes, and a message may have {MAX_FRAME_BYTES}"
        raise RequestRefused(Error(id=request.id, code="too_large", message=message))
    return data


def submit_request(
    id: Id, source: str | bytes, name: str | None, engine: Engine | None, language: Language | None
) -> Submit:
    """Return a `submit` request."""
    return Submit(id=id, source=text(source), name=name, engine=engine, language=language)


def run_request(
    id: Id,
    *,
    reference: str | None,
    source: str | bytes | None,
    prompt: str,
    env: Mapping[str, Any] | None,
    limits: LimitsAsked | None,
    isolation: Isolation | None,
    engine: Engine | None,
    language: Language | None,
    stream_logs: bool,
) -> Run:
    """Return a `run` request."""
    return Run(
        id=id,
        hash=reference,
        source=None if source is None else text(source),
        prompt=_whole("the prompt", prompt),
        env=NO_ENV if env is None else _env(env),
        limits=limits,
        isolation=isolation,
        engine=engine,
        language=language,
        stream_logs=stream_logs,
    )
