"""The options of `submit` and of runs, and building requests from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import msgspec
from msgspec import structs

from promptlogctl.client.errors import RequestRefused
from promptlogd.wire import MAX_FRAME_BYTES, ClientSession
from promptlogd.wire.framing import HEADER_BYTES
from promptlogd.wire.messages import NO_ENV, Engine, Error, Id, Isolation, LimitsAsked, Request, Run, Submit, Visibility
from sandbox.outcome import LogLine
from sandbox.program import Language

OnLog = Callable[[LogLine], None]

JOURNAL_PAGE = 100
"""Maximum number of entries of the journal that the clients request at once."""

_WRONG_TYPE = re.compile(r"Expected `(?P<right>.+)`, got `(?P<wrong>.+)` - at `\$\.(?P<field>.+)`")


class RequestOptions(TypedDict, total=False):
    """Options of every request of the asynchronous client. All are optional; None means the default."""

    tenant: str | None
    """The tenant of a front. The daemon accepts it only from fronts: see `server.fronts` in its configuration."""


class SubmitOptions(RequestOptions, total=False):
    """Options of `submit`. All are optional; None means the default."""

    name: str | None
    """Give this name to the program."""
    move: bool | None
    """False: raise RequestRefused if the name is on another program. Default: move it."""
    engine: Engine | None
    """The engine for runs that do not name one. Default: deno for TypeScript, otherwise the daemon's setting."""
    language: Language | None
    """The language of the source. Default: javascript. TypeScript needs deno."""
    visibility: Visibility | None
    """Who sees the program and the name. Default: as before if you have stored it, else the daemon's setting."""
    replace: bool | None
    """If the program is already stored, change its engine and language to those given here, or to the defaults."""


class RunOptions(RequestOptions, total=False):
    """Options of every method that runs a program. All are optional; None means the default."""

    env: Mapping[str, Any] | None
    """A JSON object that the program can use as `env`."""
    limits: LimitsAsked | None
    """Limits for this run. Default: the daemon's settings."""
    isolation: Isolation | None
    """`jail`: use a new nsjail for this run. Default: the daemon's setting."""
    engine: Engine | None
    """Default: the stored program's engine. For a source: deno for TypeScript, otherwise the daemon's setting."""
    on_log: OnLog | None
    """Called with each console line as it arrives. The result then has no lines."""


class SourceOptions(RunOptions, total=False):
    """Options of the methods that can also run a source without storing it."""

    language: Language | None
    """The language of the source. Default: javascript."""


def check_options(method: str, allowed: type, given: Mapping[str, object]) -> None:
    """Raise TypeError for an unknown option, with the same message as Python.

    `Unpack` declares keyword arguments only to type checkers. Without this check, a misspelt one would be ignored.
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
        move=True if (move := options.get("move")) is None else move,
        engine=options.get("engine"),
        language=options.get("language"),
        replace=False if (replace := options.get("replace")) is None else replace,
        visibility=options.get("visibility"),
        tenant=options.get("tenant"),
    )


def run_request(id: Id, reference: str | None, source: str | bytes | None, prompt: str, options: SourceOptions) -> Run:
    """Return a `run` request. Raises TypeError unless there is either a reference or a source."""
    env, limits, on_log = options.get("env"), options.get("limits"), options.get("on_log")
    if (reference is None) == (source is None):
        raise TypeError("a run needs either a stored program or a source")
    if limits is not None and not isinstance(limits, LimitsAsked):
        raise TypeError(f"`limits` must be LimitsAsked, not {type(limits).__name__}")
    if on_log is not None and not callable(on_log):
        raise TypeError(f"`on_log` must be a function, not {type(on_log).__name__}")
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
        stream_logs=on_log is not None,
        tenant=options.get("tenant"),
    )


def encoded(session: ClientSession, request: Request, *, checked: bool = False) -> bytes:
    """Return a request's bytes. `checked`: the types of its fields are known to be right.

    Raises TypeError for a field of a wrong type, ValueError for an integer or a text that has no encoding, and
    RequestRefused if the request exceeds the maximum size of a message: the daemon would then close the connection,
    which others share.
    """
    if not checked:
        _check_types(request)
    try:
        data = session.send(request)
    except OverflowError as error:
        raise ValueError(f"an integer is too large: {error}") from None
    if len(data) - HEADER_BYTES > MAX_FRAME_BYTES:
        message = f"the request has {len(data)} bytes, the maximum for a message is {MAX_FRAME_BYTES}"
        raise RequestRefused(Error(id=request.id, code="too_large", message=message))
    return data


def _check_types(request: Request) -> None:
    """Raise TypeError if a field does not have the type that the protocol requires.

    The daemon checks the values, because a newer daemon may accept more values.
    """
    fields = structs.asdict(request)
    if isinstance(request, Run) and request.limits is not None:
        fields["limits"] = structs.asdict(request.limits)
    try:
        msgspec.convert(fields, type(request))
    except msgspec.ValidationError as error:
        if (found := _WRONG_TYPE.fullmatch(str(error))) is not None:
            raise TypeError(f"`{found['field']}` must be {found['right']}, not {found['wrong']}") from None


def _text(source: str | bytes) -> str:
    """Return a source as a str. Raises ValueError, which names the byte, if it is not UTF-8."""
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
        raise ValueError(f"{what} has a lone surrogate at {error.start}, which is not valid text") from None
    return value


def _env(env: Mapping[str, Any]) -> msgspec.Raw:
    """Return an env as JSON. Raises TypeError or ValueError for values that JSON does not have, such as sets and
    NaN."""
    if not isinstance(env, Mapping):
        raise TypeError(f"`env` must be a mapping (a JSON object), not {type(env).__name__}")
    try:
        given = json.dumps(dict(env), allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise TypeError(f"`env` must be a JSON object: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`env` must be a JSON object: {error}") from None
    return msgspec.Raw(_whole("`env`", given).encode())
