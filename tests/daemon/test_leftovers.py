"""The next daemon to start removes what a killed daemon left behind, but nothing of a running one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.jails_folder import folder_id
from promptlogd.store import Store
from tests.daemon.processes import a_daemon, children, is_alive, until
from tests.daemons import cgroups

pytestmark = pytest.mark.alone  # they look at the folders of all daemons of this machine


def _jail_folders() -> set[Path]:
    """Return the folders of jails' roots and of claimed uids, of all daemons of root on this host."""
    return {*Path("/run").glob("promptlog-jails-*"), *_claims_folder().glob("promptlog-uids-*")}


def _claims_folder() -> Path:
    return next(folder for folder in (Path("/run/lock"), Path("/dev/shm")) if folder.is_dir())


def test_any_start_removes_leftovers_of_a_killed_daemon(tmp_path: Path) -> None:
    """A daemon with another state folder removes the roots and cgroups of a root daemon killed with SIGKILL."""
    assert os.geteuid() == 0, "the jails' roots of an ordinary user are in the state folder: run this test as root"
    folders, groups = _jail_folders(), cgroups("promptlog-")
    for name in ("killed", "living", "next"):
        (tmp_path / name).mkdir()
    with a_daemon(tmp_path / "living") as living, Client(living.socket) as client:
        its_folders, its_groups = _jail_folders() - folders, cgroups("promptlog-") - groups
        with a_daemon(tmp_path / "killed") as killed:
            left, left_groups = _jail_folders() - folders - its_folders, cgroups("promptlog-") - groups - its_groups
            assert len(left) == 2
            pids = killed.jailed()
            killed.stop(signal.SIGKILL)
            until(lambda: not any(map(is_alive, pids)))
        assert left <= _jail_folders()
        with a_daemon(tmp_path / "next"):
            assert not left & _jail_folders()
            assert not left_groups & cgroups("promptlog-")
            assert its_folders <= _jail_folders()
            assert its_groups <= cgroups("promptlog-")
            assert client.run_source("return 1", isolation="jail").value == 1
            assert client.run_source("return 1", engine="deno").value == 1
    assert _jail_folders() <= folders


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run([*command, "-"], input=b"return 1", env=environment, capture_output=True, timeout=30)
    assert done.stdout == b"1\n", done.stderr.decode()


def test_the_next_private_daemon_removes_leftovers_of_a_killed_command(tmp_path: Path) -> None:
    """The next `--spawn` removes the folder of one killed with SIGKILL, and not that of a running one."""
    command = [sys.executable, "-m", "promptlogctl", "exec", "--spawn"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PROMPTLOG_SOCKET": str(tmp_path / "none")}
    endless = [*command, "--cpu-ms", "10000", "--wall-ms", "30000", "-"]

    def folders() -> set[Path]:
        return set(tmp_path.glob("promptlog-spawn-*"))

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        before = folders()
        process = subprocess.Popen(endless, stdin=subprocess.PIPE, env=environment)
        assert process.stdin is not None
        process.stdin.write(b"for (;;);")
        process.stdin.close()
        until(lambda: any((folder / "socket").exists() for folder in folders() - before), 20)
        (folder,) = folders() - before
        return process, folder

    living, its_folder = start()
    try:
        killed, left = start()
        (daemon,) = children(killed.pid)
        os.kill(daemon, signal.SIGSTOP)  # so that the daemon does not end with its parent yet
        killed.kill()
        killed.wait()
        try:
            _run(command, environment)
            assert folders() == {its_folder, left}
        finally:
            os.kill(daemon, signal.SIGCONT)
        until(lambda: not is_alive(daemon))
        _run(command, environment)
        assert folders() == {its_folder}
    finally:
        living.send_signal(signal.SIGINT)
        living.wait(20)
    assert not folders()
    assert tempfile.gettempdir() != str(tmp_path)


def test_leftovers_are_found_in_other_cgroups(tmp_path: Path) -> None:
    """The daemon also removes the cgroup of a killed daemon that ran in another cgroup."""
    mount = Path("/sys/fs/cgroup/memory")
    assert os.access(mount / "cgroup.procs", os.W_OK), "no cgroup can be made here (be root)"
    elsewhere = mount / f"promptlog-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        left = elsewhere / "promptlog-0123456789abcdef"
        (left / "NSJAIL.1").mkdir(parents=True)
        with a_daemon(tmp_path):
            assert not left.exists()
    finally:
        for folder in (left / "NSJAIL.1", left, elsewhere):
            with suppress(FileNotFoundError):
                folder.rmdir()


def test_leftovers_of_version_0_1_0_are_removed(tmp_path: Path) -> None:
    """The daemon removes the jails' roots that version 0.1.0 left with this state folder."""
    state = tmp_path / "state"
    Store.open(state).close()
    (state / "jail-root/app").mkdir(parents=True)
    old = Path("/run") / f"promptlog-jail-{folder_id(state)}"
    if os.geteuid() == 0:
        (old / "app").mkdir(parents=True)
    with a_daemon(tmp_path):
        assert not (state / "jail-root").exists()
        assert not old.exists()


def test_a_folder_named_like_a_temporary_one_is_kept(tmp_path: Path) -> None:
    """A state folder that a user named like one of promptlog's temporary folders is not removed as a leftover."""
    own = tmp_path / "promptlog-spawn-keep"
    own.mkdir(mode=0o700)
    (own / "precious").touch()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PROMPTLOG_SOCKET": str(tmp_path / "none")}
    _run([sys.executable, "-m", "promptlogctl", "exec", "--spawn"], environment)
    assert (own / "precious").exists()


def test_the_daemon_starts_under_umask_077(tmp_path: Path) -> None:
    """Under umask 077, programs run on both engines: the jails' users can reach the jails' roots."""
    previous = os.umask(0o077)
    try:
        with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
            assert client.run_source("return 1").value == 1
            assert client.run_source("return 1", engine="deno").value == 1
    finally:
        os.umask(previous)
