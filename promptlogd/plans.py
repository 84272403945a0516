"""How each engine's cells are started under this configuration, and what then holds each limit."""

from __future__ import annotations

import platform
from importlib import resources
from pathlib import Path

import msgspec
import trio

from promptlogd.config import Config, ConfigError
from sandbox import cgroup, jail, root
from sandbox.cells.job import Plan
from sandbox.cgroup import Cgroup
from sandbox.identities import Identities, shared
from sandbox.limits import Limits

_ZYGOTE_BYTES = 64 << 20
_DENO_FILES_BYTES = 8 << 20
"""RLIMIT_DATA does not count the pages of files, of which Deno has some 20 MiB resident."""

_NOT_CHOSEN = "no range of uids was chosen"
_HELD_BY = {
    "memory": "RLIMIT_AS on the process",
    "cpu": "a kernel timer on the process's CPU clock, RLIMIT_CPU behind it",
    "wall": "the daemon's deadline",
    "result": "the daemon's byte cap",
    "logs": "the daemon's byte cap",
    "processes": "seccomp, RLIMIT_NPROC",
    "files": "seccomp",
    "network": "an empty network namespace, seccomp",
}


def quickjs_plan(
    config: Config, made: root.Root, group: Cgroup | None = None, identities: Identities | None = None
) -> Plan:
    """Return how to start a QuickJS cell in this root. Without `identities` all jails share one."""
    policy = (resources.files("sandbox.engines.quickjs") / "policy.kafel").read_text("utf-8")
    default = config.limits.default.limits()
    arguments = jail.quickjs_arguments(
        root=made,
        policy=jail.policy_text(policy, platform.machine()),
        machine=root.machine(),
        default=default,
        most_bytes=config.limits.max.limits().memory_bytes,
        cgroup=group,
    )
    return Plan(
        engine="quickjs",
        executable=jail.nsjail_path(),
        arguments=arguments,
        identities=identities or shared(_NOT_CHOSEN),
        folder=made.path,
        default=default,
        cgroup=group,
    )


class DenoPlans:
    """How Deno cells are started. The root of their jails is made when the first one is wanted."""

    def __init__(self, config: Config, folder: Path, group: Cgroup | None, identities: Identities) -> None:
        held = group is not None and group.memory_bytes > 0
        if config.deno.jit == "always" and not held:
            raise ConfigError(
                "deno.jit is always, and there is no memory cgroup to hold a program's memory: delegate one "
                "(Delegate=yes in the systemd unit), or set deno.jit to auto"
            )
        self._jit = held and config.deno.jit != "never"
        self._group = group if held else None
        self._identities = identities
        self._default = config.default_limits("deno")
        self._policy = _deno_policy(jit=self._jit)
        self._folder = folder
        self._made: root.Root | None = None
        self._making = trio.Lock()

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return how to start a cell with so much memory, or the default's. Raises RootError."""
        async with self._making:
            if self._made is None:
                self._made = await trio.to_thread.run_sync(
                    lambda: root.build_deno_root(self._folder, root.deno_executable())
                )
        return deno_plan(
            self._made,
            self._default,
            self._group,
            jit=self._jit,
            memory_bytes=memory_bytes,
            identities=self._identities,
            policy=self._policy,
        )


def deno_plan(
    made: root.Root,
    default: Limits,
    group: Cgroup | None,
    *,
    jit: bool,
    memory_bytes: int | None = None,
    identities: Identities | None = None,
    policy: str | None = None,
) -> Plan:
    """Return how to start a Deno cell in this root, with so much memory, or the default's. `identities`: as above.

    `policy`: the text of the seccomp policy; default: it is read.
    """
    limits = default if memory_bytes is None else msgspec.structs.replace(default, memory_bytes=memory_bytes)
    arguments = jail.deno_arguments(
        root=made,
        policy=policy or _deno_policy(jit=jit),
        jit=jit,
        memory_bytes=limits.memory_bytes,
    )
    return Plan(
        engine="deno",
        executable=jail.nsjail_path(),
        arguments=arguments,
        identities=identities or shared(_NOT_CHOSEN),
        folder=made.path,
        default=limits,
        cgroup=group,
        data_bytes=None if jit else limits.memory_bytes - _DENO_FILES_BYTES,
    )


def _deno_policy(*, jit: bool) -> str:
    text = (resources.files("sandbox.engines.deno") / "policy.kafel").read_text("utf-8")
    return jail.policy_text(text, platform.machine(), jit=jit)


def deno_missing() -> str | None:
    """Return why there is no Deno, and the command that mends it; None if it is there."""
    try:
        root.deno_executable()
    except root.RootError as error:
        return error.why
    return None


def make_cgroup(config: Config, name: str) -> Cgroup | None:
    """Make the cgroup that cells' cgroups are made in, if one is wanted and can be had."""
    if config.pool.cgroup == "never":
        return None
    # A run's memory is RLIMIT_AS's affair; this is the most of any run, and room for the zygote.
    return cgroup.make(name, config.limits.max.limits().memory_bytes + _ZYGOTE_BYTES)


def held_by(config: Config, group: Cgroup | None) -> dict[str, str]:
    """Return what holds each limit, in words."""
    held = dict(_HELD_BY)
    in_cgroup = group is not None and group.memory_bytes > 0
    if group is not None:
        if in_cgroup:
            held["memory"] += f"; a memory cgroup of {group.memory_bytes >> 20} MiB for each cell"
        if any("pids" in argument for argument in group.arguments):
            held["processes"] += "; a pids cgroup"
    if in_cgroup and config.deno.jit != "never":
        held["memory (deno)"] = "a memory cgroup for each cell; with JIT"
    else:
        behind = "; a memory cgroup for each cell" if in_cgroup else ""
        held["memory (deno)"] = f"RLIMIT_DATA on the process{behind}; without JIT"
    why = deno_missing()
    if why is not None:
        return {name: (why if name.endswith("(deno)") else what) for name, what in held.items()}
    held["cpu (deno)"] = "the daemon's look at the process's CPU clock, RLIMIT_CPU behind it"
    return held
