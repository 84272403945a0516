"""Run one attack (attacks.py) in a separate process: for the benchmark, the soak and the fault tests, or manually.

    python bench/attacker.py NAME SOCKET [--uid 65534] [--programs 2000]

The process prepares the attack, prints "ready", waits for a line on its standard input, and then attacks until it is
killed or its parent ends. If the daemon closes its connections, the process opens new ones. With --uid it changes its
uid before it connects, and keeps root's group, which owns the socket.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.attack_steps import Target
from bench.attacks import ATTACKS

OTHER_UID = 65534
"""The uid of `nobody`, which owns no files and no other processes."""

_PAUSE_S = 0.01
_PREPARED_S = 120.0
_PR_SET_PDEATHSIG = 1


class NotPrepared(RuntimeError):
    """An attack was not ready in time: the daemon was too slow, or not running."""


@contextmanager
def attacking(
    name: str, path: str, *, uid: int | None = None, programs: int = 2_000, prepared_s: float = _PREPARED_S
) -> Iterator[Callable[[], None]]:
    """Context manager: prepare an attack, and yield a function that starts it. The attack ends with the block.

    Raises NotPrepared if the preparation takes longer than `prepared_s`.
    """
    command = [sys.executable, __file__, name, path, "--programs", str(programs)]
    command += [] if uid is None else ["--uid", str(uid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        go = process.stdin
        try:
            ready, _, _ = select.select([process.stdout], [], [], prepared_s)
            if not ready or process.stdout.readline() != b"ready\n":
                raise NotPrepared(f"the attack {name!r} could not be prepared")

            def begin() -> None:
                go.write(b"go\n")
                go.flush()

            yield begin
        finally:
            process.kill()


def _become(uid: int) -> None:
    os.setgroups([os.getegid()])
    os.setgid(uid)
    os.setuid(uid)


def main() -> None:
    """Run the attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("socket")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--programs", type=int, default=2_000)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.uid is not None:
        _become(options.uid)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after setuid, which takes it back
    step = None
    while os.getppid() == parent:
        try:
            if step is not None:
                step()
            else:
                step = ATTACKS[options.name].prepare(Target(path=options.socket, programs=options.programs))
                print("ready", flush=True)
                sys.stdin.readline()
        except OSError:
            time.sleep(_PAUSE_S)  # the daemon closed a connection, or is away


if __name__ == "__main__":
    main()
