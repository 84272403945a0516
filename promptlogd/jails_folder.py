"""The folder in which a daemon builds the roots of its jails. The contents of a root are defined elsewhere.

If jails have their own uids, every user must be able to reach the roots, so they cannot be in the state folder. The
roots of an ordinary user are in the state folder. If that disk is full, they are elsewhere, so that the daemon starts
and programs can be removed. The cell of QuickJS is executed in its root, so the folder must not be mounted noexec.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from sandbox.claim import Claim, claim_new, sweep
from sandbox.jail.identities import may_set_ids
from sandbox.jail.root import RootError
from sandbox.trusted_path import check_trusted

_PREFIX = "promptlog-jails-"
_ID_DIGITS = 16
_QUICKJS_BYTES = 64 << 20
"""Free space that the root of QuickJS's jails needs, with a margin."""

_RUN = Path("/run")
_NOEXEC = "mounted noexec, so jails can't start there: mount it with exec, or set TMPDIR to a folder with exec"

_OLD = (
    "/run/promptlog-jail-{id}",
    "/run/promptlog-jail-{id}-deno",
    "{state}/jail-root",
    "{state}/jail-root-deno",
)
"""The folders of version 0.1.0."""


class JailsFolder:
    """The folder, claimed by this process. Created by `claim`."""

    def __init__(self, claim: Claim) -> None:
        self.path = claim.folder
        self._claim = claim

    @classmethod
    def claim(cls, state_dir: Path) -> JailsFolder:
        """Create and claim the folder for this state folder, and remove the folders of killed daemons.

        The state folder must be open already, so that its contents are known to be a daemon's. Raises RootError.
        """
        id = folder_id(state_dir)
        for old in _OLD:
            shutil.rmtree(old.format(id=id, state=state_dir), ignore_errors=True)
        parent = _parent(state_dir)
        folder = parent / "jails" if parent == state_dir else parent / f"{_PREFIX}{id}"
        if parent != state_dir:
            sweep(parent, _PREFIX + "[0-9a-f]" * _ID_DIGITS, shutil.rmtree)
        try:
            claim = claim_new(folder, 0o711)
            for left in folder.iterdir():
                shutil.rmtree(left)
        except BlockingIOError as error:
            raise RootError(str(folder), "another process has claimed it; `fuser` shows which") from error
        except OSError as error:
            raise RootError(str(folder), error.strerror or str(error)) from error
        return cls(claim)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._claim.release()


def folder_id(state_dir: Path) -> str:
    """Return an identifier for this state folder, used in names on the host: 16 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:_ID_DIGITS]


def _parent(state_dir: Path) -> Path:
    """Return the folder in which to create the folder. Raises RootError if there is none."""
    is_root = os.geteuid() == 0
    if not is_root and not may_set_ids():
        usable = [folder for folder in (state_dir, *_temporary("XDG_RUNTIME_DIR")) if _is_usable(folder)]
        if not usable and _is_noexec(state_dir):
            raise RootError(str(state_dir), f"it is {_NOEXEC}")
        roomy = (folder for folder in usable if _free_bytes(folder) >= _QUICKJS_BYTES)
        return next(roomy, usable[0] if usable else state_dir)
    if is_root and not _is_noexec(_RUN):
        return _RUN
    for folder in _temporary("RUNTIME_DIRECTORY"):  # systemd.exec(5)
        if _is_usable(folder) and all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents)):
            return folder
    if is_root:
        raise RootError(str(_RUN), f"it is {_NOEXEC}, which every user can enter")
    raise RootError(
        "/tmp",
        "every user must be able to enter it, or the folder in $RUNTIME_DIRECTORY or $TMPDIR, "
        "and it must not be mounted noexec",
    )


def _temporary(variable: str) -> Iterator[Path]:
    """Yield the absolute folders that this variable names, and those for temporary files."""
    named = os.environ.get(variable, "").split(":")
    # Not tempfile.gettempdir(), which fails where no folder for temporary files can be written to.
    for folder in (*named, os.environ.get("TMPDIR", ""), "/tmp"):
        if folder.startswith("/"):
            yield Path(folder)


def _is_usable(folder: Path) -> bool:
    """Whether no other user can replace this folder, and files in it can be executed."""
    try:
        check_trusted(folder)
        return os.access(folder, os.W_OK | os.X_OK) and not _is_noexec(folder)
    except OSError:
        return False


def _is_noexec(folder: Path) -> bool:
    """Whether files in a folder cannot be executed. False if that is unknown."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def _free_bytes(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize
