"""All messages of the protocol, as msgspec tagged structs. Data only: no framing, no sockets, no clock.

Requests forbid unknown fields, so that a misspelt field is an error. Replies allow unknown fields, so that an older
client can talk to a newer daemon. More than 300 lines, because `docs/protocol.md` is generated from this one file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sandbox.limits import Limits
from sandbox.outcome import LogLevel, LogLine, Outcome, Usage
from sandbox.program import Language

PROTOCOL_VERSION = 1
"""Changes when an existing client would misunderstand the daemon. New messages and fields do not change it."""

Id = Annotated[int, Meta(ge=0, le=2**53 - 1)] | Annotated[str, Meta(min_length=1, max_length=64)]
"""Chosen by the client. Every reply to the request has the same id."""

Reference = Annotated[str, Meta(min_length=1, max_length=128)]
"""A program: its 64-digit hash, an unambiguous prefix of 8 or more digits, or @NAME."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""A movable name for a program: letters, digits, '.', '_', '-'; at most 64 characters."""

Hash = str
"""Lowercase hex SHA-256 of the program's bytes, 64 digits."""

Engine = Annotated[str, Meta(min_length=1, max_length=64)]
"""The name of an engine: `quickjs` or `deno`."""

EngineVersion = str
"""Name and version of an engine, with the build if promptlog built it: `quickjs-ng 0.17.0+fbb030e5add6`."""

Isolation = Literal["cell", "jail"]
"""`jail`: a new nsjail for this run."""

Tenant = Annotated[str, Meta(min_length=1, max_length=128)]
"""A user of a front (a client that sends requests on behalf of others). The front chooses the name."""

Visibility = Literal["own", "group", "all"]
"""Who sees a program or a name: its owner, also the owner's group, or every client."""

HostFunctions = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=64)]
"""Names of functions of the client that the program may call."""

ErrorCode = Literal[
    "bad_request",
    "not_found",
    "ambiguous",
    "too_large",
    "busy",
    "quota",
    "forbidden",
    "shutting_down",
    "unsupported",
    "internal",
]
"""Why the daemon refused a request. See the table at the end."""

NO_ENV = msgspec.Raw(b"")
"""The `env` of a run without one. The program receives an empty object."""

Count = Annotated[int, Meta(ge=1, le=2**53 - 1)]
"""An integer of at least 1."""


class LimitsAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits for one run. Omitted limits have the daemon's default. A limit above the daemon's maximum is refused."""

    cpu_ms: Count | None = None
    wall_ms: Count | None = None
    """Default: the daemon's default; but twice `cpu_ms` if `cpu_ms` is at least the daemon's default wall time."""
    memory_bytes: Count | None = None
    result_bytes: Count | None = None
    """Size of the result's JSON in UTF-8."""
    log_bytes: Count | None = None
    """Size of all console lines: their texts in UTF-8, and 16 bytes for each line."""


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
    """The tenant of a front. Only fronts may set it (`server.fronts`); other clients get the error `forbidden`."""
    manage: bool = False
    """With `tenant`: whether the front gives the tenant the right `manage`. docs/access.md says what that covers."""


class Submit(_Request, frozen=True, kw_only=True):
    """Store a program. For a syntax error, the reply is an `error` with code `bad_request`. Its `detail` has the
    message (`syntax_error`), `line` and `column`."""

    source: str
    name: Name | None = None
    """Give this name to the program. If another program has the name, the name moves."""
    move: bool = True
    """False: if another program has `name`, refuse the request with `bad_request`. `detail.on` is the hash of that
    program."""
    engine: Engine | None = None
    """The engine for runs that do not name one. Default: deno for TypeScript, otherwise the daemon's setting."""
    language: Language | None = None
    """The language of the source. Default: javascript."""
    replace: bool = False
    """If the program is already stored, change its engine and language to those given here, or to the defaults. Its
    names, owners, time and number of runs stay."""
    visibility: Visibility | None = None
    """Who sees the program and the name. Default: unchanged if this client has already stored the program, otherwise
    the setting `store.visibility`."""


