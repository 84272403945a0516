"""Escapes tried by native code in a Deno cell's exact jail: its namespaces, its limits, its policy, without Deno."""

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
from sandbox.jail import arguments as jail
from sandbox.jail.identities import shared
from sandbox.jail.root import Root, copy
from sandbox.limits import MIB
from tests.hostile.takeover import cell
from tests.hostile.test_second_line import ESCAPES

_OTHERS: dict[str, set[str]] = {
    "harmless": {
        "openat",  # the jail's own root, read-only
        "execve",  # of the one program in the jail, under the same policy; it ends, since it has no arguments
        "socketpair",  # two ends in one process, of a kind that reaches nobody; Deno's signal handling wants one
        "mprotect to executable",  # V8's compilers
        "mmap executable",
        "mmap writable and executable",
        "getpid",
        "private futex",  # between threads of one process
        "read of the control channel",  # descriptor 1 is the data socket in this jail
        "write to the control channel",
        "write with a high half",
        "write to descriptor 2",  # /dev/null in a cell
    },
    "error": {
        "openat to write",
        "openat to create",
        "open in /dev/shm",
        "clone3",  # ENOSYS, so that the C library takes clone, whose flags a filter can see
        *(name for name in ESCAPES if name.startswith("futex ")),  # EAGAIN: nobody waits, and nobody is woken
        "pkey_alloc",  # ENOSYS, as on a processor without protection keys
        "tgkill",
        "process_vm_readv",
        "fcntl of the data socket",  # its flags are the next process's as well
        *(name for name in ESCAPES if name.startswith(("socket ", "read of descriptor", "write to descriptor"))),
        # (of descriptors a Deno cell has its own event loop's, see test_deno.py)
    },
}
_WITH_JIT_ALONE = {"mprotect to executable", "mmap executable", "mmap writable and executable"}


def _expected(name: str, *, jit: bool) -> str:
    if name in _WITH_JIT_ALONE and not jit:
        return "SIGSYS"
    return next((kind for kind, names in _OTHERS.items() if name in names), "SIGSYS")


@pytest.fixture(scope="module")
def made() -> Iterator[Root]:
    """A root with a cell that can be taken over, which makes the calls."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        copy(cell(), folder / "root/quickjs-cell", 0o755)
        yield Root(path=folder / "root")
    finally:
        rmtree(folder)


def _tried(made: Root, name: str, *, jit: bool) -> str | int:
    """Return what came of a system call: SIGSYS, what it returned, or harmless for an exec that found no arguments."""
    assert platform.machine() == "x86_64", "the system call numbers here are x86-64's"
    words = "1 1 zero 29" if name == "write to the control channel" else ESCAPES[name][0]
    arguments = deno.nsjail_arguments(made, deno.policy_text(jit=jit), jit=jit, memory_bytes=128 * MIB)
    identity = shared("").take()
    assert identity is not None
    arguments = [*jail.identity_arguments(identity), *arguments[: arguments.index("--")]]
    arguments[arguments.index("--mode") + 1] = "o"  # once
    reading, writing = os.pipe()
    command = [str(jail.nsjail_path()), "--log_fd", str(writing), *arguments]
    done = subprocess.run(
        [*command, "--", "/quickjs-cell", "call", *words.split()],
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
    # Else it must have lived to tell what the kernel said: a jail that did not start is neither.
    assert "exited with status: 0" in log, log
    return int(done.stderr.split(b"\0")[-1])


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "jitless"])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_deno_jail_refuses(made: Root, name: str, jit: bool) -> None:
    """Each call that V8 does not need ends the process with SIGSYS, or is refused; the rest reaches nothing outside."""
    tried = _tried(made, name, jit=jit)
    if isinstance(tried, int):
        tried = "error" if tried < 0 else "harmless"
    assert tried == _expected(name, jit=jit)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "jitless"])
def test_v8_runs_without_protection_keys(made: Root, jit: bool) -> None:
    """`pkey_alloc` is refused on all processors: with a key V8 would call pkey_mprotect, which ends the process."""
    assert _tried(made, "pkey_alloc", jit=jit) == -errno.ENOSYS


def test_what_a_deno_jail_lets_through_is_listed() -> None:
    """The names above are those of escapes that are tried."""
    assert set().union(*_OTHERS.values()) <= set(ESCAPES)
