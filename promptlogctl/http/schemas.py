"""The JSON objects of requests and responses."""

from __future__ import annotations

import msgspec

from promptlogctl.client import Engine, Isolation, Language, LimitsAsked
from promptlogd.wire.messages import NO_ENV, Listing, Name, NameChange, Visibility


class _Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class RunBody(_Given, frozen=True, kw_only=True):
    """How to run a stored program."""

    prompt: str = ""
    env: msgspec.Raw = msgspec.field(default_factory=lambda: NO_ENV)
    """A JSON object that the program can use as `env`."""
    engine: Engine | None = None
    """Default: the program's own."""
    isolation: Isolation | None = None
    """`jail`: use a new jail for this run."""
    limits: LimitsAsked | None = None
    """Default: the daemon's settings."""


class ExecBody(RunBody, frozen=True, kw_only=True):
    """A program to run without storing it."""

    code: str
    language: Language | None = None
    """Default: javascript."""


class SubmitBody(_Given, frozen=True, kw_only=True):
    """A program to store."""

    code: str
    name: Name | None = None
    """Give this name to the program. Taking the name from another program requires the right `manage`."""
    engine: Engine | None = None
    """The engine for runs that do not name one. Default: deno for TypeScript, otherwise the daemon's setting."""
    language: Language | None = None
    """Default: javascript."""
    visibility: Visibility | None = None
    """Who sees the program and the name. Default: as before if you have stored it, else the daemon's setting."""


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored program."""

    hash: str
    """64 hexadecimal digits."""
    url: str
    """The path that runs it."""
    moved_from: str | None = None
    """The program that the name was on before, if it was on another."""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The program threw, or returned no result."""

    error: str
    """The message."""


class ProgramAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One program. Times are seconds since the epoch."""

    hash: str
    size: int
    created_at: float
    engine: str
    language: str
    runs: int
    last_run_at: float | None = None
    names: list[str]
    history: dict[str, list[NameChange]]
    """Moves of its names, oldest first."""
    code: str | None = None
    """The program itself, if `?code=1` asked for it."""


class ListAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of programs, newest first."""

    programs: list[Listing]
    next: str | None = None
    """The `after` of the next page. Omitted on the last page."""


class RemovedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A removed program and its names."""

    hash: str
    names: list[str]