class Run(_Request, frozen=True, kw_only=True):
    """Run a program once. The request has either `hash` or `source`. With `stream_logs`, each console line is a `log`
    reply before `finished`."""

    hash: Reference | None = None
    """The stored program to run."""
    source: str | None = None
    """The text of a program to run. It is not stored."""
    prompt: str = ""
    env: msgspec.Raw = NO_ENV
    """A JSON object that the program can use as `env`. In MessagePack: a str that contains the JSON text."""
    engine: Engine | None = None
    """Default: the stored program's engine. For a `source`: deno for TypeScript, otherwise the daemon's setting."""
    language: Language | None = None
    """The language of `source`. Default: javascript."""
    limits: LimitsAsked | None = None
    isolation: Isolation | None = None
    """Default: the daemon's setting."""
    stream_logs: bool = False
    host_functions: HostFunctions | None = None
    """Not supported yet: refused with `unsupported`."""


class Cancel(_Request, frozen=True, kw_only=True):
    """Cancel the run that was requested on this connection with the id `target`."""

    target: Id


class Show(_Request, frozen=True, kw_only=True):
    """Describe one program."""

    hash: Reference
    source: bool = False
    """Whether the reply has the source."""


class List(_Request, frozen=True, kw_only=True):
    """List one page of programs, newest first. A page may have fewer programs than `limit`, even none. Only the last
    page has no `next`."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(max_length=128)] | None = None
    """The `next` of the previous page."""


class Remove(_Request, frozen=True, kw_only=True):
    """Remove a program and its names. If other clients have also stored the program, and this client does not have the
    right `manage`, the program stays. Then this client is no longer one of its `holders`, and loses its names on it."""

    hash: Reference


class Label(_Request, frozen=True, kw_only=True, tag="name"):
    """Give a name to a program, or move it back to its previous program."""

    name: Name
    hash: Reference | None = None
    """The program. If omitted, the last move of the name is undone."""
    visibility: Visibility | None = None
    """Who sees the name. Default: unchanged, or for a new name the setting `store.visibility`."""


class Stats(_Request, frozen=True, kw_only=True):
    """Return the daemon's counters."""


class Config(_Request, frozen=True, kw_only=True):
    """Return the settings in force, and where each value came from."""


class Ping(_Request, frozen=True, kw_only=True):
    """Return the versions of the daemon and its engines."""


EntryKind = Literal["run", "submit", "remove", "name", "refused"]
"""The kind of an event in the journal. `name`: a name was moved, or removed with its program. `refused`: a request was
refused."""


class ReadJournal(_Request, frozen=True, kw_only=True, tag="journal"):
    """Return one page of the journal, newest entries first. A client sees the entries of its own uid. Root and the
    daemon's user see all entries."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    before: Count | None = None
    """Only entries that are older than this one: the `next` of the previous page."""
    after: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    """Only entries that are newer than this one, oldest first. For clients that follow the journal."""
    hash: Reference | None = None
    """Only entries of this program. The program may have been removed."""
    failed: bool = False
    """Only runs with another outcome than `ok`, and refused requests."""
    since: Annotated[float, Meta(ge=0)] | None = None
    """Only entries from this time on, in seconds since the epoch."""
    entry: Count | None = None
    """Return only this entry, with the texts that the daemon stored of it (`journal.keep`)."""


class JournalStats(_Request, frozen=True, kw_only=True, tag="journal_stats"):
    """Return sums of the runs in the journal, by program and engine."""

    hash: Reference | None = None
    """Only runs of this program."""
    since: Annotated[float, Meta(ge=0)] | None = None
    """Only runs from this time on, in seconds since the epoch."""


class Collect(_Request, frozen=True, kw_only=True, tag="gc"):
    """Remove unused programs that have no name, one page at a time, the longest unused first. Requires the right
    `manage`. The request must have `unused_s` or `over_bytes`. With both, a program must meet both conditions."""

    unused_s: Annotated[float, Meta(ge=0)] | None = None
    """Only programs that were neither submitted nor run for this number of seconds."""
    over_bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    """Stop when all programs and `damaged/` together take at most this number of bytes on disk."""
    dry_run: bool = False
    """Remove nothing. The reply lists what would be removed."""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(max_length=160)] | None = None
    """The `next` of the previous page."""


class Verify(_Request, frozen=True, kw_only=True):
    """Read and verify programs and their artifacts, one page at a time, in the order of their hashes. Requires the
    right `manage`."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, Meta(max_length=64)] | None = None
    """The `next` of the previous page."""


