"""Claims end with their owner's last process, and a sweep takes only what nobody has claimed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.claim import Claim, claim_new, sweep

_HOLD = "import sys; from pathlib import Path; from sandbox.claim import Claim; "
_HOLD += "claim = Claim.take(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def _holder(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has claimed the folder, and waits."""
    command = [sys.executable, "-c", _HOLD, folder]
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
    """While a process that claimed a folder lives nobody else gets it; after SIGKILL anybody does."""
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


def test_an_heir_keeps_the_claim(tmp_path: Path) -> None:
    """A process that inherited the descriptor keeps the folder claimed after the first owner let go."""
    folder = tmp_path / "a-1"
    claim = claim_new(folder, 0o700)
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(claim.fileno(),))
    claim.release()
    try:
        assert _swept(tmp_path) == []
    finally:
        _end(heir)
    assert _swept(tmp_path) == ["a-1"]


def test_a_sweep_takes_matching_folders_of_ours_alone(tmp_path: Path) -> None:
    """Files, links, other names and folders of another user are left alone; what can't be removed ends no sweep."""
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


def test_a_folder_of_another_user_is_not_taken_over(tmp_path: Path) -> None:
    """A folder that somebody else put where ours is to be is refused, and not filled."""
    assert os.geteuid() == 0, "this test makes a folder of another user: run it as root"
    folder = tmp_path / "a-1"
    claim_new(folder, 0o700).release()
    os.chown(folder, 4711, 4711)
    with pytest.raises(PermissionError, match="another user"):
        claim_new(folder, 0o700)


def test_a_folder_that_was_swept_before_it_was_claimed_is_made_again(tmp_path: Path) -> None:
    """Between the making of a folder and the claim on it a sweep may come: the claim is on a folder that is there."""
    folder = tmp_path / "a-1"
    for _ in range(3):
        claim = claim_new(folder, 0o700)
        folder.rmdir()  # as a sweep does that began before the claim
        with pytest.raises(FileNotFoundError):
            Claim.take(folder)
        claim.release()
    claim = claim_new(folder, 0o700)
    assert folder.is_dir()
    claim.release()
