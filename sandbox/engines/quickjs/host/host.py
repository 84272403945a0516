"""The daemon's side of QuickJS: starting cells, enforcing limits, and building artifacts."""

from __future__ import annotations

import platform
from importlib import resources

import msgspec
import trio

from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.engines.host.engine_host import Setting
from sandbox.engines.quickjs.host import start as starting
from sandbox.engines.quickjs.host import version
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.engines.quickjs.host.root import CELL, build_root
from sandbox.jail import arguments
from sandbox.jail.root import Root
from sandbox.limits import MIB, Limits
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked

_ARTIFACT_BASE_BYTES, _ARTIFACT_BYTES_PER_SOURCE_BYTE = 4096, 8
"""Maximum size of packed bytecode: a constant, plus this many bytes for each byte of the source."""

_MOST_ARTIFACT_BYTES = 2 << 20
"""Maximum size of packed bytecode in any case, because copying 2 MiB to new memory blocks the loop for 1 ms."""

_ADDRESS_SPACE_MIB = 64
"""Minimum RLIMIT_AS of the zygote, which runs no user code. A child lowers it to the run's limit."""


class Host:
    """QuickJS in this daemon: see `EngineHost`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.version = self.installed()
        self.artifact_build = version.artifact_build()
        self._root: Root | None = None
        self._plan: Plan | None = None
        self._making = trio.Lock()

    @staticmethod
    def installed() -> str:
        """Return the version of the cell that is installed. Raises RootError."""
        return version.installed()

    def missing(self) -> str | None:
        """Return None, because it is a dependency of the package."""
        return None

    def is_demanded(self) -> bool:
        """Whether the settings require it to be installed."""
        return False

    def set_default(self, default: Limits) -> bool:
        """Change the limits of a run that asks for none. Blank children have the CPU limit."""
        old = self._setting.default
        self._setting = msgspec.structs.replace(self._setting, default=default)
        self._plan = None
        return old.cpu_ms != default.cpu_ms

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return how to start a cell. The memory limit of a run is set in its child."""
        async with self._making:
            if self._plan is None:
                if self._root is None:
                    self._root = await trio.to_thread.run_sync(build_root, self._setting.folder)
                    self.version = self.installed()
                    self.artifact_build = version.artifact_build()
                self._plan = self._plan_in(self._root)
            return self._plan

    def _plan_in(self, root: Root) -> Plan:
        setting = self._setting
        cgroup = [] if setting.cgroup is None else setting.cgroup.arguments
        return Plan(
            engine="quickjs",
            executable=arguments.nsjail_path(),
            arguments=[
                *nsjail_arguments(root, setting.most_memory_bytes),
                *cgroup,
                *_command(setting.default),
            ],
            identities=setting.identities,
            folder=root.path,
            default=setting.default,
            cgroup=setting.cgroup,
        )

    async def start(self, plan: Plan, reactor: Reactor) -> QuickJSCell:
        """Start a cell."""
        return await starting.start(plan, reactor)

    def artifact_bytes(self, source: bytes) -> int:
        """Return the maximum size of packed bytecode. Real bundles need up to twice their source."""
        return min(_ARTIFACT_BASE_BYTES + _ARTIFACT_BYTES_PER_SOURCE_BYTE * len(source), _MOST_ARTIFACT_BYTES)

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact | None:
        """Return the reported form and the bytecode, unverified: see `artifact_at_once`."""
        return self.artifact_at_once(language, checked)

    def artifact_at_once(self, language: Language, checked: Checked) -> Artifact | None:
        """Return the reported form and the bytecode, unverified.

        False answers affect only this program's own runs, which could do the same from source.
        """
        code = None if checked.code is None else bytes(checked.code)
        return Artifact(form=Form.MODULE if checked.module else Form.BODY, language="javascript", code=code)

    def held_by(self) -> dict[str, str]:
        """Describe what enforces each limit."""
        cgroup = self._setting.cgroup
        held = {
            "memory": "RLIMIT_AS on the process",
            "cpu": "a kernel timer on the process's CPU clock; RLIMIT_CPU as a second limit",
            "wall": "the daemon's deadline",
            "result": "the daemon's byte cap",
            "logs": "the daemon's byte cap",
            "processes": "seccomp, RLIMIT_NPROC",
            "files": "seccomp",
            "network": "an empty network namespace, seccomp",
        }
        if cgroup is not None and cgroup.memory_bytes > 0:
            held["memory"] += f"; a memory cgroup of {cgroup.memory_bytes >> 20} MiB for each cell"
        if cgroup is not None and "pids" in cgroup.controllers:
            held["processes"] += "; a pids cgroup"
        return held


def nsjail_arguments(root: Root, most_memory_bytes: int) -> list[str]:
    """Return nsjail's arguments, without identity, cgroup and command.

    Descriptor 0 is the data socket, 1 the control socket, and 2 a pipe for errors before the zygote is ready.
    The namespaces (user, mount, pid, network, ipc, uts, cgroup), the dropped capabilities, no_new_privs and the
    read-only root are nsjail's defaults; tests attack each. Rlimits of sizes are in MiB.
    """
    policy = (resources.files("sandbox.engines.quickjs.host") / "policy.kafel").read_text("utf-8")
    return [
        *("--mode", "o"),
        *arguments.root_arguments(root.path),
        *("--cwd", "/"),
        *("--hostname", "promptlog"),
        *("--time_limit", "0"),
        *("--rlimit_as", str(max(_ADDRESS_SPACE_MIB, -(-most_memory_bytes // MIB)))),
        *("--rlimit_core", "0"),
        *("--rlimit_fsize", "0"),
        *("--rlimit_nofile", "16"),
        *("--rlimit_stack", "8"),
        *("--rlimit_memlock", "0"),
        *("--rlimit_msgqueue", "0"),
        *("--rlimit_rtprio", "0"),
        *("--nice_level", "0"),
        "--skip_setsid",  # see start.py; there is no terminal in the jail
        "--disable_proc",
        "--iface_no_lo",
        "--quiet",
        *("--seccomp_string", arguments.policy_text(policy, platform.machine())),
    ]


def _command(default: Limits) -> list[str]:
    return ["--", CELL, str(default.cpu_ms), str(default.memory_bytes)]
