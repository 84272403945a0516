"""Starting nsjail: its life is tied to the daemon's, it joins its cgroup, and open descriptors do not matter."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sandbox.cells.plan import Plan
from sandbox.cells.process import LAUNCH, has_ended
from sandbox.engines.deno.host import start as deno
from sandbox.engines.deno.host.process import DenoProcess, status_bytes
from sandbox.errors import CellStartError
from tests.cell.cells import a_reactor, run_on, until_blank
from tests.cell.deno.cells import a_cell, value_of
from tests.daemon.processes import is_alive, until

_START_ONE = """
import os, sys, time
from pathlib import Path
from sandbox.cells.process import spawn
jail = spawn(Path(sys.argv[1]), sys.argv[2:], stdin=0, stdout=1, cwd="/")
print(jail.pid, flush=True)
time.sleep(60)
"""


def test_a_launched_process_ends_with_its_starter(tmp_path: Path) -> None:
    """After SIGKILL of the starter, the launched process ends without further action."""
    script = tmp_path / "nsjail"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    command = [sys.executable, "-c", _START_ONE, str(script)]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0060\0")
    starter.kill()
    starter.wait()
    starter.stdout.close()
    try:
        until(lambda: not is_alive(pid))
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_launch_after_the_starters_end_starts_nothing(tmp_path: Path) -> None:
    """If the starter has ended before the launcher executes nsjail, nothing starts, and that is no error."""
    for parent, started in ((os.getpid(), True), (1, False)):
        script = [str(LAUNCH), str(parent), "--", "/bin/sh", "-c", f"echo $# $HOME; touch {tmp_path}/{started}"]
        done = subprocess.run(script, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / str(started)).exists() is started
        assert done.stdout == (b"0\n" if started else b"")  # started without an environment


def test_a_launched_process_has_the_niceness_from_its_start() -> None:
    """The launcher sets the niceness before it executes the command, and needs no parent for that."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for parent in (0, os.getpid()):
        command = [str(LAUNCH), "-n", str(own + 3), str(parent), "--", "/bin/nice"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.stdout == b"%d\n" % (own + 3)


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--", "/nowhere"], 1, "/nowhere: No such file or directory\n"),
        (["/nowhere/cgroup.procs", "--", "/bin/true"], 1, "/nowhere/cgroup.procs: No such file or directory\n"),
        (["/dev/full", "--", "/bin/true"], 1, "/dev/full: No space left on device\n"),
        (["/dev/null", "--"], 2, "launch: no command\n"),
        (["/dev/null"], 2, "usage: launch [-n NICENESS] PARENT CGROUP_FILE... -- COMMAND ARGUMENT...\n"),
    ],
)
def test_the_launcher_reports_what_failed(more: list[str], code: int, says: str) -> None:
    """Each failure has an exit code and a line that names the file."""
    done = subprocess.run([str(LAUNCH), str(os.getpid()), *more], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, says)


async def test_a_failed_start_names_the_cause(plan: Plan, tmp_path: Path) -> None:
    """The error names a missing executable, or a cgroup that cannot be joined."""
    missing = msgspec.structs.replace(plan, executable=tmp_path / "nsjail")
    async with a_reactor() as reactor:
        with pytest.raises(CellStartError, match=f"{tmp_path}/nsjail: No such file"):
            await deno.start(missing, reactor)
        if plan.cgroup is not None:
            broken = msgspec.structs.replace(plan.cgroup, folders=[tmp_path / "memory"])
            (tmp_path / "memory").mkdir()
            with pytest.raises(CellStartError, match=r"cgroup\.procs: No such file"):
                await deno.start(msgspec.structs.replace(plan, cgroup=broken), reactor)


@pytest.fixture
def high_descriptors() -> Iterator[None]:
    """Takes all descriptors up to 1,100, so that each new one exceeds the limit of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    taken: list[int] = []
    while not taken or taken[-1] < 1100:
        taken.append(os.open("/dev/null", os.O_RDONLY))
    yield
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_cells_work_with_many_open_descriptors(plan: Plan, high_descriptors: None) -> None:
    """With more than 1,023 open descriptors, as with many clients, a cell starts, runs and takes further runs."""
    async with a_cell(plan) as cell:
        for number in range(2):
            assert value_of(await run_on(cell, f"return {number}")) == number
            assert cell.usable
            await until_blank(cell)


def test_the_end_of_a_process_is_seen_with_a_high_descriptor(high_descriptors: None) -> None:
    """The end of a process is detected with a descriptor above 1,023."""
    process = subprocess.Popen(["sleep", "60"])
    descriptor = os.pidfd_open(process.pid)
    assert descriptor > 1023
    assert not has_ended(descriptor)
    process.kill()
    process.wait()
    assert has_ended(descriptor)
    os.close(descriptor)


_NAMES = [b"VmHWM:\t1 kB", b"a\x0bVmHWM:\t1 kB", b"\x1cRssFile: 0 kB", b"x\nVmHWM:\t1", b"\xff\xfe:\t9 kB"]


@pytest.mark.parametrize("name", _NAMES)
def test_a_process_name_can_not_forge_its_peak_memory(name: bytes) -> None:
    """A process may choose any name, with any separators; the reported peak memory is still the kernel's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = bytearray(b"x" * (20 << 20))
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
        os.write(writing, held[:1])
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"x"
        process = DenoProcess(pid, data_bytes=None)
        assert process.peak_bytes() > 16 << 20
        sizes = status_bytes(Path(f"/proc/{pid}/status").read_bytes())
        assert sizes[b"VmHWM"] > 16 << 20
        process.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


_SAME_PID_TWICE = """
import os, signal
from sandbox.engines.deno.host.process import DenoProcess
from sandbox.errors import CellLost

def start():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

first = start()
process = DenoProcess(first, data_bytes=None)
assert process.cpu_ns() >= 0 and process.peak_bytes() > 0
end(first)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second = start()
assert second == first, "the kernel did not give the pid again"
assert process.peak_bytes() == 0
try:
    process.cpu_ns()
except CellLost:
    print("told apart")
end(second)
"""


def test_the_usage_of_a_reused_pid_is_ignored() -> None:
    """After a process has ended, CPU time and memory of another process with the same pid are not reported for it."""
    assert os.geteuid() == 0, "to choose a pid in a pid namespace takes root: run this test as root"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _SAME_PID_TWICE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parents[3])
    assert done.stdout == "told apart\n", done.stderr
