"""Jails start from folders that are mounted nosuid and nodev, as /run usually is."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.daemon.processes import a_daemon, children, jailed_denos, nsjails, until

_SCRIPT = 'mount -t tmpfs -o "$1" none /run; shift; exec "$@"'


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_jail_starts_from_a_nosuid_folder(engine: str) -> None:
    """Jails of a root daemon start if /run is nosuid and nodev, which the test arranges in a mount namespace."""
    command = [sys.executable, "-m", "promptlogctl", "exec", "--spawn", "--engine", engine, "-e", "return 7"]
    line = ["unshare", "--mount", "sh", "-ec", _SCRIPT, "sh", "nosuid,nodev,mode=755", *command]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def _mounts(pid: int) -> list[tuple[str, bool]]:
    """Return the mount points of a process, and whether each is read-only."""
    with suppress(OSError):  # the process has just ended
        lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        return [(line[4], "ro" in line[5].split(",")) for line in lines]
    return []


def test_the_root_is_read_only(tmp_path: Path) -> None:
    """In the jails of both engines, the root is the only mount, and it is read-only."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run_source("return 1", engine="deno").value == 1
        until(lambda: len(jailed_denos(daemon)) > 0)

        def right() -> bool:  # nsjail may be about to start another process
            jailed = [pid for jail in nsjails(daemon.process.pid) for pid in children(jail)]
            return len(jailed) >= 3 and all(_mounts(pid) == [("/", True)] for pid in jailed)

        until(right)
