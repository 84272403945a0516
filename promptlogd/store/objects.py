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
from promptlogd.store.disk import FOLDER, erase, sync, write_files
from promptlogd.store.errors import Damaged, NotFound, failed, unreadable
from promptlogd.store.files import NAMES, Meta, read_meta, read_source, read_wrapped, with_header
from promptlogd.store.hashes import is_hash, is_shelf
from promptlogd.store.ownership import check_folder, make_folder
from promptlogd.store.seal import seal
from promptlogd.store.spares import SPARE, Spares

_log = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_NOT_KEPT = "the program was not kept"
_NEW_WRAPPED = f"{_TEMPORARY}wrapped"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes that have a folder, unverified; and the shelves (first two digits) that could not be listed."""

    hashes: set[str]
    unread_shelves: set[str]


class Objects:
    """The one reader and writer of `programs/` below the state folder."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._programs = state_dir / "programs"
        self._damaged = damaged
        self.spares = Spares(self._programs, NAMES)

    def prepare(self) -> None:
        """Make or check the folders, and sweep what an earlier process left half done. Raises StoreUnsafe, OSError."""
        make_folder(self._programs)
        for entry in self._programs.iterdir():
            if is_shelf(entry.name):
                check_folder(entry)
            elif entry.name.startswith((_TEMPORARY, SPARE)):
                _erase(entry)

    def find(self) -> Found:
        """Return what is there. Raises OSError if nothing can be listed."""
        found = Found(hashes=set(), unread_shelves=set())
        for shelf in filter(is_shelf, os.listdir(self._programs)):
            try:
                found.hashes.update(filter(is_hash, (shelf + name for name in os.listdir(self._programs / shelf))))
            except OSError as error:
                found.unread_shelves.add(shelf)
                _log.error("%s", failed("some programs are not served", error))
        return found

    def has(self, hash: str) -> bool:
        """Whether there is something under this hash, good or bad. Raises StoreFailed if that can't be told."""
        try:
            with self._shelf(hash) as shelf:
                os.stat(hash[2:], dir_fd=shelf, follow_symlinks=False)
        except FileNotFoundError:
            self._check_there(hash)
            return False
        except OSError as error:
            raise unreadable(hash, error) from error
        return True

    def _check_there(self, hash: str) -> None:
        """Raise StoreFailed if `programs/` itself is not there: a program in it is not missing then."""
        try:
            os.lstat(self._programs)
        except OSError as error:
            raise unreadable(hash, error) from error

    def stage(self, source: bytes, meta: Meta) -> Path:
        """Put a source on the disk, under no name that a reader knows; return its folder. Raises StoreFailed."""
        with self._errors(_NOT_KEPT):
            staged = self.spares.take()
            try:
                with _opened(staged) as folder:
                    write_files(folder, {"source": source, "meta.json": seal(meta)})
            except BaseException:
                self.discard(staged)
                raise
            return staged

    def publish(self, hash: str, staged: Path, wrapped: bytes, wrapper: int, *, replaces: bool = False) -> None:
        """Give what was staged its name, durably. Raises StoreFailed, with the staged folder removed.

        The wrapped code is not waited for: should the power go first, it does not verify and is made again.
        `replaces`: the program that is there is damaged or unreadable, and is moved to `damaged/`.
        """
        with self._errors(_NOT_KEPT):
            try:
                with _opened(staged) as folder:
                    write_files(folder, {"wrapped": with_header(wrapped, wrapper)}, wait=False)
                shelf = self._path(hash).parent
                if not os.path.lexists(shelf):
                    with suppress(FileExistsError):  # the spares' shelves came first
                        shelf.mkdir(mode=0o700)
                    sync(self._programs)
                if replaces:
                    self.set_aside(hash)
                with self._shelf(hash) as folder:
                    os.rename(staged, hash[2:], dst_dir_fd=folder)
                    try:
                        os.fsync(folder)
                    except OSError:
                        os.rename(hash[2:], staged, src_dir_fd=folder)
                        raise
            except BaseException:
                self.discard(staged)
                raise

    def discard(self, staged: Path) -> None:
        """Remove what was staged, if it is still there."""
        shutil.rmtree(staged, ignore_errors=True)

    def rewrap(self, hash: str, wrapped: bytes, wrapper: int) -> None:
        """Put new wrapped code in the place of the old. Raises StoreFailed."""
        with self._errors(f"can't keep what was made of program {hash}"), self._folder(hash) as folder:
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
                with suppress(OSError, ValueError):  # it is made again
                    wrapped, wrapper = read_wrapped(folder)
        except FileNotFoundError:
            raise Damaged(hash, "its source is missing") from None
        except ValueError as error:
            raise Damaged(hash, str(error)) from error
        except OSError as error:
            raise unreadable(hash, error) from error
        if hashlib.sha256(source).hexdigest() != hash:
            raise Damaged(hash, "its bytes do not have its hash")
        return source, wrapped, wrapper

    def meta(self, hash: str) -> Meta:
        """Return who and when; derived from the program's other files if meta.json does not verify.

        Raises NotFound, and StoreFailed if it can't be read: the facts would keep a guess for good.
        """
        try:
            with self._folder(hash) as folder:
                return read_meta(folder)
        except OSError as error:
            raise unreadable(hash, error) from error

    def take_out(self, hash: str) -> str:
        """Move a program out of its place, durably; return its temporary name. Raises StoreFailed."""
        grave = f"{_TEMPORARY}removed-{hash[:16]}-{time.monotonic_ns()}"
        with (
            self._errors(f"can't remove program {hash}"),
            _opened(self._programs) as programs,
            self._shelf(hash) as shelf,
        ):
            os.rename(hash[2:], grave, src_dir_fd=shelf, dst_dir_fd=programs)
            try:
                os.fsync(shelf)
            except OSError:
                os.rename(grave, hash[2:], src_dir_fd=programs, dst_dir_fd=shelf)
                raise
        return grave

    def put_back(self, hash: str, grave: str) -> None:
        """Undo `take_out`. Raises StoreFailed."""
        with (
            self._errors(f"can't put program {hash} back"),
            _opened(self._programs) as programs,
            self._shelf(hash) as shelf,
        ):
            os.rename(grave, hash[2:], src_dir_fd=programs, dst_dir_fd=shelf)
            os.fsync(shelf)

    def erase(self, grave: str) -> None:
        """Delete a program that was taken out. The next start deletes what can't be deleted now."""
        _erase(self._programs / grave)

    def set_aside(self, hash: str) -> None:
        """Move a program that is damaged or unreadable to `damaged/`. Raises StoreFailed."""
        with self._errors(f"can't move program {hash} to damaged/"), self._shelf(hash) as shelf:
            self._damaged.take(hash[2:], folder=shelf, label=hash)

    def _path(self, hash: str) -> Path:
        return self._programs / hash[:2] / hash[2:]

    @contextmanager
    def _shelf(self, hash: str) -> Iterator[int]:
        with _opened(self._programs) as programs, _opened(hash[:2], programs) as shelf:
            yield shelf

    @contextmanager
    def _folder(self, hash: str) -> Iterator[int]:
        """Open a program's folder. Raises NotFound, OSError."""
        with ExitStack() as opened:
            try:
                folder = opened.enter_context(self._shelf(hash))
                folder = opened.enter_context(_opened(hash[2:], folder))
            except FileNotFoundError:
                self._check_there(hash)
                raise NotFound(hash) from None
            yield folder

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failed(what, error) from error


@contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _erase(path: Path) -> None:
    try:
        erase(path)
    except OSError as error:
        _log.error("%s", failed(f"{path} is left over and can't be removed", error))
