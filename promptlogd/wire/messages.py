"""Every message of the protocol, as msgspec tagged structs. Data only: no framing, no sockets, no clock.

Requests forbid unknown fields, so that a misspelt one is an error and not silence; replies allow them, so
that an older client can talk to a newer daemon. `docs/protocol.md` is generated from this
file, which is why it has more than 300 lines.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sandbox.outcome import LogLevel, LogLine, Outcome, Usage
from sandbox.program import Language

PROTOCOL_VERSION = 1
"""Goes up when an existing client would misunderstand the daemon; a new message or field does not count."""

Id = Annotated[int, Meta(ge=0, le=2**53 - 1)] | Annotated[str, Meta(min_length=1, max_length=64)]
"""Chosen by the client; every reply to the request carries it."""

Reference = Annotated[str, Meta(min_length=1, max_length=128)]
"""A program: its 64-digit hash, an unambiguous prefix of 8 or more digits, or @NAME."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""A movable label on a hash: letters, digits, '.', '_', '-'; 64 characters at the most."""

Hash = str
"""Lowercase hex SHA-256 of the program's bytes, 64 digits."""

Engine = Annotated[str, Meta(min_length=1, max_length=64)]
"""What runs a program: the name of an engine, `quickjs` or `deno`."""

EngineVersion = str
"""Name and version of what runs programs, with its build if promptlog made it: `quickjs-ng 0.17.0+fbb030e5add6`."""

Isolation = Literal["cell", "jail"]
"""`jail`: a brand-new nsjail for this run alone."""

Tenant = Annotated[str, Meta(min_length=1, max_length=128)]
"""One of those for whom a front works: chosen by the front."""

HostFunctions = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=64)]
"""Names of the client's functions that the program may call."""

ErrorCode = Literal[
    "bad_request",
    "not_found",
    "ambiguous",
    "too_large",
    "busy",
    "forbidden",
    "shutting_down",
    "unsupported",
    "internal",
]
"""Why a request could not be tried; see the table at the end."""

NO_ENV = msgspec.Raw(b"")
"""A run without `env`; the program sees an empty object."""

Count = Annotated[int, Meta(ge=1, le=2**53 - 1)]
"""A number of something, one or more."""


class LimitsAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits for one run; what is left out is the daemon's default. More than its maximum is refused."""

    cpu_ms: Count | None = None
    wall_ms: Count | None = None
    """Left out by a run that asks for more CPU time than the default wall time: twice its `cpu_ms`."""
    memory_bytes: Count | None = None
    result_bytes: Count | None = None
    log_bytes: Count | None = None


class _Request(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag=str.lower,
    omit_defaults=True,
):
    id: Id
    tenant: Tenant | None = None
    """For whom a front asks. Refused with `forbidden` from a client that is not a front: see `server.fronts`."""


class Submit(_Request, frozen=True, kw_only=True):
    """Keep a program. Answered by `submitted`, or by `error` bad_request with a `syntax_error` in its detail."""

    source: str
    name: Name | None = None
    """Put this label on the program, moving it if it is on another."""
    engine: Engine | None = None
    """What runs it where a run does not say. Default: deno for TypeScript, else the daemon's setting."""
    language: Language | None = None
    """What it is written in. Default: javascript."""
    replace: bool = False
    """If the program is kept already, change its engine and language to those given here, or to the defaults. Its
    names, owner, time and count of runs stay."""


class Run(_Request, frozen=True, kw_only=True):
    """Run a program once. Answered by `finished`, after one `log` a line if `stream_logs` is set."""

    hash: Reference | None = None
    source: str | None = None
    """The program itself, in place of `hash`; it is run and not kept."""
    prompt: str = ""
    env: msgspec.Raw = NO_ENV
    """A JSON object that the program sees as `env`. In MessagePack: a str that holds the JSON text."""
    engine: Engine | None = None
    """Default: the program's own; for a `source`, deno for TypeScript, else the daemon's setting."""
    language: Language | None = None
    """Of a `source`: what it is written in. Default: javascript."""
    limits: LimitsAsked | None = None
    isolation: Isolation | None = None
    """Default: the daemon's setting."""
    stream_logs: bool = False
    host_functions: HostFunctions | None = None
    """Not supported yet: refused with `unsupported`."""


class Cancel(_Request, frozen=True, kw_only=True):
    """Cancel the run whose request has the id `target`, of the same connection."""

    target: Id


class Show(_Request, frozen=True, kw_only=True):
    """Tell all about one program."""

    hash: Reference
    source: bool = False
    """Send the source as well."""


