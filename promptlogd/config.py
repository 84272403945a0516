"""The daemon's settings: a table of a TOML file -> one frozen record. Every value has a default and a bound.

More than 300 lines, since the reference (docs/config.md) is made from this one file.
"""

from __future__ import annotations

import difflib
import os
import pwd
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from promptlogd.wire import TextBounds
from promptlogd.wire.messages import LimitsAsked
from sandbox.engines import ENGINES
from sandbox.limits import MIB, Limits
from sandbox.program import Engine

_FIRST_ID, _END_ID = 65536, 2**32 - 2
"""Ids for jails: below are users, services and nobody; the last two mean "no id" to the kernel."""

DEFAULT_ENGINE = next(iter(ENGINES))


class ConfigError(Exception):
    """The configuration can't be used."""


class LimitsError(Exception):
    """A run asked for more than it may, or for less than will do."""

    def __init__(self, field: str, asked: int, bound: int, word: str) -> None:
        unit = f" ({bound / MIB:g} MiB)" if field == "memory_bytes" else ""
        super().__init__(f"limits.{field} is {asked}, the {word} is {bound}{unit}")
        self.field = field
        self.asked = asked
        self.bound = bound


Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
User = Annotated[int, Meta(ge=0, lt=2**32)] | Annotated[str, Meta(min_length=1, max_length=256)]
AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\x00]*$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True, kw_only=True):
    """The socket, the state folder, and how clients are treated."""

    socket: AbsolutePath | None = None
    """Absolute path. Default: see docs/daemon.md. `--socket` goes first, then $PROMPTLOG_SOCKET, then this."""
    state_dir: AbsolutePath | None = None
    """Absolute path of the store's folder."""
    socket_mode: Annotated[str, Meta(pattern="^0?[67][067]0$")] = "0600"
    """Permissions of the socket, octal: "0600", or "0660" for a group as well (docs/security.md says which group).
    Others may not connect. Who may connect may run programs, and list and remove all of them."""
    socket_group: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """Name or id of a group whose members may connect as well: the socket gets this group, and at least mode "0660"."""
    max_clients: Annotated[int, Meta(ge=1, le=100_000)] = 12_000
    """Connections at once. Further ones are closed. One process may have seven eighths of them."""
    max_pipelined: Annotated[int, Meta(ge=1, le=10_000)] = 128
    """Requests of one connection in progress at once. Up to 8 MiB of further requests are read and wait."""
    stall_s: Seconds = 10.0
    """A connection is closed if the rest of a frame does not come within this time. It is also closed if its client
    does not read its replies: in each such time the client must read three quarters of the socket's buffer (some
    150 KiB), or all that there is."""
    drain_s: Seconds = 5.0
    """How long running requests may take to finish after SIGTERM."""
    fronts: Annotated[list[User], Meta(max_length=1000)] = []
    """Users, by uid or by name, whose clients may name a `tenant` in a request. The daemon's own user always may."""

    @property
    def effective_socket_mode(self) -> int:
        """`socket_mode`, with access for the group if `socket_group` is set."""
        return int(self.socket_mode, 8) | (0o060 if self.socket_group is not None else 0)


class RunLimits(_Section, frozen=True, kw_only=True):
    """The limits of a run."""

    cpu_ms: Annotated[int, Meta(ge=1, le=600_000)] = 50
    """CPU time in ms."""
    wall_ms: Annotated[int, Meta(ge=1, le=600_000)] = 1000
    """Wall time in ms."""
    memory_mb: Annotated[int, Meta(ge=8, le=4096)] = 128
    """Memory in MiB: QuickJS's address space; what is resident of Deno, or without a cgroup its data. Deno has 64 at
    least, also by default."""
    result_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """The result's JSON, in KiB."""
    log_kb: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Console lines, in KiB; what is over is cut and told."""

    def limits(self) -> Limits:
        """Return the same in the sandbox's units."""
        return Limits(
            cpu_ms=self.cpu_ms,
            wall_ms=self.wall_ms,
            memory_bytes=self.memory_mb * MIB,
            result_bytes=self.result_kb * 1024,
            log_bytes=self.log_kb * 1024,
        )


class Bounds(_Section, frozen=True, kw_only=True):
    """What a run gets, what it may ask for, and how large its inputs may be."""

    default: RunLimits = RunLimits()
    """What a run gets that asks for nothing."""
    max: RunLimits = RunLimits(cpu_ms=10_000, wall_ms=30_000, memory_mb=512, result_kb=4096, log_kb=1024)
    """The most that a run may ask for."""
    source_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """The most that a program may have, in KiB."""
    prompt_kb: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """The most that a prompt may have, in KiB."""
    env_kb: Annotated[int, Meta(ge=1, le=1024)] = 256
    """The most that an env may have as JSON, in KiB."""
    check_cpu_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    """CPU time for checking a program at submit: up to three parses and, for QuickJS, compiling it to bytecode."""


