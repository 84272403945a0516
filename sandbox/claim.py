"""Claims on folders: which folders have a living owner, so that what a killed process left can be found and removed.

A claim is an flock(2) on the folder itself. The kernel ends the claim with the last process that has its descriptor,
however that process ends. A claim leaves no file in the folder, so a cgroup can be claimed as well. Whoever can open
the folder for reading could hold a lock on it too: other users must not be able to read a claimed folder.
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
"""How long to wait for a process that removes what the last owner left. That takes some 50 ms."""

_LOOK_AGAIN_S = 0.005


class Claim:
    """A folder that this process has claimed. Made by `Claim.take`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Claim:
        """Claim an existing folder of ours. Raises BlockingIOError if another process has claimed it, and OSError.

        FileNotFoundError: it was removed meanwhile, maybe by a process that sweeps. PermissionError: it is another
        user's, who could have put it there to have us use it.
        """
        descriptor = os.open(folder, _FOLDER)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever sweeps removes a folder while it has the claim: then this one is of no use.
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
        """Give the claim up. Once only."""
        os.close(self._descriptor)


def claim_new(folder: Path, mode: int, *, wait_s: float = _WAIT_S) -> Claim:
    """Make a folder, or take over one whose owner is gone, claim it, and give it this mode whatever the umask is.

    `mode` gives others no right to read. A process that sweeps has the claim for a moment: waits up to `wait_s`.
    Raises BlockingIOError if the folder is claimed for longer, and OSError.
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
    """Call `remove` for each folder of ours in `parent` that matches and that no living process has claimed.

    It is called with the folder claimed. What can't be removed stays for the next sweep.
    """
    for folder in sorted(parent.glob(pattern)):
        sweep_one(folder, remove)


def sweep_one(folder: Path, remove: Callable[[Path], None]) -> None:
    """Call `remove` for this folder if it is ours and no living process has claimed it."""
    try:
        claim = Claim.take(folder)
    except OSError:  # claimed, gone, another user's, or no folder
        return
    try:
        with suppress(OSError):
            remove(folder)
    finally:
        claim.release()
