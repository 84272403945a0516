"""The process at the other end of a socket; a reused pid is a different process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from promptlogd.peer import find_process, peer_of

_SAME_PID_TWICE = """
import os, signal, time
from promptlogd.peer import find_process

def start():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

first = start()
was = find_process(first)
end(first)
assert find_process(first) is None
tick = time.clock_gettime(time.CLOCK_BOOTTIME) + 2 / os.sysconf("SC_CLK_TCK")
while time.clock_gettime(time.CLOCK_BOOTTIME) < tick:
    pass
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second = start()
now = find_process(second)
end(second)
assert second == first, "the kernel did not give the pid again"
assert was.pid == now.pid and was != now
print("told apart")
"""


def test_the_peer_is_this_process() -> None:
    """The kernel reports the process and the user that connected."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        peer = peer_of(ours)
    assert peer.uid == os.geteuid()
    assert peer.process == find_process(os.getpid())
    assert peer.process is not None
    assert peer.process.pid == os.getpid()


def test_a_reused_pid_is_another_process() -> None:
    """Two processes that had the same pid one after the other are distinguished, so neither has the other's history."""
    assert os.geteuid() == 0, "to choose a pid in a pid namespace takes root: run this test as root"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _SAME_PID_TWICE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parents[2])
    assert done.stdout == "told apart\n", done.stderr
