"""Escape attempts by native code in a Deno cell's jail, with its namespaces, limits and policy, and without Deno."""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from sandbox.engines.deno.host import host as deno
from sandbox.engines.quickjs.host.filter import Machine
from sandbox.jail import arguments as jail
from sandbox.jail.identities import shared
from sandbox.jail.root import Root, copy
from sandbox.limits import MIB
from tests.hostile.calls import NUMBERS, numbered
from tests.hostile.takeover import cell
from tests.hostile.test_second_line import ALL_ESCAPES, ESCAPES

_OTHERS: dict[str, set[str]] = {
    "harmless": {
        "openat",  # in the jail's read-only root
        "execve",  # of the jail's only program, under the same policy; it exits, because it gets no arguments
        "socketpair",  # both ends in this process, of a type that can connect nowhere; Deno's signal handling needs one
        "mprotect to executable",  # needed by V8's compilers
        "mmap executable",
        "mmap writable and executable",
        "getpid",
        "private futex",  # between threads of one process
        "read of the control channel",  # descriptor 1 is the data socket in this jail
        "write to the control channel",
        "write with a high half",
        "write to descriptor 2",  # this is /dev/null in a cell
    },
    "error": {
        "openat to write",
        "openat to create",
        "open in /dev/shm",
        "clone3",  # ENOSYS, so that the C library uses clone, whose flags a filter can read
        *(name for name in ALL_ESCAPES if name.startswith("futex ")),  # EAGAIN: no thread waits, and none is woken
        "pkey_alloc",  # ENOSYS, as on a processor without protection keys
        "tgkill",
        "process_vm_readv",
        "fcntl of the data socket",  # the next process would inherit its flags
        *(name for name in ALL_ESCAPES if name.startswith(("socket ", "read of descriptor", "write to descriptor"))),
        # (of its own descriptors, Deno has only those of the event loop: see test_deno.py)
    },
}
_WITH_JIT_ALONE = {"mprotect to executable", "mmap executable", "mmap writable and executable"}


def _expected(name: str, *, jit: bool) -> str:
    if name in _WITH_JIT_ALONE and not jit:
        return "SIGSYS"
    return next((kind for kind, names in _OTHERS.items() if name in names), "SIGSYS")


@pytest.fixture(scope="module")
def made() -> Iterator[Root]:
    """A root folder with the cell that can be taken over, which makes the system calls."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        copy(cell(), folder / "root/quickjs-cell", 0o755)
        yield Root(path=folder / "root")
    finally:
        rmtree(folder)


_CLOCKS = {"clock_gettime": "clock_gettime 0 path", "gettimeofday": "gettimeofday path 0"}


def _tried(made: Root, name: str, *, jit: bool) -> str | int:
    """Return the result of a system call: SIGSYS, its return value, or harmless for an exec without arguments."""
    words = _CLOCKS.get(name) or ESCAPES[name][0]
    arguments = deno.nsjail_arguments(made, deno.policy_text(jit=jit), jit=jit, memory_bytes=128 * MIB)
    identity = shared("").take()
    assert identity is not None
    arguments = [*jail.identity_arguments(identity), *arguments[: arguments.index("--")]]
    arguments[arguments.index("--mode") + 1] = "o"  # run once
    reading, writing = os.pipe()
    command = [str(jail.nsjail_path()), "--log_fd", str(writing), *arguments]
    done = subprocess.run(
        [*command, "--", "/quickjs-cell", "call", *numbered(words).split()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(writing,),
        env={},
        timeout=20,
        check=False,
    )
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as file:
        log = file.read()
    if ended := re.search(r"terminated with signal: (\w+)", log):
        return ended[1]
    if name == "execve" and "exited with status: 74" in log:
        return "harmless"
    # Otherwise the process must have reported the result. A jail that did not start proves nothing.
    assert "exited with status: 0" in log, log
    return int(done.stderr.split(b"\0")[-1])


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "jitless"])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_deno_jail_refuses(made: Root, name: str, jit: bool) -> None:
    """Each call that V8 does not need ends the process with SIGSYS or fails; allowed calls reach nothing outside."""
    tried = _tried(made, name, jit=jit)
    if isinstance(tried, int):
        tried = "error" if tried < 0 else "harmless"
    assert tried == _expected(name, jit=jit)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "jitless"])
def test_v8_runs_without_protection_keys(made: Root, jit: bool) -> None:
    """`pkey_alloc` fails on all processors: with a key, V8 would call pkey_mprotect, which ends the process."""
    assert _tried(made, "pkey_alloc", jit=jit) == -errno.ENOSYS


@pytest.mark.parametrize("name", _CLOCKS)
def test_clocks_can_be_read_without_the_vdso(made: Root, name: str) -> None:
    """On a host whose clock source user space can't read, the vDSO makes a system call: V8 would not start."""
    assert _tried(made, name, jit=True) in (0, -errno.EFAULT)


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_policy_names_no_call_that_nsjail_does_not_know(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For arm64, nsjail does not know the name `pkey_alloc`, and would start no jail: the policy has its number."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    text = re.sub(r"/\*.*?\*/", "", deno.policy_text(jit=True), flags=re.DOTALL)
    assert ("pkey_alloc" in text) == (machine == "x86_64")
    assert re.findall(r"SYSCALL\[(\d+)\]", text) == (
        [] if machine == "x86_64" else [str(NUMBERS[machine]["pkey_alloc"])]
    )


def test_the_exceptions_name_existing_escapes() -> None:
    """Each name in the table of exceptions is one of the escapes."""
    assert set().union(*_OTHERS.values()) <= set(ALL_ESCAPES)