class Backup(_Request, frozen=True, kw_only=True):
    """Write a copy of the state folder while the daemon runs. Only root and the daemon's user may send this request.
    The copy is a state folder, with all programs and names that were stored when the request was sent."""

    folder: Annotated[str, Meta(min_length=1, max_length=4000)]
    """Absolute path of an empty folder. It must belong to the daemon's user, and nobody else may write to it."""


Request = (
    Submit
    | Run
    | Cancel
    | Show
    | List
    | Remove
    | Label
    | Stats
    | Config
    | Ping
    | ReadJournal
    | JournalStats
    | Collect
    | Verify
    | Backup
)


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, omit_defaults=True):
    id: Id


class Submitted(_Reply, frozen=True, kw_only=True):
    """The program is stored on disk."""

    hash: Hash
    created: bool
    """False if the same program was already stored, and the client could see it."""
    engine: Engine = "quickjs"
    """The engine for runs that do not name one."""
    moved_from: Hash | None = None
    """The program that had `name` before, if another program had it."""


class Log(_Reply, frozen=True, kw_only=True):
    """One console line of a run with `stream_logs`, sent while the program runs."""

    level: LogLevel
    text: str


class Finished(_Reply, frozen=True, kw_only=True):
    """The run has ended."""

    hash: Hash
    """The hash of the program. If the run was cancelled before the program was found: `hash` of the request."""
    outcome: Outcome
    logs: list[LogLine]
    """The console lines, up to the limit. Empty with `stream_logs`."""
    logs_truncated: bool = False
    usage: Usage
    engine_version: EngineVersion = ""
    """The engine that ran the program. Omitted if the run was cancelled before that was known."""
    limits: Limits | None = None
    """The limits that were in force. Omitted if the run did not begin."""


class Cancelling(_Reply, frozen=True, kw_only=True):
    """The reply to `cancel`. The reply to the run itself is still `finished`."""

    found: bool
    """Whether such a run was in progress or waiting."""


class NameChange(msgspec.Struct, frozen=True, kw_only=True):
    """A name was moved to this program at this time (seconds since the epoch)."""

    hash: Hash
    at: float


class HolderInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user or tenant that has stored a program, and has not removed it since."""

    uid: int
    tenant: Tenant | None = None
    visibility: Visibility
    at: float
    """Time at which it first stored the program, in seconds since the epoch."""


class Shown(_Reply, frozen=True, kw_only=True):
    """One program. Times are seconds since the epoch."""

    hash: Hash
    size: int
    """Size of the source in bytes."""
    created_at: float
    created_by: int
    """Uid of the client that first stored the program, of those that this client sees ([access.md](access.md))."""
    engine: Engine = "quickjs"
    language: Language = "javascript"
    runs: int
    """Number of finished runs that count for holders that this client sees ([access.md](access.md))."""
    last_run_at: float | None = None
    names: list[str]
    """At most 1,000, in alphabetical order."""
    more_names: int = 0
    """Number of names that are omitted. Only programs from older state folders can have more than 64 names."""
    history: dict[str, list[NameChange]] = {}
    """The newest 64 moves of each of the first 64 names, oldest first."""
    holders: list[HolderInfo] = []
    """The users and tenants that have stored the program. A client without the right `manage` sees only itself; the
    user of a front also sees its tenants."""
    source: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One program in a list."""

    hash: Hash
    size: int
    """Size of the source in bytes."""
    created_at: float
    engine: Engine = "quickjs"
    runs: int
    last_run_at: float | None = None
    names: list[str]
    """At most 64, in alphabetical order. `show` returns more."""
    more_names: int = 0
    """Number of names that are omitted: see `shown`."""
    visibility: Visibility | None = None
    """The visibility that this client has given to the program. Omitted if it has not stored the program."""


class Listed(_Reply, frozen=True, kw_only=True):
    """One page of programs. It may have fewer programs than the request's `limit`."""

    programs: list[Listing]
    next: str | None = None
    """The cursor of the next page. Omitted on the last page."""


