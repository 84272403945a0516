"""What is asked of the daemon: the options of `submit` and of runs, written once, and the requests made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import msgspec

from promptlogctl.client.errors import RequestRefused
from promptlogd.wire import MAX_FRAME_BYTES, ClientSession
from promptlogd.wire.framing import HEADER_BYTES
from promptlogd.wire.messages import NO_ENV, Engine, Error, Id, Isolation, LimitsAsked, Request, Run, Submit
from sandbox.outcome import LogLine
from sandbox.program import Language

OnLog = Callable[[LogLine], None]


class RequestOptions(TypedDict, total=False):
    """Options of every request of the asynchronous client. Each may be left out; None is the same."""

    tenant: str | None
    """For whom a front asks. The daemon takes it from a front alone: see `server.fronts` in its configuration."""


class SubmitOptions(RequestOptions, total=False):
    """Options of `submit`. Each may be left out; None is the same."""

    name: str | None
    """Put this name on the program."""
    move: bool | None
    """False: raise RequestRefused if the name is on another program. Default: move it."""
    engine: Engine | None
    """The engine for runs that name none. Default: deno for TypeScript, else the daemon's setting."""
    language: Language | None
    """What the source is written in. Default: javascript. TypeScript needs deno."""
    replace: bool | None
    """If the program is kept already, change its engine and language to those given here, or to the defaults."""


class RunOptions(RequestOptions, total=False):
    """Options of every method that runs a program. Each may be left out; None is the same."""

    env: Mapping[str, Any] | None
    """A JSON object that the program sees as `env`."""
    limits: LimitsAsked | None
    """Limits for this run. Default: the daemon's settings."""
    isolation: Isolation | None
    """`jail`: a new nsjail for this run alone. Default: the daemon's setting."""
    engine: Engine | None
    """Default: the program's own. For a source: deno for TypeScript, else the daemon's setting."""
    on_log: OnLog | None
    """Called with each console line as it comes. The result has no lines then."""


class SourceOptions(RunOptions, total=False):
    """Options of the methods that also run a source that is not kept."""

    language: Language | None
    """What the source is written in. Default: javascript."""


def check_options(method: str, allowed: type, given: Mapping[str, object]) -> None:
    """Raise TypeError for an option that a method does not have, with Python's own words.

    `Unpack` declares keyword arguments to type checkers alone. Without this check a misspelt one would be ignored.
    """
    for name in given:
        if name not in allowed.__annotations__:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def submit_request(id: Id, source: str | bytes, options: SubmitOptions) -> Submit:
    """Return a `submit` request."""
    return Submit(
        id=id,
        source=_text(source),
        name=options.get("name"),
        move=options.get("move") is not False,
        engine=options.get("engine"),
        language=options.get("language"),
        replace=options.get("replace") or False,
        tenant=options.get("tenant"),
    )


def run_request(id: Id, reference: str | None, source: str | bytes | None, prompt: str, options: SourceOptions) -> Run:
    """Return a `run` request."""
    env, limits = options.get("env"), options.get("limits")
    if limits is not None and not isinstance(limits, LimitsAsked):
        raise TypeError(f"`limits` must be LimitsAsked, not {type(limits).__name__}")
    return Run(
        id=id,
        hash=reference,
        source=None if source is None else _text(source),
        prompt=_whole("the prompt", prompt),
        env=NO_ENV if env is None else _env(env),
        limits=limits,
        isolation=options.get("isolation"),
        engine=options.get("engine"),
        language=options.get("language"),
        stream_logs=options.get("on_log") is not None,
        tenant=options.get("tenant"),
    )


def encoded(session: ClientSession, request: Request) -> bytes:
    """Return a request's bytes. Raises RequestRefused for one that no message may be as large as.

    The daemon would refuse it too, and end the connection that others share.
    """
    data = session.send(request)
    if len(data) - HEADER_BYTES > MAX_FRAME_BYTES:
        message = f"the request has {len(data)} bytes, and a message may have {MAX_FRAME_BYTES}"
        raise RequestRefused(Error(id=request.id, code="too_large", message=message))
    return data


def _text(source: str | bytes) -> str:
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
    if not isinstance(value, str):
        raise TypeError(f"{what} is str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has half of a surrogate pair at {error.start}, which is no text") from None
    return value


def _env(env: Mapping[str, Any]) -> msgspec.Raw:
    """Return an env as JSON. Raises TypeError or ValueError for what JSON does not have: sets, NaN."""
    if not isinstance(env, Mapping):
        raise TypeError(f"`env` must be a mapping, which is a JSON object then, not {type(env).__name__}")
    try:
        given = json.dumps(dict(env), allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise TypeError(f"`env` must be a JSON object: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`env` must be a JSON object: {error}") from None
    return msgspec.Raw(_whole("`env`", given).encode())
