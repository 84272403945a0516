"""Claims on folders. A folder without a claim has no living owner, so leftovers of killed processes can be removed.

A claim is an flock(2) on the folder itself. The kernel releases it when the last process with its descriptor ends, in
any way. A claim creates no file in the folder, so a cgroup can be claimed as well. Whoever can open a folder for
reading can lock it, so other users must not be able to read a claimed folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WAIT_S = 10.0
"""Time limit for waiting for a process that removes the last owner's files. That takes about 50 ms."""

_LOOK_AGAIN_S = 0.005


class Claim:
    """A folder that this process has claimed. Created by `Claim.take`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Claim:
        """Claim an existing folder of this user. Raises BlockingIOError if another process has claimed it, and OSError.

        FileNotFoundError: it was removed in between, for example by a sweep. PermissionError: it belongs to another
        user, who could have planted it.
        """
        descriptor = os.open(folder, _FOLDER)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweep removes a folder while it holds the claim. Then this claim is useless.
            if not os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(folder, descriptor)

    def fileno(self) -> int:
        """Return the descriptor. A process that inherits the descriptor shares the claim."""
        return self._descriptor

    def release(self) -> None:
        """Release the claim. Call this once."""
        os.close(self._descriptor)


def claim_new(folder: Path, mode: int, *, wait_s: float = _WAIT_S) -> Claim:
    """Create a folder, or take over one without a living owner; claim it, and set this mode regardless of the umask.

    `mode` must not let others read. A sweep may hold the claim for a moment, so this waits up to `wait_s`. Raises
    BlockingIOError if the folder is claimed for longer, and OSError.
    """
    give_up_at = time.monotonic() + wait_s
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        try:
            claim = Claim.take(folder)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(_LOOK_AGAIN_S)
            continue
        try:
            os.fchmod(claim.fileno(), mode)
        except BaseException:
            claim.release()
            raise
        return claim


def sweep(parent: Path, pattern: str, remove: Callable[[Path], None]) -> None:
    """Call `remove` for each matching folder of this user in `parent` that no living process has claimed.

    The folder is claimed during the call. A folder that cannot be removed stays for the next sweep.
    """
    for folder in sorted(parent.glob(pattern)):
        sweep_one(folder, remove)


def sweep_one(folder: Path, remove: Callable[[Path], None]) -> None:
    """Call `remove` for this folder if it belongs to this user and no living process has claimed it."""
    try:
        claim = Claim.take(folder)
    except OSError:  # claimed, removed, another user's, or not a folder
        return
    try:
        with suppress(OSError):
            remove(folder)
    finally:
        claim.release()
