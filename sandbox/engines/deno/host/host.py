"""The daemon's side of Deno: starting cells, enforcing limits, and building artifacts."""

from __future__ import annotations

import platform
from importlib import resources

import msgspec
import trio

from sandbox.cells.job import COMMENT, HASHBANG
from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.engines.deno.host import start as starting
from sandbox.engines.deno.host import version
from sandbox.engines.deno.host.cell import DenoCell
from sandbox.engines.deno.host.root import DENO, IMPORT_MAP, RUNNER, build_root, deno_executable
from sandbox.engines.deno.host.stripped import is_stripped
from sandbox.engines.host.engine_host import Setting
from sandbox.errors import SettingError
from sandbox.jail import arguments
from sandbox.jail.root import LIBRARIES, Root, RootError
from sandbox.limits import MIB, Limits
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked

_WITH_JIT, _WITHOUT_JIT = "/* with JIT */", "/* without JIT */"

_BASE_MIB = 48
"""Memory of a cell in addition to V8's heap: Deno itself, stacks, V8's young generation, code."""

_ARTIFACT_BUILD = "4"
"""Raise it when the content or the format of Deno's artifacts changes."""

_THREADS = 48
"""Maximum number of threads. Deno has six on a host with many cores, and up to 32 for jobs such as cryptography. Deno
ends if it cannot create a thread."""

_FLAGS = (
    "--no-prompt", "--no-remote", "--no-npm", "--no-config", "--no-lock", "--no-code-cache", "--quiet", "--ext=js",
    f"--import-map={IMPORT_MAP}",
)  # fmt: skip

FILES_BYTES = 8 << 20
"""Correction of RLIMIT_DATA, which does not count pages of files. About 20 MiB of Deno's files are resident."""


class Host:
    """Deno in this daemon: see `EngineHost`. Its options: `jit`."""

    def __init__(self, setting: Setting) -> None:
        held = setting.cgroup is not None and setting.cgroup.memory_bytes > 0
        jit = setting.options.jit if setting.options is not None else "auto"
        if jit == "always" and not held:
            raise SettingError(
                "deno.jit is always, but there is no memory cgroup to limit a program's memory: delegate one "
                "(Delegate=yes in the systemd unit), or set deno.jit to auto"
            )
        self._demanded = jit == "always"
        self._jit = held and jit != "never"
        self._behind = setting.cgroup is not None and held
        self._cgroup = setting.cgroup if held else None
        self._setting = setting
        self.version = "" if self.missing() else self.installed()
        self.artifact_build = _ARTIFACT_BUILD
        self._policy = policy_text(jit=self._jit)
        self._root: Root | None = None
        self._building = trio.Lock()

    @staticmethod
    def installed() -> str:
        """Return the version of Deno that is installed. Raises RootError."""
        return version.installed()

    def missing(self) -> str | None:
        """Return why Deno is not installed, and the command that installs it. None if it is installed."""
        try:
            deno_executable()
        except RootError as error:
            return error.why
        return None

    def is_demanded(self) -> bool:
        """Whether the settings require it to be installed."""
        return self._demanded

    def set_default(self, default: Limits) -> bool:
        """Change the limits of a run that asks for none. A blank process has nothing of them but the memory."""
        self._setting = msgspec.structs.replace(self._setting, default=default)
        return False

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return how to start a cell with this memory limit, or with the default. Raises RootError."""
        async with self._building:
            if self._root is None:
                self._root = await trio.to_thread.run_sync(lambda: build_root(self._setting.folder, deno_executable()))
                self.version = self.installed()
        limits = self._setting.default
        if memory_bytes is not None:
            limits = msgspec.structs.replace(limits, memory_bytes=memory_bytes)
        return Plan(
            engine="deno",
            executable=arguments.nsjail_path(),
            arguments=nsjail_arguments(self._root, self._policy, jit=self._jit, memory_bytes=limits.memory_bytes),
            identities=self._setting.identities,
            folder=self._root.path,
            default=limits,
            cgroup=self._cgroup,
            data_bytes=None if self._jit else limits.memory_bytes - FILES_BYTES,
        )

    async def start(self, plan: Plan, reactor: Reactor) -> DenoCell:
        """Start a cell."""
        return await starting.start(plan, reactor)

    def artifact_bytes(self, source: bytes) -> int:
        """Return the size of the source, because types are replaced by blanks."""
        return len(source)

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact | None:
        """Return the reported form, and the text without types if it differs from the source only by blanks.

        A false form makes a program that does not run. This affects only the program's own runs.
        """
        if checked.code is None:
            return self.artifact_at_once(language, checked)
        code = bytes(checked.code)
        if source.startswith(HASHBANG):
            source = COMMENT + source[len(HASHBANG) :]
        if language == "typescript" and await is_stripped(source, code):
            return Artifact(form=_form(checked), language="javascript", code=code)
        return None

    def artifact_at_once(self, language: Language, checked: Checked) -> Artifact | None:
        """Return the reported form. None if types were removed, because comparing the code with the source takes
        long."""
        return Artifact(form=_form(checked), language=language) if checked.code is None else None

    def held_by(self) -> dict[str, str]:
        """Describe what enforces each limit that is enforced differently from the default engine."""
        why = self.missing()
        if why is not None:
            return {"memory": why}
        if self._jit:
            memory = "a memory cgroup for each cell; with JIT"
        else:
            behind = "; a memory cgroup for each cell" if self._behind else ""
            memory = f"RLIMIT_DATA on the process{behind}; without JIT"
        return {
            "memory": memory,
            "cpu": "the watchdog, which reads the process's CPU clock; RLIMIT_CPU as a second limit",
        }


def policy_text(*, jit: bool) -> str:
    """Return the seccomp policy of Deno's jails on this machine."""
    policy = (resources.files("sandbox.engines.deno.host") / "policy.kafel").read_text("utf-8")
    return arguments.policy_text(policy, platform.machine(), without=(_WITHOUT_JIT if jit else _WITH_JIT,))


