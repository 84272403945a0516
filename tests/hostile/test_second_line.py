"""Escape attempts from the inside, as if the engine had been taken over: native code in place of a child's engine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptlogctl.client import Client
from sandbox.outcome import BadResult, Crashed, Outcome

AF = {"unix": 1, "inet": 2, "ax25": 3, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "xdp": 44}

# Numbers are those of x86-64. Each entry has the result with the jail alone, without the second filter: "SIGSYS";
# "error", if the kernel refuses; or "harmless", with the reason beside it.
ESCAPES: dict[str, tuple[str, str]] = {
    "open": ("2 path 0", "error"),
    "open to write": ("2 path 1", "error"),
    "openat": ("257 -100 path 0", "error"),
    "openat to write": ("257 -100 path 1", "error"),
    "openat to create": ("257 -100 zero 0x41", "error"),
    "openat2": ("437 -100 path zero 24", "SIGSYS"),
    "creat": ("85 path 0", "SIGSYS"),
    "execve": ("59 path 0 0", "harmless"),  # of the cell itself, in the same jail, which has no other file
    "execveat": ("322 -100 path 0 0 0", "SIGSYS"),
    "fork": ("57", "SIGSYS"),
    "vfork": ("58", "SIGSYS"),
    "clone": ("56 0x11 0 0 0 0", "error"),
    "clone as the C library's fork": ("56 0x1200011 0 0 0 0", "SIGSYS"),
    "clone with new namespaces": ("56 0x7e020011 0 0 0 0", "SIGSYS"),
    "clone3": ("435 zero 88", "SIGSYS"),
    "kill the zygote": ("62 1 9", "harmless"),  # it is init of its pid namespace, which ignores signals from inside
    "kill all others": ("62 -1 9", "error"),
    "kill with another signal": ("62 1 15", "SIGSYS"),
    "tgkill": ("234 1 1 9", "SIGSYS"),
    "tkill": ("200 1 9", "SIGSYS"),
    "stop itself": ("62 0 19", "SIGSYS"),
    "queue a signal": ("129 1 9 zero", "SIGSYS"),
    "ptrace attach": ("101 16 1 0 0", "SIGSYS"),
    "process_vm_readv": ("310 1 iovec 1 iovec 1 0", "SIGSYS"),
    "process_vm_writev": ("311 1 iovec 1 iovec 1 0", "SIGSYS"),
    "pidfd_open of the zygote": ("434 1 0", "harmless"),  # no call that takes a pidfd is allowed
    "pidfd_getfd": ("438 0 0 0", "SIGSYS"),
    "pidfd_send_signal": ("424 0 9 0 0", "SIGSYS"),
    **{f"socket {name}": (f"41 {number} 1 0", "SIGSYS") for name, number in AF.items()},
    "socketpair": ("53 1 1 0 zero", "SIGSYS"),
    "connect the data socket to the daemon": ("42 0 unix 110", "SIGSYS"),
    "connect to a network": ("42 0 inet 16", "SIGSYS"),
    "bind": ("49 0 unix 110", "SIGSYS"),
    "accept": ("43 0 0 0", "SIGSYS"),
    "sendmsg, to pass descriptors": ("46 0 zero 0", "SIGSYS"),
    "recvmsg, to get descriptors": ("47 0 zero 0", "SIGSYS"),
    "sendto": ("44 0 zero 1 0 0 0", "SIGSYS"),
    "shutdown": ("48 0 2", "SIGSYS"),
    "io_uring_setup": ("425 1 zero", "SIGSYS"),
    "io_uring_enter": ("426 0 0 0 0 0 0", "SIGSYS"),
    "userfaultfd": ("323 0", "SIGSYS"),
    "bpf": ("321 0 zero 128", "SIGSYS"),
    "keyctl": ("250 0 -3 0", "SIGSYS"),
    "add_key": ("248 path path zero 1 -3", "SIGSYS"),
    "perf_event_open": ("298 zero 0 -1 -1 0", "SIGSYS"),
    "mount": ("165 path path path 0 0", "SIGSYS"),
    "umount2": ("166 path 2", "SIGSYS"),
    "fsopen": ("430 path 0", "SIGSYS"),
    "open_tree": ("428 -100 path 0", "SIGSYS"),
    "unshare": ("272 0x10000000", "SIGSYS"),
    "setns": ("308 0 0", "SIGSYS"),
    "pivot_root": ("155 path path", "SIGSYS"),
    "chroot": ("161 path", "SIGSYS"),
    "chdir": ("80 path", "SIGSYS"),
    "mprotect to executable": ("10 code 4096 5", "SIGSYS"),
    "mmap executable": ("9 0 4096 5 0x22 -1 0", "SIGSYS"),
    "mmap writable and executable": ("9 0 4096 7 0x22 -1 0", "SIGSYS"),
    "pkey_mprotect": ("329 code 4096 5 -1", "SIGSYS"),
    "pkey_alloc": ("330 0 0", "SIGSYS"),
    "memfd_create": ("319 path 0", "SIGSYS"),
    "fexec of the data socket": ("322 0 zero 0 0 0x1000", "SIGSYS"),
    "prctl": ("157 22 2 zero 0 0", "error"),
    "prctl, to be dumpable": ("157 4 1 0 0 0", "SIGSYS"),
    "seccomp": ("317 1 0 zero", "SIGSYS"),
    "prlimit64 of memory": ("302 0 9 zero 0", "harmless"),  # it can only lower its limits
    "setrlimit": ("160 9 zero", "SIGSYS"),
    "personality": ("135 0xffffffff", "SIGSYS"),
    "shmget": ("29 0 4096 0x3ff", "SIGSYS"),
    "semget": ("64 0 1 0x3ff", "SIGSYS"),
    "msgget": ("68 0 0x3ff", "SIGSYS"),
    # `code` is a page of the executable that other cells have mapped too.
    "futex wake on a page that cells share": ("202 code 1 1", "SIGSYS"),
    "futex wait on a page that cells share": ("202 code 0 0 zero", "SIGSYS"),
    "futex requeue between pages that cells share": ("202 code 3 1 1 code", "SIGSYS"),
    "private futex": ("202 zero 0x81 1", "harmless"),  # of the first line; it affects only this process
    "mq_open": ("240 path 0x42 0x1ff 0", "SIGSYS"),
    "open in /dev/shm": ("257 -100 zero 0x42", "error"),
    "sched_setaffinity": ("203 0 8 zero", "SIGSYS"),
    "sched_setscheduler": ("144 0 1 zero", "SIGSYS"),
    "setpriority": ("141 0 0 -20", "SIGSYS"),
    "disarm the CPU timer": ("223 0 0 zero 0", "harmless"),  # the second filter prevents this; RLIMIT_CPU remains
    "delete the CPU timer": ("226 0", "SIGSYS"),
    "setitimer": ("38 2 zero 0", "SIGSYS"),
    "dup2 over the data socket": ("33 1 0", "SIGSYS"),
    "fcntl of the data socket": ("72 0 4 0", "SIGSYS"),
    "ioctl TIOCSTI": ("16 0 0x5412 zero", "SIGSYS"),
    "setuid": ("105 0", "SIGSYS"),
    "capset": ("126 zero zero", "SIGSYS"),
    "init_module": ("175 zero 16 zero", "SIGSYS"),
    "kexec_load": ("246 0 0 0 0", "SIGSYS"),
    "reboot": ("169 0xfee1dead 672274793 0x1234567 0", "SIGSYS"),
    "swapon": ("167 path 0", "SIGSYS"),
    "syslog": ("103 3 zero 16", "SIGSYS"),
    "settimeofday": ("164 zero 0", "SIGSYS"),
    "ioperm": ("173 0 1 1", "SIGSYS"),
    "modify_ldt": ("154 1 zero 16", "SIGSYS"),
    "quotactl": ("179 0 path 0 zero", "SIGSYS"),
    "name_to_handle_at": ("303 -100 path zero zero 0", "SIGSYS"),
    "inotify_init": ("253", "SIGSYS"),
    "getpid": ("39", "SIGSYS"),
    "wait4": ("61 -1 zero 1 0", "error"),
    "x32 getpid": (f"{0x40000000 + 39}", "SIGSYS"),
    "x32 read": (f"{0x40000000} 0 zero 1", "SIGSYS"),
    "no such call": ("9999", "SIGSYS"),
    "a negative number": ("-1", "SIGSYS"),
    "read of the control channel": ("0 1 zero 1", "error"),
    "write to the control channel": ("1 1 zero 29", "error"),
    "write with a high half": (f"1 {1 << 32} zero 1", "harmless"),  # the kernel truncates it to descriptor 0
    **{f"read of descriptor {number}": (f"0 {number} zero 1", "error") for number in range(2, 16)},
    **{f"write to descriptor {number}": (f"1 {number} zero 1", "error") for number in range(2, 16)},
}

INT_80 = {"getpid": 20, "open": 5, "fork": 2, "execve": 11, "exit": 1}


@contextmanager
def taken_over(folder: Path, *options: str) -> Iterator[Client]:
    """A client of a daemon whose children can be taken over."""
    script = Path(__file__).parent / "takeover.py"
    socket = folder / "s"
    reading, writing = os.pipe()
    command = [sys.executable, str(script), *options, "--socket", str(socket), "--state-dir", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=(writing,), stderr=log)
    os.close(writing)
    with process:
        try:
            with open(reading, "rb") as ready:
                assert ready.read() == b"ready\n", (folder / "log").read_text()
            with Client(socket) as client:
                yield client
                assert client.run_source("const result = prompt.length", "canary").value == 6
        finally:
            process.terminate()
            process.wait(15)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """With both lines of defence."""
    assert platform.machine() == "x86_64", "the system call numbers here are x86-64's"
    with taken_over(tmp_path_factory.mktemp("both")) as client:
        yield client


@pytest.fixture(scope="module")
def first_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Without the second filter."""
    assert platform.machine() == "x86_64", "the system call numbers here are x86-64's"
    with taken_over(tmp_path_factory.mktemp("first"), "--no-second-filter") as client:
        yield client


