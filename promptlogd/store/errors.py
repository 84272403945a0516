"""Errors of the store. Every error of this package is a StoreError."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import ExitStack


class StoreError(Exception):
    """Root of this package's errors."""


class StoreLocked(StoreError):
    """Another daemon uses this state folder. `holder` describes that process."""

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(f"{folder} is in use by another promptlogd ({holder}); stop it, or give --state-dir")
        self.folder = folder
        self.holder = holder


class StoreUnsafe(StoreError):
    """A file or folder of the store is a symbolic link, has the wrong type, or is accessible to another user."""


class StoreTooNew(StoreError):
    """A newer promptlog wrote this state folder. Nothing in it was changed."""

    def __init__(self, folder: str, found: int, known: int) -> None:
        super().__init__(
            f"{folder} has format version {found}, but this promptlogd supports versions up to {known}: start the "
            "newer promptlogd that wrote it, or give another --state-dir"
        )
        self.folder = folder
        self.found = found
        self.known = known


class Unstorable(StoreError, ValueError):
    """The store refuses this program or artifact: an invalid path or name, too many files, or too many bytes."""


class StoreFailed(StoreError):
    """An error of the disk or the system. No partly stored program or name remains."""


class StoreFull(StoreFailed):
    """The disk or the quota is full."""


class AlreadyThere(StoreFailed):
    """There is already a program with this hash, damaged or not."""

    def __init__(self, hash: str) -> None:
        super().__init__(f"program {hash} is already there")


class ProgramUnreadable(StoreFailed):
    """The files of a program cannot be read. Nothing was moved. Submitting the same bytes replaces them."""


class BadReference(StoreError):
    """An invalid reference: neither a hash, nor a prefix, nor a name."""


class NotFound(StoreError):
    """No program has this name or hash."""

    def __init__(self, reference: str, message: str | None = None) -> None:
        super().__init__(message or f"no program {reference!r} here; `promptlogctl list` lists all programs")
        self.reference = reference


class Ambiguous(StoreError):
    """A prefix matches several hashes. `matches`: at most ten of them, oldest program first."""

    def __init__(self, reference: str, matches: list[str]) -> None:
        super().__init__(f"{reference!r} names {len(matches)} programs or more; give more digits")
        self.reference = reference
        self.matches = matches


class NameTaken(StoreError):
    """A name is on another program, and was not to be moved. `on`: that program's hash."""

    def __init__(self, name: str, on: str) -> None:
        super().__init__(f"the name {name} is on another program already: {on}")
        self.on = on


class TooManyNames(StoreError):
    """A name was refused, because the maximum number of names is in use. `most`: that number."""

    def __init__(self, message: str, most: int) -> None:
        super().__init__(message)
        self.most = most


class TooManyHolders(StoreError):
    """The maximum number of principals hold this program."""


class NotYours(StoreError):
    """A program or a name belongs to another principal. Nothing was changed."""


class OverQuota(StoreError):
    """A principal may not store another program or name. `setting`: the quota; `used` and `most` are in its unit."""

    def __init__(self, setting: str, whose: str, used: float, most: float) -> None:
        unit = "MiB of programs" if setting == "stored_mb" else setting
        remedy = "move one, or remove programs that have names" if setting == "names" else "remove some"
        super().__init__(f"{whose} has used up its quota of {most:g} {unit}; {remedy}")
        self.setting = setting
        self.used = used
        self.most = most


class StoreOverQuota(StoreError):
    """A program does not fit into the quota of the store. Nothing was stored. Sizes in bytes."""

    def __init__(self, used: int, needed: int, most: int) -> None:
        super().__init__(
            f"the store is full: it takes {used} bytes of the {most} that store.max_mb allows, and this program needs "
            f"{needed} more; remove programs, or raise store.max_mb in the daemon's configuration"
        )
        self.used = used
        self.needed = needed
        self.most = most


class UnusableFolder(StoreError):
    """A backup can't be written to this folder. Nothing was written."""


class BackupStopped(StoreError):
    """A backup was stopped before it was complete. The folder is empty again."""


class Damaged(StoreError):
    """A program did not verify. It was moved to `damaged/` and is not served."""

    def __init__(self, hash: str, why: str) -> None:
        super().__init__(f"program {hash} was damaged on disk ({why}) and was moved to damaged/; submit it again")
        self.hash = hash
        self.why = why


class KeptForAnother(StoreError):
    """The same bytes are already stored for another engine or language."""

    def __init__(self, hash: str, engine: str, language: str) -> None:
        super().__init__(
            f"this program is already stored as {language} for {engine}; remove it first, or run its text without "
            "storing it"
        )
        self.hash = hash
        self.engine = engine
        self.language = language


_HINTS = {
    errno.ENOSPC: "the disk is full: remove programs, or free some space",
    errno.EDQUOT: "the quota is used up: remove programs, or free some space",
    errno.EROFS: "the file system is read-only: mount it for writing",
    errno.EIO: "the disk reports an error: see the kernel's log, and replace the disk",
    errno.EACCES: "permission denied: chown the files to the daemon's user",
    errno.EPERM: "not permitted: chown the files to the daemon's user",
    errno.ENOTDIR: "it is a file or a link, not a folder of the store: remove it",
    errno.ELOOP: "it is a symbolic link, which is not followed: remove it",
    errno.EMFILE: f"{os.strerror(errno.EMFILE)}: raise the daemon's limit of open files, and try again",
    errno.ENFILE: f"{os.strerror(errno.ENFILE)}: raise the host's limit of open files, and try again",
    errno.ENOMEM: "out of memory: free some memory, and try again",
}
_SQLITE_HINTS = {
    sqlite3.SQLITE_FULL: _HINTS[errno.ENOSPC],
    sqlite3.SQLITE_IOERR: _HINTS[errno.EIO],
    sqlite3.SQLITE_READONLY: _HINTS[errno.EROFS],
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: chown the files to the daemon's user, or try again",
    sqlite3.SQLITE_BUSY: "another program has it open: close that one",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: restart promptlogd, which rebuilds it",
    sqlite3.SQLITE_NOTADB: "the database is damaged: restart promptlogd, which rebuilds it",
}
_SQLITE_FILES = 4
"""Descriptors of a connection: the database, its log, its folder, and a temporary file."""

TRANSIENT_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN}
"""Errors about the daemon or the host, not about the file."""


def store_error(what: str, error: OSError | sqlite3.Error) -> StoreFailed:
    """Return the error for a failed step, with the reason and a remedy."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_CANTOPEN and (refused := _descriptor_error()) is not None:
            return store_error(what, refused)
        kind = StoreFull if code == sqlite3.SQLITE_FULL else StoreFailed
        return kind(f"{what}: {_SQLITE_HINTS.get(code, error)}")
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    reason = where + _HINTS.get(error.errno or 0, error.strerror or str(error))
    return (StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreFailed)(f"{what}: {reason}")


def _descriptor_error() -> OSError | None:
    """Return the system's error if no more files can be opened. SQLite does not report the reason."""
    with ExitStack() as opened:
        try:
            for _ in range(_SQLITE_FILES):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            error.filename = None
            return error
    return None


def read_error(hash: str, error: OSError) -> StoreFailed:
    """Return the error for an unreadable program: ProgramUnreadable, unless the cause is transient."""
    refused = store_error(f"can't read program {hash}", error)
    if error.errno in TRANSIENT_ERRORS:
        return refused
    return ProgramUnreadable(f"{refused}. Submit the program again to replace it")