class PoolSettings(_Section, frozen=True, kw_only=True):
    """The cells."""

    cells: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """That run at once. Default: two for each core."""
    spare: Annotated[int, Meta(ge=0, le=1024)] | None = None
    """More cells, blank, so that nobody waits while one that ended badly is replaced. Default: as many again."""
    runs_per_cell: Positive = 2000
    """A cell is replaced after so many runs. It goes on until the new cell is ready, for at most twice as many."""
    max_age_s: Annotated[float, Meta(gt=0)] = 3600.0
    """A cell is replaced at this age, in seconds."""
    cgroup: Literal["auto", "never"] = "auto"
    """`auto`: memory and processes of each jail are held by a cgroup as well, where one can be had."""
    isolation: Literal["cell", "jail"] = "cell"
    """`jail`: a brand-new nsjail for every run."""
    uids: Annotated[str, Meta(pattern="^[0-9]{1,10}:[0-9]{1,10}$")] | None = None
    """Host uids and gids for the jails, as `FIRST:COUNT`. Must not overlap with another daemon's. Default: the ranges
    in /etc/subuid and /etc/subgid, else an unallocated range. Needs root, or CAP_SETUID and CAP_SETGID. Without them
    all jails share one uid."""

    @property
    def id_range(self) -> tuple[int, int] | None:
        """The first of `uids`, and how many there are."""
        if self.uids is None:
            return None
        first, _, count = self.uids.partition(":")
        return int(first), int(count)


class SchedulerSettings(_Section, frozen=True, kw_only=True):
    """Who waits, and how many may."""

    queue: Annotated[int, Meta(ge=0, le=100_000)] = 512
    """Runs that may wait for a slot. Above that the newest run of the client with the most is refused with `busy`."""
    queue_mb: Annotated[int, Meta(ge=1, le=1_048_576)] = 64
    """Memory that waiting runs may hold, in MiB. Above that the newest run of the client that holds the most is refused
    with `busy`."""
    concurrent: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Slots: runs at once, without long ones (docs/admission.md). Default: as many as there are cells."""
    wait_s: Seconds = 30.0
    """A run that has waited this long for a slot is refused with `busy`."""


class Engines(_Section, frozen=True, kw_only=True):
    """Which engine runs what."""

    default: Engine = DEFAULT_ENGINE
    """The engine of a program that is submitted, or of a source that is run, without naming one."""
    disabled: list[Engine] = []
    """Engines that run nothing: submits and runs that need them are refused with `unsupported`, and they have no
    cells. Programs are kept. For an engine with a known flaw, until there is a fixed version (docs/engine-updates.md).
    """


class DemandSettings(_Section, frozen=True, kw_only=True):
    """An engine whose cells are kept by recent demand. Nothing of it is started before the first run that wants it."""

    blank: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Cells, at the most; as many as were wanted at once lately are kept. Default: as many as run at once, and half of
    that again, since one takes 20 ms to be ready after a run."""
    blank_mb: Annotated[int, Meta(ge=64, le=1 << 20)] = 512
    """Memory that cells kept ready may take, in MiB, at 32 MiB each."""
    idle_s: Annotated[float, Meta(gt=0)] = 300.0
    """After so long without a run on Deno its cells are ended, in seconds."""
    runs_per_cell: Positive = 500
    """A cell's nsjail is replaced after so many runs; each run has a process and namespaces of its own in any case."""
    max_age_s: Annotated[float, Meta(gt=0)] = 3600.0
    """A cell is replaced at this age, in seconds."""


class DenoSettings(DemandSettings, frozen=True, kw_only=True):
    """The engine Deno. `pip install 'deno>=2.9.8,<3'` in the environment of promptlog installs it. The first run that
    wants it starts it."""

    jit: Literal["auto", "always", "never"] = "auto"
    """With V8's compilers a program runs ten times as fast, and only a memory cgroup can hold its memory. `auto`: with
    them where a cgroup can be had; `always`: the daemon does not start where none can be had."""