class List(_Request, frozen=True, kw_only=True):
    """List programs, newest first, one page."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(max_length=128)] | None = None
    """The `next` of the page before."""


class Remove(_Request, frozen=True, kw_only=True):
    """Remove a program and the names that are on it."""

    hash: Reference


class Label(_Request, frozen=True, kw_only=True, tag="name"):
    """Move a name to a program, or back to the one it was on before."""

    name: Name
    hash: Reference | None = None
    """Where to; left out: back to where the name was before its last move."""


class Stats(_Request, frozen=True, kw_only=True):
    """Tell what the daemon has done and what it holds."""


class Config(_Request, frozen=True, kw_only=True):
    """Tell the settings in force, and where each value came from."""


class Ping(_Request, frozen=True, kw_only=True):
    """Tell the versions."""


Request = Submit | Run | Cancel | Show | List | Remove | Label | Stats | Config | Ping


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    id: Id


class Submitted(_Reply, frozen=True, kw_only=True):
    """The program is kept, on disk."""

    hash: Hash
    created: bool
    """False: the very same program was kept already."""
    engine: Engine = "quickjs"
    """What runs it where a run does not say."""


class Log(_Reply, frozen=True, kw_only=True):
    """One console line of a run that asked for `stream_logs`, as it happens."""

    level: LogLevel
    text: str


class Finished(_Reply, frozen=True, kw_only=True):
    """The run ended; `outcome` says how."""

    hash: Hash
    """The request's own `hash` if the run was cancelled before the program was found."""
    outcome: Outcome
    logs: list[LogLine]
    """Everything logged, up to the limit; empty if it was streamed."""
    logs_truncated: bool = False
    usage: Usage
    engine_version: EngineVersion = ""
    """What the program ran on. Left out if the run was cancelled before that was known."""


class Cancelling(_Reply, frozen=True, kw_only=True):
    """Whether there was such a run. The run itself answers with `finished`, as ever."""

    found: bool


class NameChange(msgspec.Struct, frozen=True, kw_only=True):
    """A name was put on this program at this time (seconds since the epoch)."""

    hash: Hash
    at: float


class Shown(_Reply, frozen=True, kw_only=True):
    """One program. Times are seconds since the epoch; `created_by` is the client's uid."""

    hash: Hash
    size: int
    created_at: float
    created_by: int
    engine: Engine = "quickjs"
    language: Language = "javascript"
    runs: int
    last_run_at: float | None = None
    names: list[str]
    """At most 1,000, in alphabetical order."""
    more_names: int = 0
    """Number of its other names. Only programs of older state folders have more than 64 names."""
    history: dict[str, list[NameChange]] = {}
    """The newest 64 moves of each of the first 64 names, oldest first."""
    source: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list."""

    hash: Hash
    size: int
    created_at: float
    engine: Engine = "quickjs"
    runs: int
    last_run_at: float | None = None
    names: list[str]
    """At most 64, in alphabetical order. `show` has more."""
    more_names: int = 0
    """Number of its other names: see `shown`."""


class Listed(_Reply, frozen=True, kw_only=True):
    """One page of programs; `next` is there if more follow.

    A page of programs with many names has fewer programs than the request's `limit`.
    """

    programs: list[Listing]
    next: str | None = None


class Removed(_Reply, frozen=True, kw_only=True):
    """The program is gone, and the names that were on it."""

    hash: Hash
    names: list[str]
    """At most 1,000, in alphabetical order."""
    more_names: int = 0
    """Number of the other names that were on it: see `shown`."""


class Named(_Reply, frozen=True, kw_only=True):
    """The name is on `hash` now; `previous` is where it was."""

    name: str
    hash: Hash
    previous: Hash | None = None


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """Cells of one engine: how many there are, are busy, were started, and were retired."""

    engine: Engine
    size: int
    blank: int
    busy: int
    started: int
    retired: int


class StatsReply(_Reply, frozen=True, kw_only=True, tag="stats"):
    """Counts since the daemon's start; `held_by` says what holds each limit on this host."""

    uptime_s: float
    clients: int
    running: int
    queued: int
    runs: dict[str, int]
    """Finished runs by outcome kind."""
    errors: dict[str, int]
    """Error replies by code."""
    programs: int
    pools: list[PoolStats]
    held_by: dict[str, str]
    jail_uids: str = ""
    """`own: ...` where each jail has a uid of its own on the host, `shared: ...` with the reason where all have one."""
    turn_p99_ms: float = 0.0
    """99th percentile of the length of a turn of the daemon's loop. All clients wait during a turn."""
    turn_max_ms: float = 0.0
    """Length of the longest turn."""
    turn_cpu_max_ms: float = 0.0
    """Largest CPU time of one turn. Unlike the length, it does not count waiting for a core."""


class SettingInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One setting of docs/config.md, such as `limits.default.cpu_ms`."""

    name: str
    value: str
    """In force now, as JSON."""
    source: str
    """Path of the file that has it, `default`, or the option or variable that set it."""
    after_restart: str | None = None
    """The value that it has after a restart, as JSON, if that is another."""
    reload: bool = False
    """Whether a reload (SIGHUP) changes it."""


class ConfigReply(_Reply, frozen=True, kw_only=True, tag="config"):
    """The settings in force. `files`: those that were read last, in order; a later one goes over those before it."""

    files: list[str] = []
    settings: list[SettingInfo]


class Pong(_Reply, frozen=True, kw_only=True):
    """The daemon is there."""

    version: str
    protocol: int
    pid: int
    engines: dict[Engine, EngineVersion] = {}
    """The engines that run programs here."""
    disabled: list[Engine] = []
    """The engines that the configuration disables."""


class Error(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error", omit_defaults=True):
    """The request could not be tried. Without `id` where the request's could not be read."""

    id: Id | None = None
    code: ErrorCode
    message: str
    detail: dict[str, str | int | float | list[str] | None] | None = None


Reply = (
    Submitted | Log | Finished | Cancelling | Shown | Listed | Removed | Named | StatsReply | ConfigReply | Pong | Error
)
