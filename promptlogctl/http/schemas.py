"""The JSON objects of requests and responses."""

from __future__ import annotations

import msgspec

from promptlogctl.client import Engine, Isolation, Language, LimitsAsked
from promptlogd.wire.messages import NO_ENV, Listing, Name, NameChange


class _Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class RunBody(_Given, frozen=True, kw_only=True):
    """How to run a kept program."""

    prompt: str = ""
    env: msgspec.Raw = msgspec.field(default_factory=lambda: NO_ENV)
    """A JSON object that the program sees as `env`."""
    engine: Engine | None = None
    """Default: the program's own."""
    isolation: Isolation | None = None
    """`jail`: a new jail for this run alone."""
    limits: LimitsAsked | None = None
    """Default: the daemon's settings."""


class ExecBody(RunBody, frozen=True, kw_only=True):
    """A program to run once, and not to keep."""

    code: str
    language: Language | None = None
    """Default: javascript."""


class SubmitBody(_Given, frozen=True, kw_only=True):
    """A program to keep."""

    code: str
    name: Name | None = None
    """Put this name on it. To take the name from another program needs the right `manage`."""
    engine: Engine | None = None
    """What runs it where a run does not say. Default: deno for TypeScript, else the daemon's setting."""
    language: Language | None = None
    """Default: javascript."""


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that is kept."""

    hash: str
    """64 hex digits."""
    url: str
    """The path that runs it."""
    moved_from: str | None = None
    """The program that the name was on before, if it was on another."""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The program's own error: it threw, or gave no result."""

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
    """The `after` of the next page. Left out on the last page."""


class RemovedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was removed, and the names that were on it."""

    hash: str
    names: list[str]
