"""The daemon's settings: a table of a TOML file becomes one frozen record. Every value has a default and a bound.

More than 300 lines, because the reference (docs/config.md) is generated from this one file.
"""

from __future__ import annotations

import difflib
import os
import pwd
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from promptlogd.wire import TextBounds
from promptlogd.wire.messages import LimitsAsked
from sandbox.engines import ENGINES
from sandbox.limits import MIB, Limits
from sandbox.program import Engine

_FIRST_ID, _END_ID = 65536, 2**32 - 2
"""Range of ids for jails. Lower ids belong to users, services and nobody. The last two mean "no id" to the kernel."""

DEFAULT_ENGINE = next(iter(ENGINES))


class ConfigError(Exception):
    """The configuration is invalid."""


_SETTING_OF = {"memory_bytes": "memory_mb", "result_bytes": "result_kb", "log_bytes": "log_kb"}
"""The setting for a field of `Limits`, where their names differ."""


class LimitsError(Exception):
    """A run asked for a limit above the maximum or below the minimum."""

    def __init__(self, field: str, asked: int, bound: int, word: str, *, by_quota: bool = False) -> None:
        """`by_quota`: the bound is the client's quota, and not that of all clients."""
        unit = f" ({bound / MIB:g} MiB)" if field == "memory_bytes" else ""
        why = f", by the quota max_{_SETTING_OF.get(field, field)}" if by_quota else ""
        super().__init__(f"limits.{field} is {asked}, the {word} is {bound}{unit}{why}")
        self.field = field
        self.asked = asked
        self.bound = bound


Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
User = Annotated[int, Meta(ge=0, lt=2**32)] | Annotated[str, Meta(min_length=1, max_length=256)]
Members = Annotated[tuple[User, ...], Meta(max_length=1000)]
"""Users by uid or name, groups as "@GROUP" by id or name, "*" for everyone."""
AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\x00]*$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True, kw_only=True):
    """The socket, the state folder, and limits on clients."""

    socket: AbsolutePath | None = None
    """Absolute path of the socket. `--socket` and $PROMPTLOG_SOCKET override it. Default: see docs/daemon.md."""
    state_dir: AbsolutePath | None = None
    """Absolute path of the state folder. `--state-dir` overrides it. Default: see docs/daemon.md."""
    socket_mode: Annotated[str, Meta(pattern="^0?[67][067]0$")] = "0600"
    """Permissions of the socket, octal: "0600" for the daemon's user, "0660" for a group as well (docs/security.md says
    which group). Other users cannot connect. `rights` says what clients may do."""
    socket_group: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """Name or id of a group whose members may connect. The socket gets this group, and at least mode "0660"."""
    max_clients: Annotated[int, Meta(ge=1, le=100_000)] = 12_000
    """Maximum number of connections. Further ones are closed. One process may have seven eighths of them."""
    max_pipelined: Annotated[int, Meta(ge=1, le=10_000)] = 128
    """Requests of one connection that are processed at the same time. Up to 8 MiB of further requests wait."""
    stall_s: Seconds = 10.0
    """A connection is closed if the rest of a frame does not arrive within this time. It is also closed if its client
    does not read replies: within this time it must read three quarters of the socket buffer (about 150 KiB), or all
    that is in it."""
    drain_s: Seconds = 5.0
    """Time that running requests may take to finish after SIGTERM."""
    fronts: Annotated[list[User], Meta(max_length=1000)] = []
    """Users, by uid or by name, whose processes may name a `tenant` in a request. The daemon's own user always may."""

    @property
    def effective_socket_mode(self) -> int:
        """`socket_mode`, with access for the group if `socket_group` is set."""
        return int(self.socket_mode, 8) | (0o060 if self.socket_group is not None else 0)