def _attack(client: Client, command: str) -> Outcome:
    return client.run_source(f"//TAKEOVER {command}\nreturn 1").outcome


NOT_STARTED = Crashed(message="the engine ended with exit code 74")
SIGSYS = Crashed(signal="SIGSYS", message="the engine was ended by a signal")


@pytest.mark.parametrize("name", ESCAPES)
def test_the_second_filter_refuses(inside: Client, name: str) -> None:
    """Any system call that a run does not need ends a child with SIGSYS, and its run is reported as crashed."""
    assert _attack(inside, f"S {ESCAPES[name][0]}") == SIGSYS


@pytest.mark.parametrize("name", ESCAPES)
def test_the_first_line_alone(first_line: Client, name: str) -> None:
    """Without the second filter, the jail still ends the call, or refuses it, or makes it harmless."""
    call, holds = ESCAPES[name]
    outcome = _attack(first_line, f"S {call}")
    if holds == "SIGSYS":
        assert outcome == SIGSYS
    else:
        if isinstance(outcome, BadResult):
            assert holds == "harmless" or int(outcome.message) < 0, outcome
        else:  # the bytes written are not a frame
            assert holds == "harmless"
            no_frame = Crashed(message="the engine wrote a frame of no known kind, '\\x00'")
            assert outcome == (NOT_STARTED if name == "execve" else no_frame)


@pytest.mark.parametrize("name", INT_80)
def test_the_32_bit_entry_is_closed(inside: Client, first_line: Client, name: str) -> None:
    """System calls through `int 0x80`, where the numbers have other meanings, end in SIGSYS with both lines and one."""
    assert _attack(inside, f"I {INT_80[name]}") == SIGSYS
    assert _attack(first_line, f"I {INT_80[name]}") == SIGSYS


def test_allowed_calls_reach_the_kernel(inside: Client) -> None:
    """An allowed call succeeds and returns its result, so the attacks above do reach the kernel."""
    outcome = _attack(inside, "S 9 0 4096 3 0x22 -1 0")
    assert isinstance(outcome, BadResult)
    assert int(outcome.message) > 0