class Config(_Section, frozen=True, kw_only=True):
    """Everything that can be set."""

    server: Server = Server()
    limits: Bounds = Bounds()
    pool: PoolSettings = PoolSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    engines: Engines = Engines()
    deno: DenoSettings = DenoSettings()

    @property
    def cells(self) -> int:
        """How many cells there are to be."""
        return self.pool.cells or 2 * len(os.sched_getaffinity(0))

    @property
    def pool_size(self) -> int:
        """How many cells are kept, those that only wait included."""
        return self.cells + (self.cells if self.pool.spare is None else self.pool.spare)

    @property
    def text_bounds(self) -> TextBounds:
        """Return how long the texts of a request may be."""
        limits = self.limits
        return TextBounds(
            source_bytes=limits.source_kb * 1024, prompt_bytes=limits.prompt_kb * 1024, env_bytes=limits.env_kb * 1024
        )

    @property
    def concurrent(self) -> int:
        """How many runs may have a slot at once."""
        return self.scheduler.concurrent or self.cells

    def engine_options(self, engine: Engine) -> DemandSettings:
        """Return the engine's own section, or its defaults."""
        options = getattr(self, engine, None)
        return options if isinstance(options, DemandSettings) else _DEMAND

    def most_blank(self, engine: Engine) -> int:
        """Return how many blank cells there may be of an engine whose cells are kept by demand."""
        options = self.engine_options(engine)
        fitting = options.blank_mb * MIB // ENGINES[engine].blank_bytes
        return max(1, min(options.blank or -(-self.concurrent * 3 // 2), fitting))

    @property
    def max_jails(self) -> int:
        """How many jails there may be at once.

        Twice as many as are kept and run: a jail that ends has its uid until its last process is gone. There may
        be as many long runs, which have no slots, as runs with slots.
        """
        kept = sum(self.pool_size if spec.forks else self.most_blank(name) for name, spec in ENGINES.items())
        return 2 * (kept + 2 * self.concurrent)

    def default_limits(self, engine: Engine = DEFAULT_ENGINE) -> Limits:
        """Return the limits of a run that asks for none; of memory what its engine needs, if the default is less."""
        limits = self.limits.default.limits()
        least = min(ENGINES[engine].min_memory_bytes, self.limits.max.limits().memory_bytes)
        return msgspec.structs.replace(limits, memory_bytes=max(limits.memory_bytes, least))

    def limits_for(self, asked: LimitsAsked | None, engine: Engine = DEFAULT_ENGINE) -> Limits:
        """Return a run's limits: what it asked for, else the default. Raises LimitsError."""
        asked = asked or _NOTHING
        default, most = self.default_limits(engine), self.limits.max.limits()
        chosen: dict[str, int] = {}
        for field in Limits.__struct_fields__:
            value = getattr(asked, field)
            if value is None:
                value = getattr(default, field)
                if field == "wall_ms" and asked.cpu_ms is not None and asked.cpu_ms >= value:
                    value = min(2 * asked.cpu_ms, most.wall_ms)
            elif value > getattr(most, field):
                raise LimitsError(field, value, getattr(most, field), "most it may be")
            chosen[field] = value
        least = ENGINES[engine].min_memory_bytes
        if chosen["memory_bytes"] < least:
            word = "least it may be" if engine == DEFAULT_ENGINE else f"least it may be on {engine}"
            raise LimitsError("memory_bytes", chosen["memory_bytes"], least, word)
        return Limits(**chosen)


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
                "since users and services have the others"
            )
        if ids[1] < config.max_jails:
            raise ConfigError(
                f"{where}: pool.uids has {ids[1]} ids, but this configuration can have {config.max_jails} jails at "
                f"once; give at least {config.max_jails} ids"
            )
    _check_engines(config.engines, where)
    least = ENGINES[config.engines.default].min_memory_bytes // MIB
    if config.limits.max.memory_mb < least:
        most = config.limits.max.memory_mb
        raise ConfigError(
            f"{where}: limits.max.memory_mb is {most}, and {config.engines.default}, the default engine, needs {least}"
        )
    return config


def converted(table: dict[str, Any], where: str) -> Config:
    """Return what a table says, each setting checked by itself. Raises ConfigError."""
    _refuse_unknown(table, Config, "", where)
    try:
        return msgspec.convert(_with_maxima(table), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error))}") from error


def _with_maxima(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table with the defaults of `limits.max` that it leaves out. Those of `limits.default` are others."""
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
                raise ConfigError(f"{where}: engines.{setting}: there is no engine {name!r}; there is: {known}")
    if engines.default not in engines.disabled:
        return
    others = [name for name in ENGINES if name not in engines.disabled]
    if not others:
        raise ConfigError(f"{where}: engines.disabled names all engines, and nothing could run; leave one enabled")
    raise ConfigError(
        f"{where}: engines.disabled names {engines.default!r}, which is the default engine; also set "
        f'engines.default = "{others[0]}"'
    )


def _explain(message: str) -> str:
    """Return msgspec's message in terms of the file: the setting first, and what is right."""
    text, _, place = message.partition(" - at `$.")
    setting = place.rstrip("`")
    if setting.endswith("socket_mode"):
        text = (
            'expected an octal mode as a string: "0600" for the daemon\'s user alone, or "0660" for a group as well '
            "(to connect takes read and write permission; others can't have it)"
        )
    elif setting in ("server.socket", "server.state_dir"):
        text = "expected an absolute path, since a relative one means another folder wherever the daemon is started"
    elif setting.startswith("server.fronts"):
        text = "expected uids, or names of users as strings"
    elif setting.endswith("uids"):
        text = 'expected the first id and the number of ids as a string, like "100000:65536"'
    elif text.startswith("Invalid enum value"):
        kind: Any = Config
        for part in setting.split("."):
            kind = get_type_hints(kind)[part]
        text += f"; there is: {', '.join(map(repr, get_args(kind)))}"
    return f"{setting}: {text}" if setting else message


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
