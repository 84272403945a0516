"""A backup that is written while the daemon serves is a complete state folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from tests.ctl.command import ctl
from tests.daemon.processes import a_daemon, until

pytestmark = pytest.mark.long


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def _restored(backup: Path, place: Path) -> Path:
    """Move a backup to the state folder of `a_daemon`, and return the folder around it."""
    place.mkdir()
    backup.rename(place / "state")
    return place


class _Load(threading.Thread):
    """Submits, runs, renames and removes programs until it is stopped."""

    def __init__(self, socket: Path, number: int) -> None:
        super().__init__()
        self._socket = socket
        self._number = number
        self.stopped = threading.Event()
        self.stored: dict[str, str] = {}
        """Name and hash of each acknowledged program that was not removed."""
        self.turns = 0

    def run(self) -> None:
        with Client(self._socket) as client:
            while not self.stopped.is_set():
                name = f"load-{self._number}-{self.turns}"
                hash = client.submit(f"return '{name}'", name=name).hash
                gone = client.submit(f"return 'gone {name}'", name=f"moving-{self._number}").hash
                client.run(f"@{name}")
                client.remove(gone)
                self.stored[name] = hash
                self.turns += 1


@pytest.mark.parametrize("other_file_system", [False, True])
def test_a_backup_under_load_can_be_restored(tmp_path: Path, other_file_system: bool) -> None:
    """A backup under load has everything that was acknowledged before it, is consistent, and runs.

    The loaded daemon goes on. On another file system the backup has copies instead of hard links.
    """
    backup = Path(f"/dev/shm/promptlog-{os.getpid()}") if other_file_system else tmp_path / "backup"
    backup.mkdir(mode=0o700)
    try:
        _back_up_under_load(tmp_path, backup, copies=other_file_system)
    finally:
        shutil.rmtree(backup, ignore_errors=True)


def _back_up_under_load(tmp_path: Path, backup: Path, *, copies: bool) -> None:
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        for number in range(300):
            client.submit(f"return {number}", name=f"n{number}")
        client.run("@n7")
        threads = [_Load(daemon.socket, number) for number in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: all(thread.turns > 3 for thread in threads))
        before = {name: hash for thread in threads for name, hash in dict(thread.stored).items()}
        done = client.back_up(backup)
        turns = [thread.turns for thread in threads]
        until(lambda: all(thread.turns > turn for thread, turn in zip(threads, turns, strict=True)))
        for thread in threads:
            thread.stopped.set()
            thread.join()
        assert done.programs >= 300 + len(before)
        assert (done.copied > 0, done.linked > 0) == (copies, not copies)
        uid = os.geteuid()
        for path in backup.rglob("*"):
            status = path.lstat()
            assert (status.st_uid, status.st_mode & 0o077) == (uid, 0), path
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    place = tmp_path / "restored"
    place.mkdir()
    shutil.move(backup, place / "state")
    with a_daemon(place) as daemon, Client(daemon.socket) as client:
        for name, hash in before.items():
            assert client.show(f"@{name}").hash == hash
        assert client.run("@n123").value == 123
        assert client.show("@n7").runs == 1
        rows = list(client.list())
        assert len(rows) == done.programs
        assert next(client.journal(), None) is not None
        verified = ctl(daemon.socket, "verify")
        assert verified.returncode == 0, verified.stdout
        artifacts = list(daemon.state.glob("programs/*/*/artifact.*"))
        assert len(artifacts) == len(rows)
        assert b"0 damaged" in verified.stderr
        log = daemon.log.read_text()
        assert "ERROR" not in log.upper(), log
        assert "damaged (" not in log


def test_backup_and_original_are_independent(tmp_path: Path) -> None:
    """A change to a program in one of the two folders does not affect the other, although they share files."""
    backup = _folder(tmp_path / "backup")
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 1", name="a").hash
        client.back_up(backup)
        client.submit("return 1", engine="deno", replace=True)
        client.label("a", client.submit("return 2").hash)
        other = _restored(backup, tmp_path / "restored")
        with a_daemon(other) as copy, Client(copy.socket) as restored:
            assert restored.show("@a").hash == hash
            assert restored.show(hash).engine == "quickjs"
            restored.remove(hash)
        assert client.show(hash, source=True).source == "return 1"
        assert client.show(hash).engine == "deno"


def test_unsuitable_folders_are_refused(tmp_path: Path) -> None:
    """An unsuitable target folder is refused before anything is written.

    Unsuitable are relative paths, missing folders, folders that are not empty, links, folders of another user or open
    to other users, and the state folder.
    """
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        client.submit("return 1")
        full, shared, parent = (_folder(tmp_path / name) for name in ("full", "shared", "parent"))
        (full / "x").touch()
        shared.chmod(0o755)
        empty = _folder(tmp_path / "empty")
        (tmp_path / "link").symlink_to(empty)
        wrong = {
            "backup": "not an absolute path",
            f"{tmp_path}/empty/../empty": "not an absolute path",
            f"{tmp_path}/none": "No such file",
            str(full): "is not empty",
            str(full / "x"): "is not a folder",
            str(tmp_path / "link"): "symbolic link",
            str(shared): "accessible to other users",
            str(daemon.state): "contains the state folder",
            str(daemon.state / "programs"): "contains the state folder",
            str(tmp_path): "contains the state folder",
            str(empty) + "/\0x": "can't use",
            "/proc/1/root/x" + "x" * 3000: "can't use",
        }
        if os.geteuid() == 0:
            os.chown(parent, 65534, 65534)
            _folder(parent / "x")
            wrong[str(parent / "x")] = "belongs to uid 65534"
            wrong[str(parent)] = "belongs to uid 65534"
        for folder, why in wrong.items():
            with pytest.raises(RequestRefused, match=why) as refused:
                client.back_up(folder)
            assert refused.value.code == "bad_request"
        assert os.listdir(empty) == []
        assert os.listdir(full) == ["x"]
        assert ctl(daemon.socket, "backup", "relative").returncode == 2
        done = ctl(daemon.socket, "backup", str(empty))
        assert (done.returncode, done.stdout.decode()) == (0, f"{empty}\n")


def test_a_disconnect_stops_the_backup(tmp_path: Path) -> None:
    """If the client disconnects, the backup stops and leaves an empty folder, and the daemon keeps serving."""
    backup = _folder(tmp_path / "backup")
    with a_daemon(tmp_path, config="[server]\ndrain_s = 0.1\n") as daemon, Client(daemon.socket) as client:
        for number in range(200):
            client.submit(f"return {number}")
        command = [sys.executable, "-m", "promptlogctl", "--socket", str(daemon.socket), "backup", str(backup)]
        for _ in range(5):
            asking = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda: bool(os.listdir(backup)))
            asking.kill()
            asking.wait()
            time.sleep(0.3)
            if not os.listdir(backup):
                break
            until(lambda: (backup / "format").exists())  # the backup finished before the kill
            for entry in backup.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        assert os.listdir(backup) == []
        assert client.run_source("return 1").value == 1


def test_a_stop_of_the_daemon_stops_the_backup(tmp_path: Path) -> None:
    """SIGTERM stops a backup after the drain time, and the folder is empty or the backup is complete."""
    backup = _folder(tmp_path / "backup")
    with a_daemon(tmp_path, config="[server]\ndrain_s = 0.01\n") as daemon, Client(daemon.socket) as client:
        for number in range(200):
            client.submit(f"return {number}")
        command = [sys.executable, "-m", "promptlogctl", "--socket", str(daemon.socket), "backup", str(backup)]
        asking = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: bool(os.listdir(backup)))
        assert daemon.stop() == 0
        complete = asking.wait(20) == 0
        assert not complete or (backup / "format").exists()
        assert os.listdir(backup) == [] or (backup / "format").exists()
        assert "Traceback" not in daemon.log.read_text()


def test_a_second_backup_is_refused(tmp_path: Path) -> None:
    """A backup during another one is refused with `busy`, and accepted afterwards."""
    folders = [_folder(tmp_path / f"backup-{number}") for number in range(8)]
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        for number in range(100):
            client.submit(f"return {number}")
        outcomes: list[str] = []

        def back_up(folder: Path) -> None:
            with Client(daemon.socket) as other:
                try:
                    other.back_up(folder)
                except RequestRefused as refused:
                    outcomes.append(refused.code)
                else:
                    outcomes.append("ok")

        threads = [threading.Thread(target=back_up, args=[folder]) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(outcomes) == {"ok", "busy"}
        client.back_up(_folder(tmp_path / "last"))
