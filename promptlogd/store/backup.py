"""Copies the state folder while the daemon writes to it.

The files of a program never change in place: the store replaces them by renaming. So a copy may share them, as hard
links. The order makes the copy consistent:

1. Copy all folders of programs, while others read and write.
2. Take the writers' lock. Repeat step 1 for programs that were stored, changed or removed in between. Copy the journal
   of names, and SQLite's facts.
3. Write `format`, wait until all is on disk.

The lock is held for about as long as it takes to list all programs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from promptlogd.store.disk import open_folder, write_all
from promptlogd.store.errors import BackupStopped, StoreError, StoreFailed, StoreUnsafe, UnusableFolder, store_error
from promptlogd.store.files import META
from promptlogd.store.format_version import write_format
from promptlogd.store.journal import JOURNAL_FILE
from promptlogd.store.key import KEY_FILE
from promptlogd.store.ownership import check_folder
from promptlogd.store.records import BackedUp
from promptlogd.store.state_folder import StateFolder
from sandbox.trusted_path import UntrustedPath, check_trusted

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}
"""Errors of `link` after which the file is copied: another file system, or one without hard links."""
_PART_BYTES = 1 << 20
_MOST_DEPTH = 17
_PROGRAMS = "programs"


class Backup:
    """Writes one copy."""

    def __init__(self, state: StateFolder, folder: Path, stopped: Callable[[], bool]) -> None:
        """`stopped`: whether to give up. It is asked for each program."""
        self._state = state
        self._source = state.path
        self._folder = folder
        self._stopped = stopped
        self._copied: dict[str, object] = {}
        """For each copied program: what changes if the store changes its files."""
        self._linked_files = 0
        self._copied_files = 0

    def write(self, copy_journal: Callable[[Path], None]) -> BackedUp:
        """Write the copy. After an error the folder is empty again.

        `copy_journal`: writes the journal of runs into the folder. Raises UnusableFolder, BackupStopped, StoreFailed.
        """
        self._check_folder()
        try:
            with open_folder(self._folder) as target:
                self._write(target, copy_journal)
        except (OSError, sqlite3.Error) as error:
            self._clear()
            raise store_error(f"can't write a backup to {self._folder}", error) from error
        except BaseException:
            self._clear()
            raise
        return BackedUp(programs=len(self._copied), linked=self._linked_files, copied=self._copied_files)

    def _check_folder(self) -> None:
        """Raise UnusableFolder unless this is an empty folder that only the daemon's user can write to."""
        folder, needs = self._folder, "the backup needs an empty folder of the daemon's user, with mode 0700"
        if not folder.is_absolute() or ".." in folder.parts:
            raise UnusableFolder(f"{str(folder)!r:.200} is not an absolute path without `..`")
        if self._source == folder or self._source in folder.parents or folder in self._source.parents:
            raise UnusableFolder(f"{folder} contains the state folder {self._source}, or is in it; give another folder")
        try:
            check_trusted(folder)
            check_folder(folder, closed_to=0o077)
            if os.listdir(folder):
                raise UnusableFolder(f"{folder} is not empty; {needs}")
        except UntrustedPath as error:
            raise UnusableFolder(f"can't use {folder}: {error.why}; {needs}") from error
        except StoreUnsafe as error:
            raise UnusableFolder(f"{error}; {needs}".replace(" or give --state-dir", "")) from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UnusableFolder(
                f"can't use {str(folder)!r:.200}: {why}; {needs}: install -d -m 700 -o {os.geteuid()} FOLDER"
            ) from error

    def _write(self, target: int, copy_journal: Callable[[Path], None]) -> None:
        os.mkdir(_PROGRAMS, 0o700, dir_fd=target)
        for hash in sorted(self._hashes()):
            self._copy_program(hash)
        with self._state.writing:
            self._catch_up()
            self._copy_start(JOURNAL_FILE, self._state.journal.size)
            self._state.facts.copy_to(self._folder)
        self._copy_start(KEY_FILE, None)
        copy_journal(self._folder)
        write_format(self._folder)
        if ctypes.CDLL(None, use_errno=True).syncfs(target):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self._folder))

    def _catch_up(self) -> None:
        """Repeat the copying for programs that have changed. The caller holds the writers' lock."""
        hashes = self._hashes()
        for hash in self._copied.keys() - hashes:
            self._discard(hash)
        for hash in hashes:
            if hash not in self._copied:
                self._copy_program(hash)
            elif self._copied[hash] != self._stamp(hash):
                self._discard(hash)
                self._copy_program(hash)

    def _hashes(self) -> set[str]:
        found = self._state.objects.list_folders()
        if found.unread_shelves:
            raise StoreFailed(
                f"can't write a backup: programs/{min(found.unread_shelves)} can't be read; see the daemon's log"
            )
        return found.hashes

    def _place(self, base: Path, hash: str) -> Path:
        return base / _PROGRAMS / hash[:2] / hash[2:]

    def _stamp(self, hash: str) -> object:
        folder = self._place(self._source, hash)
        inode = 0
        with suppress(FileNotFoundError):
            inode = os.lstat(folder / META).st_ino
        return os.lstat(folder).st_ino, inode

    def _discard(self, hash: str) -> None:
        del self._copied[hash]
        shutil.rmtree(self._place(self._folder, hash))

    def _copy_program(self, hash: str) -> None:
        if self._stopped():
            raise BackupStopped("the backup was stopped, because the client has gone or the daemon is stopping")
        target = self._place(self._folder, hash)
        try:
            self._copied[hash] = self._stamp(hash)
        except FileNotFoundError:
            return  # it was removed in between
        with suppress(FileExistsError):
            target.parent.mkdir(mode=0o700)
        target.mkdir(mode=0o700)
        try:
            with open_folder(self._place(self._source, hash)) as source, open_folder(target) as copy:
                self._copy_tree(source, copy, _MOST_DEPTH)
        except FileNotFoundError:  # it was removed, or changed: the second turn sees it
            self._discard(hash)

    def _copy_tree(self, source: int, target: int, depth: int) -> None:
        for name in os.listdir(source):
            if depth == _MOST_DEPTH and name.startswith("."):
                continue  # a file that is being written
            mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                self._copy_file(name, source, target)
            elif stat.S_ISDIR(mode) and depth:
                os.mkdir(name, 0o700, dir_fd=target)
                with open_folder(name, source) as below, open_folder(name, target) as copy:
                    self._copy_tree(below, copy, depth - 1)

    def _copy_file(self, name: str, source: int, target: int) -> None:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        else:
            self._linked_files += 1
            return
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(name, flags, 0o600, dir_fd=target)
            try:
                while data := os.read(reading, _PART_BYTES):
                    write_all(writing, data)
                status = os.fstat(reading)
                os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        self._copied_files += 1

    def _copy_start(self, name: str, size: int | None) -> None:
        """Copy the first bytes of a file in the state folder, or all of it. A missing file is empty."""
        data = b""
        with suppress(FileNotFoundError), (self._source / name).open("rb") as file:
            data = file.read(size)
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _clear(self) -> None:
        """Remove what was written, as far as possible."""
        with suppress(OSError, StoreError):
            for entry in self._folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
