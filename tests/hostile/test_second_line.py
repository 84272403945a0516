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
from tests.hostile.calls import exists, numbered

AF = {"unix": 1, "inet": 2, "ax25": 3, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "xdp": 44}

# Each entry has the result with the jail alone, without the second filter: "SIGSYS"; "error", if the kernel refuses; or
# "harmless", with the reason beside it.
ALL_ESCAPES: dict[str, tuple[str, str]] = {
    "open": ("open path 0", "error"),
    "open to write": ("open path 1", "error"),
    "openat": ("openat -100 path 0", "error"),
    "openat to write": ("openat -100 path 1", "error"),
    "openat to create": ("openat -100 zero 0x41", "error"),
    "openat2": ("openat2 -100 path zero 24", "SIGSYS"),
    "creat": ("creat path 0", "SIGSYS"),
    "execve": ("execve path 0 0", "harmless"),  # of the cell itself, in the same jail, which has no other file
    "execveat": ("execveat -100 path 0 0 0", "SIGSYS"),
    "fork": ("fork", "SIGSYS"),
    "vfork": ("vfork", "SIGSYS"),
    "clone": ("clone 0x11 0 0 0 0", "error"),
    "clone as the C library's fork": ("clone 0x1200011 0 0 0 0", "SIGSYS"),
    "clone with new namespaces": ("clone 0x7e020011 0 0 0 0", "SIGSYS"),
    "clone3": ("clone3 zero 88", "SIGSYS"),
    "kill the zygote": ("kill 1 9", "harmless"),  # it is init of its pid namespace, which ignores signals from inside
    "kill all others": ("kill -1 9", "error"),
    "kill with another signal": ("kill 1 15", "SIGSYS"),
    "tgkill": ("tgkill 1 1 9", "SIGSYS"),
    "tkill": ("tkill 1 9", "SIGSYS"),
    "stop itself": ("kill 0 19", "SIGSYS"),
    "queue a signal": ("rt_sigqueueinfo 1 9 zero", "SIGSYS"),
    "ptrace attach": ("ptrace 16 1 0 0", "SIGSYS"),
    "process_vm_readv": ("process_vm_readv 1 iovec 1 iovec 1 0", "SIGSYS"),
    "process_vm_writev": ("process_vm_writev 1 iovec 1 iovec 1 0", "SIGSYS"),
    "pidfd_open of the zygote": ("pidfd_open 1 0", "harmless"),  # no call that takes a pidfd is allowed
    "pidfd_getfd": ("pidfd_getfd 0 0 0", "SIGSYS"),
    "pidfd_send_signal": ("pidfd_send_signal 0 9 0 0", "SIGSYS"),
    **{f"socket {name}": (f"socket {number} 1 0", "SIGSYS") for name, number in AF.items()},
    "socketpair": ("socketpair 1 1 0 zero", "SIGSYS"),
    "connect the data socket to the daemon": ("connect 0 unix 110", "SIGSYS"),
    "connect to a network": ("connect 0 inet 16", "SIGSYS"),
    "bind": ("bind 0 unix 110", "SIGSYS"),
    "accept": ("accept 0 0 0", "SIGSYS"),
    "sendmsg, to pass descriptors": ("sendmsg 0 zero 0", "SIGSYS"),
    "recvmsg, to get descriptors": ("recvmsg 0 zero 0", "SIGSYS"),
    "sendto": ("sendto 0 zero 1 0 0 0", "SIGSYS"),
    "shutdown": ("shutdown 0 2", "SIGSYS"),
    "io_uring_setup": ("io_uring_setup 1 zero", "SIGSYS"),
    "io_uring_enter": ("io_uring_enter 0 0 0 0 0 0", "SIGSYS"),
    "userfaultfd": ("userfaultfd 0", "SIGSYS"),
    "bpf": ("bpf 0 zero 128", "SIGSYS"),
    "keyctl": ("keyctl 0 -3 0", "SIGSYS"),
    "add_key": ("add_key path path zero 1 -3", "SIGSYS"),
    "perf_event_open": ("perf_event_open zero 0 -1 -1 0", "SIGSYS"),
    "mount": ("mount path path path 0 0", "SIGSYS"),
    "umount2": ("umount2 path 2", "SIGSYS"),
    "fsopen": ("fsopen path 0", "SIGSYS"),
    "open_tree": ("open_tree -100 path 0", "SIGSYS"),
    "unshare": ("unshare 0x10000000", "SIGSYS"),
    "setns": ("setns 0 0", "SIGSYS"),
    "pivot_root": ("pivot_root path path", "SIGSYS"),
    "chroot": ("chroot path", "SIGSYS"),
    "chdir": ("chdir path", "SIGSYS"),
    "mprotect to executable": ("mprotect code 4096 5", "SIGSYS"),
    "mmap executable": ("mmap 0 4096 5 0x22 -1 0", "SIGSYS"),
    "mmap writable and executable": ("mmap 0 4096 7 0x22 -1 0", "SIGSYS"),
    "pkey_mprotect": ("pkey_mprotect code 4096 5 -1", "SIGSYS"),
    "pkey_alloc": ("pkey_alloc 0 0", "SIGSYS"),
    "memfd_create": ("memfd_create path 0", "SIGSYS"),
    "fexec of the data socket": ("execveat 0 zero 0 0 0x1000", "SIGSYS"),
    "prctl": ("prctl 22 2 zero 0 0", "error"),
    "prctl, to be dumpable": ("prctl 4 1 0 0 0", "SIGSYS"),
    "seccomp": ("seccomp 1 0 zero", "SIGSYS"),
    "prlimit64 of memory": ("prlimit64 0 9 zero 0", "harmless"),  # it can only lower its limits
    "setrlimit": ("setrlimit 9 zero", "SIGSYS"),
    "personality": ("personality 0xffffffff", "SIGSYS"),
    "shmget": ("shmget 0 4096 0x3ff", "SIGSYS"),
    "semget": ("semget 0 1 0x3ff", "SIGSYS"),
    "msgget": ("msgget 0 0x3ff", "SIGSYS"),
    # `code` is a page of the executable that other cells have mapped too.
    "futex wake on a page that cells share": ("futex code 1 1", "SIGSYS"),
    "futex wait on a page that cells share": ("futex code 0 0 zero", "SIGSYS"),
    "futex requeue between pages that cells share": ("futex code 3 1 1 code", "SIGSYS"),
    "private futex": ("futex zero 0x81 1", "harmless"),  # of the first line; it affects only this process
    "mq_open": ("mq_open path 0x42 0x1ff 0", "SIGSYS"),
    "open in /dev/shm": ("openat -100 zero 0x42", "error"),
    "sched_setaffinity": ("sched_setaffinity 0 8 zero", "SIGSYS"),
    "sched_setscheduler": ("sched_setscheduler 0 1 zero", "SIGSYS"),
    "setpriority": ("setpriority 0 0 -20", "SIGSYS"),
    "disarm the CPU timer": ("timer_settime 0 0 zero 0", "harmless"),  # the second filter prevents it; RLIMIT_CPU stays
    "delete the CPU timer": ("timer_delete 0", "SIGSYS"),
    "setitimer": ("setitimer 2 zero 0", "SIGSYS"),
    "dup2 over the data socket": ("dup2 1 0", "SIGSYS"),
    "dup3 over the data socket": ("dup3 1 0 0", "SIGSYS"),
    "fcntl of the data socket": ("fcntl 0 4 0", "SIGSYS"),
    "ioctl TIOCSTI": ("ioctl 0 0x5412 zero", "SIGSYS"),
    "setuid": ("setuid 0", "SIGSYS"),
    "capset": ("capset zero zero", "SIGSYS"),
    "init_module": ("init_module zero 16 zero", "SIGSYS"),
    "kexec_load": ("kexec_load 0 0 0 0", "SIGSYS"),
    "reboot": ("reboot 0xfee1dead 672274793 0x1234567 0", "SIGSYS"),
    "swapon": ("swapon path 0", "SIGSYS"),
    "syslog": ("syslog 3 zero 16", "SIGSYS"),
    "settimeofday": ("settimeofday zero 0", "SIGSYS"),
    "ioperm": ("ioperm 0 1 1", "SIGSYS"),
    "modify_ldt": ("modify_ldt 1 zero 16", "SIGSYS"),
    "quotactl": ("quotactl 0 path 0 zero", "SIGSYS"),
    "name_to_handle_at": ("name_to_handle_at -100 path zero zero 0", "SIGSYS"),
    "inotify_init": ("inotify_init", "SIGSYS"),
    "inotify_init1": ("inotify_init1 0", "SIGSYS"),
    "getpid": ("getpid", "SIGSYS"),
    "wait4": ("wait4 -1 zero 1 0", "error"),
    "x32 getpid": (f"{0x40000000 + 39}", "SIGSYS"),
    "x32 read": (f"{0x40000000} 0 zero 1", "SIGSYS"),
    "no such call": ("9999", "SIGSYS"),
    "a negative number": ("-1", "SIGSYS"),
    "read of the control channel": ("read 1 zero 1", "error"),
    "write to the control channel": ("write 1 zero 29", "error"),
    "write with a high half": (f"write {1 << 32} zero 1", "harmless"),  # the kernel truncates it to descriptor 0
    **{f"read of descriptor {number}": (f"read {number} zero 1", "error") for number in range(2, 16)},
    **{f"write to descriptor {number}": (f"write {number} zero 1", "error") for number in range(2, 16)},
}
ESCAPES = {name: escape for name, escape in ALL_ESCAPES.items() if exists(escape[0])}
"""The escapes whose system calls this machine has."""

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
    with taken_over(tmp_path_factory.mktemp("both")) as client:
        yield client


