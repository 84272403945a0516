"""Jails start from folders that are mounted nosuid, nodev and noexec, as /run and /tmp often are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.daemon.ordinary_user import ordinary_user
from tests.daemon.processes import a_daemon, children, jailed_denos, nsjails, until

_ROOT = Path(__file__).parents[2]
_SCRIPT = 'mount -t tmpfs -o "$1" none /run; shift; exec "$@"'


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_jail_starts_from_a_nosuid_folder(engine: str) -> None:
    """Jails of a root daemon start if /run is nosuid and nodev, which the test arranges in a mount namespace."""
    command = [sys.executable, "-m", "promptlogctl", "exec", "--spawn", "--engine", engine, "-e", "return 7"]
    line = ["unshare", "--mount", "sh", "-ec", _SCRIPT, "sh", "nosuid,nodev,mode=755", *command]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "nobody"])
def test_no_jail_is_in_a_noexec_folder(tmp_path: Path, *, is_root: bool) -> None:
    """If the usual folder is noexec, the jails are in the folder that TMPDIR names. If all are, the error says so."""
    assert os.geteuid() == 0, "only root can mount a folder: run this test as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    script = (  # this checkout stays where it is, also if that is below /tmp
        'mount -t tmpfs -o mode=755 none "$0"; mkdir -m 1777 "$0/exec" "$0/noexec"; mkdir "$0/checkout"; '
        'mount --bind "$1" "$0/checkout"; '
        'for one in "$0/noexec" /tmp; do mount -t tmpfs -o noexec,mode=1777 none "$one"; done; '
        'mkdir -p "$1"; mount --bind "$0/checkout" "$1"; cd "$1"; shift; '
        'mount -t tmpfs -o noexec,mode=755 none /run; exec "$@"'
    )
    within = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, str(folder), str(_ROOT)]
    become = [] if is_root else ordinary_user(folder)
    state = str(folder / "noexec/state")
    command = [sys.executable, "-m", "promptlogctl", "exec", "--spawn", "--state-dir", state, "-e", "return 7"]
    try:
        for place, code, printed, said in [("exec", 0, "7\n", ""), ("noexec", 4, "", "mounted noexec, so jails can't")]:
            variables = {**os.environ, "TMPDIR": str(folder / place)}
            line = [*within, *become, *command]
            done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=90, env=variables)
            assert (done.returncode, done.stdout) == (code, printed), done.stderr
            assert said in done.stderr
    finally:
        folder.rmdir()


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