class RunLimits(_Section, frozen=True, kw_only=True):
    """Limits of a run. `limits.default` has the limits of a run that asks for none. `limits.max` has the maxima."""

    cpu_ms: Annotated[int, Meta(ge=1, le=600_000)] = 50
    """CPU time in ms."""
    wall_ms: Annotated[int, Meta(ge=1, le=600_000)] = 1000
    """Wall time in ms."""
    memory_mb: Annotated[int, Meta(ge=8, le=4096)] = 128
    """Memory in MiB. QuickJS: address space. Deno: resident memory, or data size without a cgroup; the minimum for Deno
    is 64, also for the default."""
    result_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """Size of the result's JSON, in KiB."""
    log_kb: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Size of all console lines, in KiB: their texts in UTF-8, and 16 bytes for each line. Further output is dropped,
    and the result has `logs_truncated`."""

    def limits(self) -> Limits:
        """Return these limits in the units of the sandbox."""
        return Limits(
            cpu_ms=self.cpu_ms,
            wall_ms=self.wall_ms,
            memory_bytes=self.memory_mb * MIB,
            result_bytes=self.result_kb * 1024,
            log_bytes=self.log_kb * 1024,
        )


class Bounds(_Section, frozen=True, kw_only=True):
    """Limits of runs and of their inputs."""

    default: RunLimits = RunLimits()
    """Limits of a run that does not ask for others."""
    max: RunLimits = RunLimits(cpu_ms=10_000, wall_ms=30_000, memory_mb=512, result_kb=4096, log_kb=1024)
    """Maximum that a run may ask for."""
    source_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """Maximum size of a program, in KiB."""
    prompt_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """Maximum size of a prompt, in KiB."""
    env_kb: Annotated[int, Meta(ge=1, le=1024)] = 256
    """Maximum size of an env as JSON, in KiB."""
    check_cpu_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    """CPU time for checking a program at submit: up to three parses and, for QuickJS, compiling it to bytecode."""


class PoolSettings(_Section, frozen=True, kw_only=True):
    """The pools of cells."""

    cells: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Number of cells that can run programs at the same time. Default: two for each core."""
    spare: Annotated[int, Meta(ge=0, le=1024)] | None = None
    """Number of additional blank cells, so that runs need not wait while a failed cell is replaced. Default: the same
    as `cells`."""
    runs_per_cell: Positive = 2000
    """A cell is replaced after this number of runs. It continues until the new cell is ready, for at most twice this
    number."""
    max_age_s: Annotated[float, Meta(gt=0)] = 3600.0
    """A cell is replaced at this age, in seconds."""
    cgroup: Literal["auto", "never"] = "auto"
    """`auto`: a cgroup also limits memory and processes of each jail, if the daemon can create cgroups."""
    isolation: Literal["cell", "jail"] = "cell"
    """`jail`: each run has a new nsjail."""
    uids: Annotated[str, Meta(pattern="^[0-9]{1,10}:[0-9]{1,10}$")] | None = None
    """Host uids and gids for the jails, as `FIRST:COUNT`. They must not overlap with those of another daemon. Default:
    the ranges in /etc/subuid and /etc/subgid, else an unallocated range. Needs root, or CAP_SETUID and CAP_SETGID.
    Without these, all jails share one uid."""

    @property
    def id_range(self) -> tuple[int, int] | None:
        """The first id of `uids`, and the number of ids."""
        if self.uids is None:
            return None
        first, _, count = self.uids.partition(":")
        return int(first), int(count)


class SchedulerSettings(_Section, frozen=True, kw_only=True):
    """The queue of runs."""

    queue: Annotated[int, Meta(ge=0, le=100_000)] = 512
    """Number of runs that may wait for a slot. Beyond it, the newest run of the user with the most waiting runs is
    refused with `busy`."""
    queue_mb: Annotated[int, Meta(ge=1, le=1_048_576)] = 64
    """Memory that waiting runs may hold, in MiB. Beyond it, the newest run of the user whose waiting runs hold the most
    is refused with `busy`."""
    concurrent: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Number of slots: the maximum of concurrent runs, not counting long runs (docs/admission.md). Default: the number
    of cells."""
    wait_s: Seconds = 30.0
    """A run that has waited this long for a slot is refused with `busy`."""


JournalText = Literal["prompt", "result", "console", "error"]


class JournalSettings(_Section, frozen=True, kw_only=True):
    """The journal of runs, submits, removals, moves of names, and refused requests (docs/journal.md)."""

    enabled: bool = True
    """Whether the daemon writes a journal."""
    keep: list[JournalText] = msgspec.field(default_factory=lambda: list[JournalText](["error"]))
    """Texts of each run that the journal also stores. `error`: the message of a failed run, and name and stack of an
    exception; message and stack up to 2,048 characters each. Prompts, results and console lines are not stored by
    default, because they may be private. An error may contain parts of the prompt; `[]` stores no text."""
    keep_kb: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Maximum that the journal stores of each text, in KiB."""
    max_age_days: Annotated[float, Meta(gt=0, le=36500)] = 30.0
    """Entries are removed at this age, in days."""
    max_rows: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    """Maximum number of entries. Beyond it, the oldest entries of the uid with the most entries are removed."""
    max_mb: Annotated[int, Meta(ge=1, le=1_048_576)] = 256
    """Maximum size of the journal's file, in MiB. Beyond it, entries are removed in the same way."""