@pytest.fixture(scope="module")
def first_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Without the second filter."""
    with taken_over(tmp_path_factory.mktemp("first"), "--no-second-filter") as client:
        yield client


def _attack(client: Client, command: str) -> Outcome:
    return client.run_source(f"//TAKEOVER {command}\nreturn 1").outcome


NOT_STARTED = Crashed(message="the engine ended with exit code 74")
SIGSYS = Crashed(signal="SIGSYS", message="the engine was ended by a signal")


@pytest.mark.parametrize("name", ESCAPES)
def test_the_second_filter_refuses(inside: Client, name: str) -> None:
    """Any system call that a run does not need ends a child with SIGSYS, and its run is reported as crashed."""
    assert _attack(inside, f"S {numbered(ESCAPES[name][0])}") == SIGSYS


@pytest.mark.parametrize("name", ESCAPES)
def test_the_first_line_alone(first_line: Client, name: str) -> None:
    """Without the second filter, the jail still ends the call, or refuses it, or makes it harmless."""
    call, holds = ESCAPES[name]
    outcome = _attack(first_line, f"S {numbered(call)}")
    if holds == "SIGSYS":
        assert outcome == SIGSYS
    else:
        if isinstance(outcome, BadResult):
            assert holds == "harmless" or int(outcome.message) < 0, outcome
        else:  # the bytes written are not a frame
            assert holds == "harmless"
            no_frame = Crashed(message="the engine wrote a frame of no known kind, '\\x00'")
            assert outcome == (NOT_STARTED if name == "execve" else no_frame)


if platform.machine() == "x86_64":  # other machines do not have this entry

    @pytest.mark.parametrize("name", INT_80)
    def test_the_32_bit_entry_is_closed(inside: Client, first_line: Client, name: str) -> None:
        """System calls through `int 0x80`, with its other numbers, end in SIGSYS with both lines and one."""
        assert _attack(inside, f"I {INT_80[name]}") == SIGSYS
        assert _attack(first_line, f"I {INT_80[name]}") == SIGSYS


def test_allowed_calls_reach_the_kernel(inside: Client) -> None:
    """An allowed call succeeds and returns its result, so the attacks above do reach the kernel."""
    outcome = _attack(inside, f"S {numbered('mmap 0 4096 3 0x22 -1 0')}")
    assert isinstance(outcome, BadResult)
    assert int(outcome.message) > 0
