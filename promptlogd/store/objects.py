"""The folders of programs: written atomically and durably, verified at every read. No SQLite here.

    programs/ab/cdef.../    the files of the program with the hash abcdef..., on the shelf ab (files.py)
    programs/.tmp-*         a program that is being removed; the next start finishes that
    programs/.spare-*       a folder for the next program (spares.py)

Folders are opened one below the other without following links, so that nothing planted can lead out.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import erase, open_folder, sync, write_files
from promptlogd.store.errors import Damaged, NotFound, read_error, store_error
from promptlogd.store.files import NAMES, Meta, read_meta, read_source, read_wrapped, with_header
from promptlogd.store.hashes import is_hash, is_shelf
from promptlogd.store.ownership import check_folder, make_folder
from promptlogd.store.seal import seal
from promptlogd.store.spares import SPARE, Spares

_log = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_NOT_KEPT = "the program was not kept"
_NEW_WRAPPED = f"{_TEMPORARY}wrapped"


class ProgramFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes that have a folder, unverified, and the shelves (first two digits) that could not be listed."""

    hashes: set[str]
    unread_shelves: set[str]


class Objects:
    """The one reader and writer of `programs/` below the state folder."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._programs = state_dir / "programs"
        self._damaged = damaged
        self.spares = Spares(self._programs, NAMES)

    def prepare(self) -> None:
        """Make or check the folders, and remove what an interrupted process left. Raises StoreUnsafe, OSError."""
        make_folder(self._programs)
        for entry in self._programs.iterdir():
            if is_shelf(entry.name):
                check_folder(entry)
            elif entry.name.startswith((_TEMPORARY, SPARE)):
                _erase(entry)

    def list_folders(self) -> ProgramFolders:
        """Return the folders of programs. Raises OSError if `programs/` can't be listed."""
        found = ProgramFolders(hashes=set(), unread_shelves=set())
        for shelf in filter(is_shelf, os.listdir(self._programs)):
            try:
                found.hashes.update(filter(is_hash, (shelf + name for name in os.listdir(self._programs / shelf))))
            except OSError as error:
                found.unread_shelves.add(shelf)
                _log.error("%s", store_error("some programs are not served", error))
        return found

    def has(self, hash: str) -> bool:
        """Whether there is an entry under this hash, verified or not. Raises StoreFailed if it can't be looked up."""
        try:
            with self._shelf(hash) as shelf:
                os.stat(hash[2:], dir_fd=shelf, follow_symlinks=False)
        except FileNotFoundError:
            self._check_programs_folder(hash)
            return False
        except OSError as error:
            raise read_error(hash, error) from error
        return True

    def _check_programs_folder(self, hash: str) -> None:
        """Raise StoreFailed if `programs/` itself is gone: then no program counts as missing."""
        try:
            os.lstat(self._programs)
        except OSError as error:
            raise store_error(f"can't read program {hash}", error) from error

    def stage(self, source: bytes, meta: Meta) -> Path:
        """Put a source on the disk, under no name that a reader knows; return its folder. Raises StoreFailed."""
        with self._errors(_NOT_KEPT):
            staged = self.spares.take()
            try:
                with open_folder(staged) as folder:
                    write_files(folder, {"source": source, "meta.json": seal(meta)})
            except BaseException:
                self.discard(staged)
                raise
            return staged

    def publish(self, hash: str, staged: Path, wrapped: bytes, wrapper: int, *, replaces: bool = False) -> None:
        """Give what was staged its name, durably. Raises StoreFailed, with the staged folder removed.

        Does not wait for the wrapped code. After a power cut the code may not verify, and is rebuilt from the source.
        `replaces`: a damaged or unreadable program has this name, and is moved to `damaged/`.
        """
        with self._errors(_NOT_KEPT):
            try:
                with open_folder(staged) as folder:
                    write_files(folder, {"wrapped": with_header(wrapped, wrapper)}, wait=False)
                shelf_path = self._programs / hash[:2]
                if not os.path.lexists(shelf_path):
                    with suppress(FileExistsError):  # the spares' shelves came first
                        shelf_path.mkdir(mode=0o700)
                    sync(self._programs)
                if replaces:
                    self.set_aside(hash)
                with self._programs_and_shelf(hash) as (programs, shelf):
                    _rename_durably((programs, staged.name), (shelf, hash[2:]), shelf=shelf)
            except BaseException:
                self.discard(staged)
                raise

    def discard(self, staged: Path) -> None:
        """Remove what was staged, if it is still there."""
        shutil.rmtree(staged, ignore_errors=True)

    def rewrap(self, hash: str, wrapped: bytes, wrapper: int) -> None:
        """Replace the wrapped code. Raises StoreFailed."""
        with self._errors(f"can't keep the wrapped code of program {hash}"), self._folder(hash) as folder:
            try:
                with suppress(FileNotFoundError):
                    os.unlink(_NEW_WRAPPED, dir_fd=folder)
                write_files(folder, {_NEW_WRAPPED: with_header(wrapped, wrapper)})
                os.rename(_NEW_WRAPPED, "wrapped", src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(_NEW_WRAPPED, dir_fd=folder)
                raise

    def stamp(self, hash: str) -> tuple[int, ...] | None:
        """Return what changes when a program's files do; None if they are not both there."""
        folder = f"{self._programs}/{hash[:2]}/{hash[2:]}"
        try:
            source, wrapped = os.lstat(f"{folder}/source"), os.lstat(f"{folder}/wrapped")
        except OSError:
            return None
        return (
            *(source.st_ino, source.st_size, source.st_mtime_ns, source.st_ctime_ns),
            *(wrapped.st_ino, wrapped.st_size, wrapped.st_mtime_ns, wrapped.st_ctime_ns),
        )

    def read(self, hash: str) -> tuple[bytes, bytes | None, int]:
        """Return (source, wrapped code or None if that is no good, version of its wrapper).

        Raises NotFound, StoreFailed, or Damaged; the last may be a removal that is under way as well: who holds the
        writers' lock can tell, by reading again, and calls `set_aside`.
        """
        try:
            with self._folder(hash) as folder:
                source = read_source(folder)
                wrapped: bytes | None = None
                wrapper = 0
                with suppress(OSError, ValueError):  # it is rebuilt from the source
                    wrapped, wrapper = read_wrapped(folder)
        except FileNotFoundError:
            raise Damaged(hash, "its source is missing") from None
        except ValueError as error:
            raise Damaged(hash, str(error)) from error
        except OSError as error:
            raise read_error(hash, error) from error
        if hashlib.sha256(source).hexdigest() != hash:
            raise Damaged(hash, "its bytes do not have its hash")
        return source, wrapped, wrapper

    def meta(self, hash: str) -> Meta:
        """Return the metadata, or a guess from the program's other files if meta.json does not verify.

        Raises NotFound, and StoreFailed if a file can't be read: SQLite would keep a guess for ever.
        """
        try:
            with self._folder(hash) as folder:
                return read_meta(folder)
        except OSError as error:
            raise read_error(hash, error) from error

    def take_out(self, hash: str) -> str:
        """Move a program out of its place, durably; return its temporary name. Raises StoreFailed."""
        removed_folder = f"{_TEMPORARY}removed-{hash[:16]}-{time.monotonic_ns()}"
        with self._errors(f"can't remove program {hash}"), self._programs_and_shelf(hash) as (programs, shelf):
            _rename_durably((shelf, hash[2:]), (programs, removed_folder), shelf=shelf)
        return removed_folder

    def put_back(self, hash: str, removed_folder: str) -> None:
        """Undo `take_out`. Raises StoreFailed."""
        with self._errors(f"can't put program {hash} back"), self._programs_and_shelf(hash) as (programs, shelf):
            # Not undone if the sync fails: the next start would delete the program from where it was.
            os.rename(removed_folder, hash[2:], src_dir_fd=programs, dst_dir_fd=shelf)
            os.fsync(shelf)

    def erase(self, removed_folder: str) -> None:
        """Delete a program that was taken out. The next start deletes what can't be deleted now."""
        _erase(self._programs / removed_folder)

    def set_aside(self, hash: str) -> None:
        """Move a program that is damaged or unreadable to `damaged/`. Raises StoreFailed."""
        with self._errors(f"can't move program {hash} to damaged/"), self._shelf(hash) as shelf:
            self._damaged.move_in(hash[2:], folder=shelf, label=hash)

    @contextmanager
    def _programs_and_shelf(self, hash: str) -> Iterator[tuple[int, int]]:
        """Open `programs/` and a program's shelf. Raises FileNotFoundError, StoreFailed."""
        with ExitStack() as opened:
            try:
                programs = opened.enter_context(open_folder(self._programs))
                shelf = opened.enter_context(open_folder(hash[:2], programs))
            except FileNotFoundError:
                raise
            except OSError as error:
                # No ProgramUnreadable: a submit can't replace a shelf.
                raise store_error(f"can't open the shelf of program {hash}", error) from error
            yield programs, shelf

    @contextmanager
    def _shelf(self, hash: str) -> Iterator[int]:
        with self._programs_and_shelf(hash) as (_, shelf):
            yield shelf

    @contextmanager
    def _folder(self, hash: str) -> Iterator[int]:
        """Open a program's folder. Raises NotFound, OSError."""
        with ExitStack() as opened:
            try:
                folder = opened.enter_context(self._shelf(hash))
                folder = opened.enter_context(open_folder(hash[2:], folder))
            except FileNotFoundError:
                self._check_programs_folder(hash)
                raise NotFound(hash) from None
            yield folder

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(what, error) from error


def _rename_durably(source: tuple[int, str], target: tuple[int, str], *, shelf: int) -> None:
    """Rename (folder, name) to (folder, name) and sync the shelf. Undo the rename if the sync fails. Raises OSError."""
    (folder, name), (new_folder, new_name) = source, target
    os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)
    try:
        os.fsync(shelf)
    except OSError:
        os.rename(new_name, name, src_dir_fd=new_folder, dst_dir_fd=folder)
        raise


def _erase(path: Path) -> None:
    try:
        erase(path)
    except OSError as error:
        _log.error("%s", store_error(f"{path} is left over and can't be removed", error))