class LogSettings(_Section, frozen=True, kw_only=True):
    """The daemon's log (docs/daemon.md)."""

    format: Literal["auto", "human", "json"] = "auto"
    """`auto`: under systemd, journald's fields; otherwise as `human`. `human`: a line of text for each event. `json`: a
    JSON object in a line for each event."""


class StoreSettings(_Section, frozen=True, kw_only=True):
    """Automatic removal of unused programs, which keeps those with a name (docs/operations/store.md)."""

    unused_days: Annotated[float, Meta(gt=0, le=36500)] | None = None
    """Programs without a name are removed if they were neither submitted nor run for this number of days. Default:
    never."""
    max_mb: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    """Maximum disk space of all programs and of `damaged/`, in MiB. If a submit would exceed it, the daemon first
    removes files from `damaged/`, the oldest first, then programs without a name that were not used for an hour, the
    longest unused first. If that is not enough, it refuses the submit. Default: no maximum."""

    visibility: Literal["own", "group", "all"] = "all"
    """Default visibility of programs and names, if a request has none. `own`: only the owner sees it. `group`: also the
    owner's group. `all`: everyone (docs/access.md)."""

    @property
    def max_bytes(self) -> int | None:
        """`max_mb` in bytes."""
        return None if self.max_mb is None else self.max_mb * MIB


class RightsSettings(_Section, frozen=True, kw_only=True):
    """Who has which right (docs/access.md). An entry is the uid or name of a user, "@GROUP" with the id or name of a
    group, or "*" for everyone."""

    run: Members = ("*",)
    """Run stored programs."""
    exec: Members = ("*",)
    """Run any text."""
    submit: Members = ("*",)
    """Store, list and describe programs; name, read and remove own programs."""
    manage: Members = ()
    """Read, remove and rename programs of others; change their engine; `gc`, `verify`. Root and the daemon's user
    always have this right."""


class Quota(_Section, frozen=True, kw_only=True, omit_defaults=True):
    """Quotas of one user or one tenant. By default there are none."""

    runs_at_once: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Maximum number of runs in progress. Further ones wait in the queue."""
    queued: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Maximum number of waiting runs. For each further one, a run is refused with `quota`: the newest run of the tenant
    (or process) with the most waiting runs."""
    runs_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Maximum rate of runs and submits per second, on average."""
    runs_burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Number of runs and submits that may come in a burst, above the rate. Default: as many as in one second."""
    cpu_ms_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Maximum CPU time in ms per second, on average. 1000 is one core."""
    cpu_burst_ms: Annotated[float, Meta(gt=0, le=1_000_000_000)] | None = None
    """CPU time in ms that may be used in a burst, above the rate. Default: as much as in ten seconds."""
    programs: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    """Maximum number of stored programs."""
    stored_mb: Annotated[float, Meta(ge=0, le=1 << 30)] | None = None
    """Maximum disk space of the stored programs, without their artifacts, in MiB."""
    names: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Maximum number of names."""
    max_cpu_ms: Positive | None = None
    """Maximum of the CPU limit that a run may ask for, if it is less than `limits.max.cpu_ms`. If the default limit is
    higher, it is lowered to this maximum."""
    max_wall_ms: Positive | None = None
    """The same for `limits.max.wall_ms`."""
    max_memory_mb: Annotated[int, Meta(ge=8, le=4096)] | None = None
    """The same for `limits.max.memory_mb`."""
    max_result_kb: Positive | None = None
    """The same for `limits.max.result_kb`."""
    max_log_kb: Positive | None = None
    """The same for `limits.max.log_kb`."""

    @property
    def max_limits(self) -> dict[str, int]:
        """The maxima by field of `Limits`, in the units of the sandbox. Only those that are set."""
        found = {
            "cpu_ms": self.max_cpu_ms,
            "wall_ms": self.max_wall_ms,
            "memory_bytes": self.max_memory_mb and self.max_memory_mb * MIB,
            "result_bytes": self.max_result_kb and self.max_result_kb * 1024,
            "log_bytes": self.max_log_kb and self.max_log_kb * 1024,
        }
        return {field: value for field, value in found.items() if value is not None}


