"""Runs promptlogctl in a process of its own, which `fork_server.py` forks after it has imported the commands.

To start Python and import the commands would take most of the CPU time of these tests.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

_SECONDS = 60.0


def ctl(daemon: Path | str, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promptlogctl with this socket, and return its exit code and output."""
    streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    os.pwrite(streams[0], input, 0)
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    process = 0
    try:
        environment = {**os.environ, "PROMPTLOG_SOCKET": str(daemon)}
        request = {"arguments": arguments, "environment": environment, "folder": os.getcwd()}
        socket.send_fds(_fork_server(), [json.dumps(request).encode()], [*streams, theirs.fileno()])
        theirs.close()
        ours.settimeout(_SECONDS)
        process = int(ours.recv(16))
        ended = ours.recv(16)
        assert ended, f"a signal ended promptlogctl {' '.join(arguments)}"
        output, errors = (os.pread(stream, os.fstat(stream).st_size, 0) for stream in streams[1:])
    except TimeoutError:
        if process:
            os.kill(process, signal.SIGKILL)
        raise
    finally:
        ours.close()
        theirs.close()
        for stream in streams:
            os.close(stream)
    return subprocess.CompletedProcess(["promptlogctl", *arguments], int(ended), output, errors)


@cache
def _fork_server() -> socket.socket:
    """Return the socket of this process's server, which ends with this process."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.ctl.fork_server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )

    def stop() -> None:
        ours.close()
        server.wait()

    atexit.register(stop)
    return ours