class Removed(_Reply, frozen=True, kw_only=True):
    """The program and its names were removed."""

    hash: Hash
    names: list[str]
    """At most 1,000, in alphabetical order."""
    more_names: int = 0
    """Number of removed names that are omitted: see `shown`."""


class Named(_Reply, frozen=True, kw_only=True):
    """The name now refers to `hash`. `previous` is the program to which it referred before."""

    name: str
    hash: Hash
    previous: Hash | None = None


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of one engine. A cell is a jailed engine process that executes one run at a time."""

    engine: Engine
    size: int
    """Number of cells now."""
    blank: int
    """Number of cells that wait for a run."""
    busy: int
    """Number of cells that execute a run."""
    started: int
    """Number of cells that were started since the daemon's start."""
    retired: int
    """Number of cells that were replaced since the daemon's start."""


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in buckets, since the daemon's start."""

    bounds_ms: list[float]
    """Upper bounds of the buckets, ascending."""
    counts: list[int]
    """Number of durations in each bucket. There is one more bucket than bounds: the last bucket has no upper bound."""
    sum_ms: float
    """Sum of all durations."""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """The finished runs of one engine. `engine` is `unknown` for runs that were cancelled before their program was
    found."""

    engine: Engine
    runs: dict[str, int]
    """Finished runs by outcome kind."""
    cpu: Histogram
    """CPU time of the runs that were started."""
    wall: Histogram
    """Wall time of the same runs, without the time in the queue."""


class JournalCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Size of the journal."""

    rows: int
    """Number of entries."""
    bytes: int
    waiting: int
    """Number of entries that wait to be written."""
    lost: int
    """Number of entries since the daemon's start that could not be written."""


class StatsReply(_Reply, frozen=True, kw_only=True, tag="stats"):
    """The daemon's counters, since its start."""

    uptime_s: float
    clients: int
    """Number of connections."""
    running: int
    """Number of runs in progress."""
    queued: int
    """Number of runs that wait for a slot."""
    runs: dict[str, int]
    """Finished runs by outcome kind."""
    errors: dict[str, int]
    """Error replies by code."""
    programs: int
    """Number of stored programs."""
    pools: list[PoolStats]
    held_by: dict[str, str]
    """What enforces each limit on this host."""
    jail_uids: str = ""
    """`own: ...` if each jail has its own uid on the host. `shared: ...`, with the reason, if all jails share one."""
    cgroup: str = ""
    """`version N: ...` with the controllers and the folders, if each jail has its own cgroup. `none: ...`, with the
    reason, if not."""
    turn_p99_ms: float = 0.0
    """99th percentile of the duration of one turn of the daemon's event loop. All clients wait during a turn."""
    turn_max_ms: float = 0.0
    """Duration of the longest turn."""
    turn_cpu_max_ms: float = 0.0
    """Largest CPU time of one turn. Unlike the duration, it does not include waiting for a core."""
    turns: Histogram | None = None
    """Duration of all turns."""
    engines: list[EngineStats] = []
    """Finished runs by engine. An engine without runs is omitted."""
    program_bytes: int = 0
    """Size of the sources of all stored programs."""
    journal: JournalCounts | None = None
    """Omitted if there is no journal."""
    max_clients: int = 0
    """`server.max_clients` of the configuration."""
    max_running: int = 0
    """Number of slots: see `scheduler.concurrent`."""
    max_queued: int = 0
    """`scheduler.queue` of the configuration."""
    quotas: dict[str, int] = {}
    """Error replies with the code `quota`, by the quota that was used up (`detail.quota`)."""
    store_bytes: int | None = None
    """Disk space that counts for `store.max_mb`. Omitted without this setting."""
    max_store_bytes: int | None = None
    """`store.max_mb` in bytes."""


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the journal. Fields that do not apply are omitted."""

    id: int
    """Newer entries have larger ids."""
    at: float
    """Seconds since the epoch."""
    kind: EntryKind
    uid: int
    outcome: str
    """For a run: the kind of its outcome. For a refused request: the error code. Otherwise: what was done."""
    tenant: Tenant | None = None
    hash: Hash | None = None
    name: str | None = None
    """The name that the run or the submit used, or that was moved or removed."""
    engine: Engine | None = None
    line: int | None = None
    """Position in the program at which the run failed."""
    column: int | None = None
    cpu_ms: float | None = None
    wall_ms: float | None = None
    memory_bytes: int | None = None
    prompt_bytes: int | None = None
    result_bytes: int | None = None
    console_lines: int | None = None
    prompt_digest: str | None = None
    """Equal prompts have equal digests. The digest has a secret key, so it cannot be used to test guesses."""
    count: int = 1
    """For refused requests: their number within one second."""
    content: dict[str, str] | None = None
    """With `entry`: the texts that `journal.keep` selects."""


class Entries(_Reply, frozen=True, kw_only=True):
    """One page of the journal."""

    entries: list[JournalEntry]
    next: int | None = None
    """The cursor of the next page. Omitted on the last page."""


class JournalSum(msgspec.Struct, frozen=True):
    """The runs of one program on one engine."""

    hash: Hash
    """Empty for runs that were cancelled before their program was found."""
    engine: str
    """Empty for the same runs."""
    runs: int
    failed: int
    """Number of runs with another outcome than `ok`."""
    cpu_ms: float
    """CPU time of all runs together."""
    cpu_max_ms: float
    wall_mean_ms: float
    memory_max_bytes: int
    last_at: float


class JournalSums(_Reply, frozen=True, kw_only=True, tag="journal_sums"):
    """The sums of at most 1,000 programs, in descending order of CPU time."""

    programs: list[JournalSum]


class SettingInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One setting of docs/config.md, such as `limits.default.cpu_ms`."""

    name: str
    value: str
    """The value in force, as JSON."""
    source: str
    """Origin of the value: the path of a configuration file, an option, an environment variable, or `default`."""
    after_restart: str | None = None
    """The value after a restart of the daemon, as JSON, if it differs."""
    reload: bool = False
    """Whether a reload (SIGHUP) changes it."""