class QuotaRule(Quota, frozen=True, kw_only=True, omit_defaults=True):
    """Quotas of certain users, or of certain tenants. For a principal that rules name, only the first of these rules
    applies, and `quotas.user` and `quotas.tenant` do not. Quotas that the rule omits are off."""

    users: Members = ()
    """Users and groups. With `tenants`: the users of the fronts. Default: all fronts."""
    tenants: Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=1000)] = []
    """Names of tenants. `NAME*` stands for all tenants whose names begin with `NAME`."""


class QuotaSettings(_Section, frozen=True, kw_only=True):
    """Quotas of users and tenants (docs/access.md)."""

    user: Quota = Quota()
    """Each user."""
    tenant: Quota = Quota()
    """Each tenant of a front."""
    rules: Annotated[list[QuotaRule], Meta(max_length=1000)] = []
    """Exceptions for certain users or tenants, as tables `[[quotas.rules]]`."""


class Engines(_Section, frozen=True, kw_only=True):
    """The default engine, and disabled engines."""

    default: Engine = DEFAULT_ENGINE
    """The engine of submits, and of runs of a source, if the request does not name one."""
    disabled: list[Engine] = []
    """Disabled engines. Submits and runs that need them are refused with `unsupported`. Their stored programs stay. Use
    this for an engine with a known vulnerability (docs/engine-updates.md)."""


