"""What a killed daemon leaves behind is removed by whichever daemon starts next; what a living one has is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from promptlogctl.client import Client
from promptlogd.jails_folder import folder_id
from promptlogd.store import Store
from tests.daemon.processes import a_daemon, children, is_alive, until
from tests.daemons import cgroups


def _jail_folders() -> set[Path]:
    """Folders of jails' roots, and of claimed uids, of all daemons of root on this host."""
    return {*Path("/run").glob("promptlog-jails-*"), *_claims_folder().glob("promptlog-uids-*")}


def _claims_folder() -> Path:
    return next(folder for folder in (Path("/run/lock"), Path("/dev/shm")) if folder.is_dir())


def test_any_start_removes_what_a_killed_daemon_left(tmp_path: Path) -> None:
    """A root daemon killed with SIGKILL leaves roots and cgroups; a daemon with another state folder removes them."""
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


def test_the_next_private_daemon_removes_what_a_killed_command_left(tmp_path: Path) -> None:
    """The folder of a `--spawn` killed with SIGKILL is removed by the next one, and that of a living one is not."""
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
        os.kill(daemon, signal.SIGSTOP)  # so that it does not end with its parent yet
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
    """The cgroup of a daemon that was killed in another cgroup than the next one starts in is removed as well."""
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


def test_what_version_0_1_0_left_is_removed(tmp_path: Path) -> None:
    """The jails' roots of a version 0.1.0 with this state folder are removed."""
    state = tmp_path / "state"
    Store.open(state).close()
    (state / "jail-root/app").mkdir(parents=True)
    old = Path("/run") / f"promptlog-jail-{folder_id(state)}"
    if os.geteuid() == 0:
        (old / "app").mkdir(parents=True)
    with a_daemon(tmp_path):
        assert not (state / "jail-root").exists()
        assert not old.exists()


def test_a_folder_that_a_user_named_like_ours_is_left_alone(tmp_path: Path) -> None:
    """A state folder of somebody's own whose name begins as a temporary one of ours is not taken for a leftover."""
    own = tmp_path / "promptlog-spawn-keep"
    own.mkdir(mode=0o700)
    (own / "precious").touch()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PROMPTLOG_SOCKET": str(tmp_path / "none")}
    _run([sys.executable, "-m", "promptlogctl", "exec", "--spawn"], environment)
    assert (own / "precious").exists()


def test_a_umask_that_closes_all_does_not_keep_the_daemon_from_its_start(tmp_path: Path) -> None:
    """Under umask 077 programs run on both engines: jails' users reach the jails' roots."""
    previous = os.umask(0o077)
    try:
        with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
            assert client.run_source("return 1").value == 1
            assert client.run_source("return 1", engine="deno").value == 1
    finally:
        os.umask(previous)
