"""A claim lasts until its owner's last process ends, and a sweep removes only folders without a claim."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from sandbox.claim import Claim, claim_new, sweep

_HOLD = "import sys; from pathlib import Path; from sandbox.claim import Claim; "
_HOLD += "claim = Claim.take(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def _holder(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has claimed the folder, and waits."""
    command = [sys.executable, "-c", _HOLD, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _swept(parent: Path) -> list[str]:
    found: list[str] = []
    sweep(parent, "a-*", lambda folder: found.append(folder.name))
    return found


def test_a_claim_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    """While a process that claimed a folder lives, nobody else can claim it; after SIGKILL anybody can."""
    folder = tmp_path / "a-1"
    folder.mkdir()
    holder = _holder(folder)
    try:
        with pytest.raises(BlockingIOError):
            Claim.take(folder)
        assert _swept(tmp_path) == []
    finally:
        _end(holder)
    assert _swept(tmp_path) == ["a-1"]
    Claim.take(folder).release()


def test_an_inherited_descriptor_keeps_the_claim(tmp_path: Path) -> None:
    """A process that inherited the descriptor keeps the folder claimed after the first owner has closed it."""
    folder = tmp_path / "a-1"
    claim = claim_new(folder, 0o700)
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(claim.fileno(),))
    claim.release()
    try:
        assert _swept(tmp_path) == []
    finally:
        _end(heir)
    assert _swept(tmp_path) == ["a-1"]


def test_a_sweep_removes_only_matching_own_folders(tmp_path: Path) -> None:
    """A sweep skips files, links, other names and folders of another user, and continues after a failed removal."""
    for name in ("a-1", "a-2", "b-1", "a-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-file").touch()
    (tmp_path / "a-link").symlink_to(tmp_path / "b-1")
    (tmp_path / "a-2/full").touch()
    if os.geteuid() == 0:
        os.chown(tmp_path / "a-3", 4711, 4711)
    else:
        (tmp_path / "a-3").rmdir()
    sweep(tmp_path, "a-*", Path.rmdir)
    left = {"a-2", "b-1", "a-file", "a-link"} | ({"a-3"} if os.geteuid() == 0 else set())
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """A folder that another user created at the path is refused, and nothing is written to it."""
    assert os.geteuid() == 0, "this test makes a folder of another user: run it as root"
    folder = tmp_path / "a-1"
    claim_new(folder, 0o700).release()
    os.chown(folder, 4711, 4711)
    with pytest.raises(PermissionError, match="another user"):
        claim_new(folder, 0o700)


def test_a_folder_that_was_removed_before_its_claim_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim.take fails if the folder is replaced between open and lock; claim_new then claims the new folder."""
    folder = tmp_path / "a-1"
    folder.mkdir()
    lock = fcntl.flock

    def sweep_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        folder.rmdir()
        folder.mkdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with pytest.raises(FileNotFoundError):
        Claim.take(folder)
    monkeypatch.setattr(fcntl, "flock", sweep_first)
    claim = claim_new(folder, 0o700)  # claims again
    assert os.path.samestat(os.fstat(claim.fileno()), folder.stat())
    claim.release()


def test_a_link_is_not_claimed(tmp_path: Path) -> None:
    """A symbolic link at the folder's path is an error; its target is neither claimed nor removed."""
    (tmp_path / "target").mkdir()
    (tmp_path / "a-1").symlink_to(tmp_path / "target")
    for claim in (Claim.take, lambda folder: claim_new(folder, 0o700)):
        with pytest.raises(NotADirectoryError):
            claim(tmp_path / "a-1")
    assert _swept(tmp_path) == []


def test_a_folder_can_not_be_claimed_while_a_sweep_removes_it(tmp_path: Path) -> None:
    """Nobody can claim a folder while a sweep removes it."""
    (tmp_path / "a-1").mkdir()
    blocked: list[str] = []

    def remove(folder: Path) -> None:
        with pytest.raises(BlockingIOError):
            Claim.take(folder)
        blocked.append(folder.name)

    sweep(tmp_path, "a-*", remove)
    assert blocked == ["a-1"]


def test_a_claim_waits_for_a_sweep(tmp_path: Path) -> None:
    """If two daemons start at once, and one removes what the other claims again, both succeed."""
    folder = tmp_path / "a-1"
    folder.mkdir()
    began, go_on = threading.Event(), threading.Event()

    def remove(swept: Path) -> None:
        began.set()
        go_on.wait(10)
        swept.rmdir()

    other = threading.Thread(target=sweep, args=(tmp_path, "a-*", remove))
    other.start()
    began.wait(10)
    with pytest.raises(BlockingIOError):
        claim_new(folder, 0o700, wait_s=0.0)
    threading.Timer(0.1, go_on.set).start()
    claim = claim_new(folder, 0o700)
    other.join()
    assert os.path.samestat(os.fstat(claim.fileno()), folder.stat())
    claim.release()


def test_a_claimed_folder_has_its_mode_under_any_umask(tmp_path: Path) -> None:
    """A restrictive umask does not exclude the jails' users from a folder that they must enter."""
    previous = os.umask(0o777)
    try:
        claim_new(tmp_path / "a-1", 0o711).release()
    finally:
        os.umask(previous)
    assert (tmp_path / "a-1").stat().st_mode & 0o777 == 0o711


def test_another_user_can_not_block_a_claim(tmp_path: Path) -> None:
    """A user who may only enter the folder cannot open it for reading, and therefore cannot lock it."""
    assert os.geteuid() == 0, "this test becomes another user: run it as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-test-", dir="/run"))
    folder.chmod(0o711)
    try:
        claim_new(folder / "a-1", 0o711).release()
        lock = "import fcntl, os, sys; os.setuid(4711); fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)"
        done = subprocess.run([sys.executable, "-c", lock, folder / "a-1"], capture_output=True, timeout=10)
        assert b"PermissionError" in done.stderr
    finally:
        shutil.rmtree(folder)