class DemandSettings(_Section, frozen=True, kw_only=True):
    """An engine whose number of cells follows recent demand. The daemon starts nothing of it before the first run."""

    blank: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Maximum number of blank cells. The pool keeps as many as were recently used at the same time. Default: 1.5 times
    the number of concurrent runs, because a cell needs 20 ms to become ready again after a run."""
    blank_mb: Annotated[int, Meta(ge=64, le=1 << 20)] = 512
    """Maximum memory of all blank cells, in MiB. Each counts as 32 MiB."""
    idle_s: Annotated[float, Meta(gt=0)] = 300.0
    """All cells of the engine are ended after this time without a run, in seconds."""
    runs_per_cell: Positive = 500
    """The nsjail of a cell is replaced after this number of runs. Each run has its own process and namespaces in any
    case."""
    max_age_s: Annotated[float, Meta(gt=0)] = 3600.0
    """A cell is replaced at this age, in seconds."""


class DenoSettings(DemandSettings, frozen=True, kw_only=True):
    """The engine Deno. To install it, run `pip install 'deno>=2.9.8,<3'` in the environment of promptlog. The daemon
    starts it at the first run that needs it."""

    jit: Literal["auto", "always", "never"] = "auto"
    """With JIT, a program runs ten times as fast, but only a memory cgroup can limit its memory. `auto`: JIT if the
    daemon can create a memory cgroup. `always`: the daemon does not start without one. `never`: no JIT."""


_NO_MAXIMA: Mapping[str, int] = {}


class Config(_Section, frozen=True, kw_only=True):
    """All settings."""

    server: Server = Server()
    limits: Bounds = Bounds()
    pool: PoolSettings = PoolSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    journal: JournalSettings = JournalSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    rights: RightsSettings = RightsSettings()
    quotas: QuotaSettings = QuotaSettings()
    engines: Engines = Engines()
    deno: DenoSettings = DenoSettings()

    @property
    def cells(self) -> int:
        """Number of cells that can run programs at the same time."""
        return self.pool.cells or 2 * len(os.sched_getaffinity(0))

    @property
    def pool_size(self) -> int:
        """Number of cells in the pool, including spare ones."""
        return self.cells + (self.cells if self.pool.spare is None else self.pool.spare)

    @property
    def text_bounds(self) -> TextBounds:
        """Return the maximum sizes of the texts of a request."""
        limits = self.limits
        return TextBounds(
            source_bytes=limits.source_kb * 1024, prompt_bytes=limits.prompt_kb * 1024, env_bytes=limits.env_kb * 1024
        )

    @property
    def concurrent(self) -> int:
        """Number of slots."""
        return self.scheduler.concurrent or self.cells

    def engine_options(self, engine: Engine) -> DemandSettings:
        """Return the engine's own section, or its defaults."""
        options = getattr(self, engine, None)
        return options if isinstance(options, DemandSettings) else _DEMAND

    def most_blank(self, engine: Engine) -> int:
        """Return the maximum number of blank cells of an engine whose number of cells follows demand."""
        options = self.engine_options(engine)
        fitting = options.blank_mb * MIB // ENGINES[engine].blank_bytes
        return max(1, min(options.blank or -(-self.concurrent * 3 // 2), fitting))

    @property
    def max_jails(self) -> int:
        """Maximum number of jails at the same time.

        Twice the number of pooled and running cells, because a jail that ends occupies its uid until its last process
        is gone. There may be as many long runs, which have no slots, as runs with slots.
        """
        kept = sum(self.pool_size if spec.forks else self.most_blank(name) for name, spec in ENGINES.items())
        return 2 * (kept + 2 * self.concurrent)

    def default_limits(self, engine: Engine = DEFAULT_ENGINE) -> Limits:
        """Return the limits of a run that asks for none. Memory is at least the engine's minimum."""
        limits = self.limits.default.limits()
        least = min(ENGINES[engine].min_memory_bytes, self.limits.max.limits().memory_bytes)
        return msgspec.structs.replace(limits, memory_bytes=max(limits.memory_bytes, least))

    def limits_for(
        self, asked: LimitsAsked | None, engine: Engine = DEFAULT_ENGINE, *, maxima: Mapping[str, int] = _NO_MAXIMA
    ) -> Limits:
        """Return the limits of a run: those that it asked for, otherwise the defaults. Raises LimitsError.

        `maxima`: lower maxima of its client, by field. They lower the defaults as well.
        """
        asked = asked or _NOTHING
        highest = self.limits.max.limits()
        default, most = (_lowered(each, maxima) for each in (self.default_limits(engine), highest))
        chosen: dict[str, int] = {}
        for field in Limits.__struct_fields__:
            value = getattr(asked, field)
            if value is None:
                value = getattr(default, field)
                if field == "wall_ms" and asked.cpu_ms is not None and asked.cpu_ms >= value:
                    value = min(2 * asked.cpu_ms, most.wall_ms)
            elif value > getattr(most, field):
                bound = getattr(most, field)
                raise LimitsError(field, value, bound, "maximum", by_quota=bound < getattr(highest, field))
            chosen[field] = value
        least = ENGINES[engine].min_memory_bytes
        if chosen["memory_bytes"] < least:
            word = "minimum" if engine == DEFAULT_ENGINE else f"minimum on {engine}"
            raise LimitsError("memory_bytes", chosen["memory_bytes"], least, word)
        return Limits(**chosen)


def _lowered(limits: Limits, maxima: Mapping[str, int]) -> Limits:
    lower = {field: most for field, most in maxima.items() if most < getattr(limits, field)}
    return msgspec.structs.replace(limits, **lower) if lower else limits


_DEMAND = DemandSettings()
_NOTHING = LimitsAsked()


def checked(table: dict[str, Any], where: str) -> Config:
    """Return the configuration that a file's table says. Raises ConfigError, which begins with `where`."""
    config = converted(table, where)
    for field in RunLimits.__struct_fields__:
        default, most = getattr(config.limits.default, field), getattr(config.limits.max, field)
        if default > most:
            raise ConfigError(f"{where}: limits.default.{field} is {default}, above limits.max.{field} of {most}")
    if (ids := config.pool.id_range) is not None:
        if ids[0] < _FIRST_ID or sum(ids) > _END_ID:
            raise ConfigError(
                f"{where}: pool.uids is {config.pool.uids}: ids must be from {_FIRST_ID} to {_END_ID - 1}, "
                "because the others belong to users and services"
            )
        if ids[1] < config.max_jails:
            raise ConfigError(
                f"{where}: pool.uids has {ids[1]} ids, but this configuration can have {config.max_jails} jails at "
                f"the same time; give at least {config.max_jails} ids"
            )
    _check_engines(config.engines, where)
    least = ENGINES[config.engines.default].min_memory_bytes // MIB
    if config.limits.max.memory_mb < least:
        most = config.limits.max.memory_mb
        raise ConfigError(
            f"{where}: limits.max.memory_mb is {most}, but {config.engines.default}, the default engine, needs {least}"
        )
    return config


def converted(table: dict[str, Any], where: str) -> Config:
    """Return the settings of a table. Each setting is checked separately. Raises ConfigError."""
    _refuse_unknown(table, Config, "", where)
    try:
        return msgspec.convert(_with_maxima(table), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error))}") from error


def _with_maxima(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table with the defaults of `limits.max` for the settings that it omits there."""
    limits = table.get("limits")
    most = limits.get("max") if isinstance(limits, dict) else None
    if not isinstance(limits, dict) or not isinstance(most, dict):
        return table
    return {**table, "limits": {**limits, "max": {**msgspec.to_builtins(Bounds().max), **most}}}


def front_uids(server: Server) -> frozenset[int]:
    """Return the uids of `server.fronts`. Raises KeyError with the name of a user that does not exist."""
    uids = set()
    for user in server.fronts:
        try:
            uids.add(user if isinstance(user, int) else pwd.getpwnam(user).pw_uid)
        except (KeyError, ValueError):
            raise KeyError(user) from None
    return frozenset(uids)


def _check_engines(engines: Engines, where: str) -> None:
    known = ", ".join(map(repr, ENGINES))
    for setting, names in (("default", [engines.default]), ("disabled", engines.disabled)):
        for name in names:
            if name not in ENGINES:
                raise ConfigError(f"{where}: engines.{setting}: there is no engine {name!r}; the engines are: {known}")
    if engines.default not in engines.disabled:
        return
    others = [name for name in ENGINES if name not in engines.disabled]
    if not others:
        raise ConfigError(f"{where}: engines.disabled names all engines; leave at least one enabled")
    raise ConfigError(
        f"{where}: engines.disabled names {engines.default!r}, which is the default engine; also set "
        f'engines.default = "{others[0]}"'
    )


def _explain(message: str) -> str:
    """Return msgspec's message with the name of the setting first, and with the valid values."""
    text, _, place = message.partition(" - at `$.")
    setting = place.rstrip("`")
    if setting.endswith("socket_mode"):
        text = (
            'expected an octal mode as a string: "0600" for the daemon\'s user only, or "0660" for a group as well '
            "(connecting needs read and write permission; other users cannot have it)"
        )
    elif setting in ("server.socket", "server.state_dir"):
        text = "expected an absolute path; a relative path would depend on the folder where the daemon is started"
    elif setting.startswith("server.fronts"):
        text = "expected uids, or names of users as strings"
    elif setting.startswith("rights") or ".users" in setting:
        text = 'expected a list of uids, names of users, "@GROUP" or "*"'
    elif setting.endswith("uids"):
        text = 'expected the first id and the number of ids as a string, like "100000:65536"'
    elif text.startswith("Invalid enum value"):
        kind: Any = Config
        for part in setting.split("."):
            kind = get_type_hints(kind)[part.partition("[")[0]]  # of a list: `journal.keep[0]`
        if get_origin(kind) is list:
            (kind,) = get_args(kind)
        text += f"; valid values: {', '.join(map(repr, get_args(kind)))}"
    text = text.replace("`object`", "`table`").replace("`array`", "`list`")  # the words of TOML
    return f"{setting}: {text}" if setting else text


def _refuse_unknown(table: dict[str, Any], section: type[msgspec.Struct], place: str, where: str) -> None:
    hints = get_type_hints(section)
    for key, value in table.items():
        if key not in section.__struct_fields__:
            near = difflib.get_close_matches(key, section.__struct_fields__, n=1, cutoff=0.5)
            hint = f"did you mean {place}{near[0]}?" if near else f"known: {', '.join(section.__struct_fields__)}"
            raise ConfigError(f"{where}: there is no setting {place}{key}; {hint}")
        kind = hints[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _refuse_unknown(value, kind, f"{place}{key}.", where)