def nsjail_arguments(root: Root, policy: str, *, jit: bool, memory_bytes: int) -> list[str]:
    """Return nsjail's arguments, without the identity, for a cell with this memory limit.

    Descriptors 0 and 1 are the data socket. Deno reserves tens of GiB of address space, so a cgroup limits memory, or
    RLIMIT_DATA without JIT. V8's heap limit is lower, so that V8 collects garbage in time.
    """
    environment = {
        "LD_LIBRARY_PATH": LIBRARIES,
        "DENO_DIR": "/none",
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PACKAGE_JSON": "1",
        # Otherwise Deno tries five times to write the transpiled TypeScript to a cache, which takes 150 ms.
        "DENO_EMIT_CACHE_MODE": "disable",
        "DENO_CACHE_DB_MODE": "disable",
        "NO_COLOR": "1",
    }
    options = [
        *("--mode", "r"),
        *arguments.root_arguments(root.path),
        *("--cwd", "/"),
        *("--hostname", "promptlog"),
        *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
        *("--time_limit", "0"),
        *("--rlimit_as", "inf"),
        *("--rlimit_core", "0"),
        *("--rlimit_fsize", "0"),
        *("--rlimit_nofile", "64"),
        *("--rlimit_nproc", str(_THREADS)),
        *("--rlimit_stack", "8"),
        *("--rlimit_memlock", "0"),
        *("--rlimit_msgqueue", "0"),
        *("--rlimit_rtprio", "0"),
        *("--nice_level", "0"),
        "--skip_setsid",
        "--disable_proc",
        "--iface_no_lo",
        *("--seccomp_string", policy),
    ]
    # At least half, because the verdict for an end at the heap limit depends on the resident size (verdict.py).
    heap_mib = max(memory_bytes // MIB - _BASE_MIB, memory_bytes // MIB // 2)
    # Allocate the whole young generation at once, and collect garbage without threads, because a run has one core. A
    # program that makes 300,000 objects then takes a third less CPU time.
    young = ["--min-semi-space-size=4", "--max-semi-space-size=4", "--single-threaded-gc"]
    v8 = [f"--max-old-space-size={heap_mib}", *young]
    if not jit:
        v8 += ["--jitless", "--single-threaded"]
    command = [DENO, "run", *_FLAGS, f"--v8-flags={','.join(v8)}", RUNNER]
    return [*options, "--", *command]


def _form(checked: Checked) -> Form:
    return Form.MODULE if checked.module else Form.BODY