class ConfigReply(_Reply, frozen=True, kw_only=True, tag="config"):
    """The settings in force."""

    files: list[str] = []
    """The configuration files that were read last, in this order. A later file overrides earlier ones."""
    settings: list[SettingInfo]


class CollectedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was removed."""

    hash: Hash
    size: int
    """Its disk space in bytes."""
    used_at: float
    """Time at which it was last run or submitted, in seconds since the epoch."""


class Collected(_Reply, frozen=True, kw_only=True):
    """One page of removed programs."""

    programs: list[CollectedProgram]
    store_bytes: int
    """Disk space of all remaining programs and of `damaged/`."""
    next: str | None = None
    """The cursor of the next page. Omitted on the last page."""


class DamagedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a program that does not verify."""

    hash: Hash
    part: Literal["program", "metadata", "artifact"]
    """A damaged program was moved to `damaged/`. The daemon creates metadata and artifacts again when it needs them."""
    why: str


class Verified(_Reply, frozen=True, kw_only=True):
    """One page of verified programs."""

    programs: int
    """Number of programs that were read, damaged ones included."""
    artifacts: int
    bytes: int
    """Number of bytes that were read."""
    damaged: list[DamagedPart]
    next: str | None = None
    """The cursor of the next page. Omitted on the last page."""


class BackedUp(_Reply, frozen=True, kw_only=True, tag="backed_up"):
    """The copy is complete, and on disk."""

    programs: int
    linked: int
    """Number of files that are hard links. If the folder is on the same file system, most are."""
    copied: int
    """Number of files that were copied."""


class Pong(_Reply, frozen=True, kw_only=True):
    """The versions of the daemon and its engines."""

    version: str
    protocol: int
    pid: int
    engines: dict[Engine, EngineVersion] = {}
    """The available engines."""
    disabled: list[Engine] = []
    """The engines that the configuration disables."""


class Error(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error", omit_defaults=True):
    """The daemon refused the request, or could not read it. `id` is omitted if the daemon could not read the id."""

    id: Id | None = None
    code: ErrorCode
    message: str
    """For people. It may change."""
    detail: dict[str, str | int | float | list[str] | None] | None = None
    """Further facts, for programs."""


Reply = (
    Submitted
    | Log
    | Finished
    | Cancelling
    | Shown
    | Listed
    | Removed
    | Named
    | StatsReply
    | Entries
    | JournalSums
    | ConfigReply
    | Collected
    | Verified
    | BackedUp
    | Pong
    | Error
)
