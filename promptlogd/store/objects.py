"""The folders of programs: written atomically and durably, and verified at every read. No SQLite here.

    programs/ab/cdef.../    the program with the hash abcdef..., on the shelf (folder) ab (files.py)
    programs/.tmp-*         a program that is being removed; the next start completes the removal
    programs/.spare-*       a folder for the next program (spares.py)

Paths are opened component by component without following symbolic links, so that no planted link can lead outside.

More than 300 lines, because every write and read of a folder is verified in one place.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from promptlogd.store import files
from promptlogd.store.artifacts import MOST_BYTES, Place, unseal_artifact
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import erase, open_folder, read_file, sync
from promptlogd.store.errors import AlreadyThere, Damaged, NotFound, StoreError, read_error, store_error
from promptlogd.store.hashes import is_hash, is_shelf
from promptlogd.store.holders import Owner
from promptlogd.store.key import Key
from promptlogd.store.meta import Meta
from promptlogd.store.ownership import check_folder, make_folder
from promptlogd.store.spares import SPARE, Spares
from promptlogd.store.usage import tree_bytes
from sandbox.program import Artifact, Engine, Language, Program

_log = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_NOT_KEPT = "the program was not stored"
_IS_THERE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""Errors of rename(2) if there is a program, or anything else, under the new name."""


class ProgramFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes that have a folder, unverified; and the shelves (first two digits) that could not be listed."""

    hashes: set[str]
    unread_shelves: set[str]


class Objects:
    """The only reader and writer of `programs/` in the state folder."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder, key: Key) -> None:
        self._programs = state_dir / "programs"
        self._damaged = damaged
        self._key = key
        self.spares = Spares(self._programs, files.TEXT_NAMES)

    def prepare(self) -> None:
        """Create or check the folders, and remove leftovers of an interrupted process. Raises StoreUnsafe, OSError."""
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

    def list_shelf(self, shelf: str) -> set[str]:
        """Return the hashes that have a folder on a shelf. Raises StoreFailed."""
        try:
            return set(filter(is_hash, (shelf + name for name in os.listdir(self._programs / shelf))))
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise store_error(f"can't read programs/{shelf}", error) from error

    def has(self, hash: str) -> bool:
        """Whether there is a folder for this hash, verified or not. Raises StoreFailed if the lookup fails."""
        try:
            if not stat.S_ISDIR(os.lstat(f"{self._programs}/{hash[:2]}").st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            os.lstat(self._path(hash))
        except FileNotFoundError:
            self._check_programs_folder(hash)
            return False
        except OSError as error:
            with suppress(FileNotFoundError), self._programs_and_shelf(hash):
                pass  # otherwise it raises a better error, because the shelf can't be opened
            raise read_error(hash, error) from error
        return True

    def _check_programs_folder(self, hash: str) -> None:
        """Raise StoreFailed if `programs/` itself is missing, so that no program counts as missing."""
        try:
            os.lstat(self._programs)
        except OSError as error:
            raise store_error(f"can't read program {hash}", error) from error

    def stage(self, program: Program, meta: Meta) -> Path:
        """Write a program to disk under a temporary name, and return its folder. Raises StoreFailed."""
        with self._errors(_NOT_KEPT):
            is_text = meta.is_text(program.hash)
            staged = self.spares.take() if is_text else self.spares.make_empty()
            try:
                with open_folder(staged) as folder:
                    (files.write_text if is_text else files.write_several)(folder, program, meta)
            except BaseException:
                self.discard(staged)
                raise
            return staged

    def publish(self, place: Place, staged: Path, artifact: bytes, *, replaces: bool = False) -> None:
        """Rename a staged program to its final name, durably.

        `artifact`: content of the artifact's file. This does not wait until it is on disk: after a power cut it may not
        verify, and is made again. `replaces`: move the damaged or unreadable program of this name to `damaged/`.

        Raises AlreadyThere if there is a program of this name, damaged or not; StoreFailed. The staged folder is then
        removed.
        """
        hash = place.hash
        try:
            with open_folder(staged) as folder:
                files.write_artifact(folder, place, artifact, wait=False)
            shelf_path = f"{self._programs}/{hash[:2]}"
            if not os.path.lexists(shelf_path):
                with suppress(FileExistsError):  # `Spares` has created the shelf
                    os.mkdir(shelf_path, 0o700)
                sync(self._programs)
            if replaces:
                self.set_aside(hash)
            with self._programs_and_shelf(hash) as (programs, shelf):
                try:
                    _rename_durably((programs, staged.name), (shelf, hash[2:]), shelf=shelf)
                except OSError as error:
                    if error.errno in _IS_THERE:
                        raise AlreadyThere(hash) from error
                    raise
        except BaseException as error:
            self.discard(staged)
            if isinstance(error, OSError):
                raise store_error(_NOT_KEPT, error) from error
            raise

    def discard(self, staged: Path) -> None:
        """Remove a staged program, if it still exists."""
        shutil.rmtree(staged, ignore_errors=True)

    def put_artifact(self, place: Place, artifact: bytes) -> None:
        """Replace an artifact, and remove the artifacts of other builds of the engine. Raises StoreFailed."""
        what = f"can't store the artifact of {place.engine} for program {place.hash}"
        with self._errors(what), self._folder(place.hash) as folder:
            try:
                with suppress(FileNotFoundError):
                    os.unlink(files.ARTIFACT, dir_fd=folder)
                files.write_artifact(folder, place, artifact)
            except OSError:
                with suppress(OSError):
                    os.unlink(files.ARTIFACT, dir_fd=folder)
                raise
            files.remove_other_builds(folder, place)

    def artifact(self, place: Place) -> Artifact | None:
        """Return an artifact; None if it is missing or invalid, because it can be made again.

        This follows symbolic links, which saves time. The seal proves that the content is this program's artifact.
        """
        try:
            data = read_file(f"{self._path(place.hash)}/{place.file_name}", MOST_BYTES)
            return unseal_artifact(self._key.value, place, data)[0]
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s of program %s is made again: %s", place.file_name, place.hash, error)
            return None

    def artifact_stamp(self, place: Place) -> tuple[int, ...] | None:
        """Return a value that changes when an artifact's file changes; None if there is no file."""
        try:
            return files.stamp_of(os.lstat(f"{self._path(place.hash)}/{place.file_name}"))
        except OSError:
            return None

    def stamp(self, hash: str) -> tuple[int, ...] | None:
        """Return a value that changes when a program's files change; None if there are none."""
        folder = self._path(hash)
        try:
            return files.stamp_of(os.lstat(f"{folder}/{files.SOURCE}"))
        except OSError:
            with suppress(OSError):
                return files.stamp_of_tree(f"{folder}/{files.FILES}")
        return None

    def _path(self, hash: str) -> str:
        return f"{self._programs}/{hash[:2]}/{hash[2:]}"

    def read(self, hash: str, *, language: Language, engine: Engine) -> Program:
        """Read and verify a program. The caller knows its language and engine.

        Raises NotFound, StoreFailed or Damaged. A removal in progress can also raise Damaged. So take the writers' lock
        and read again before calling `set_aside`.
        """
        with self._program(hash) as folder:
            return files.read_program(folder, hash, language=language, engine=engine)

    def verify_parts(self, hash: str) -> tuple[int, int, list[tuple[files.Part, str]]]:
        """Verify metadata and artifacts: see `files.verify_parts`. Raises NotFound, Damaged, StoreFailed."""
        with self._program(hash) as folder:
            return files.verify_parts(folder, hash, self._key.value)

    def meta(self, hash: str) -> Meta:
        """Return the metadata. If meta.json does not verify, reconstruct it from the program's other files.

        Raises NotFound; Damaged if it cannot be reconstructed; StoreFailed if a file cannot be read, because SQLite
        would keep wrong metadata for ever.
        """
        with self._program(hash) as folder:
            with suppress(FileNotFoundError, ValueError):
                return files.read_meta(folder, hash)
            return files.guess_meta(folder, hash, self._key.value)

    def replace_meta(self, hash: str, meta: Meta) -> None:
        """Replace the metadata, durably. Raises NotFound, StoreFailed."""
        with self._errors(f"can't change the metadata of program {hash}"), self._folder(hash) as folder:
            files.replace_meta(folder, meta)

    def renew_stamp(self, hash: str) -> None:
        """Change the stamp of a program with one file. Raises NotFound, StoreFailed."""
        with self._errors(f"can't change the metadata of program {hash}"), self._folder(hash) as folder:
            files.renew_stamp(folder)

    def owner(self, hash: str) -> Owner | None:
        """Return who submitted a program; None if its metadata does not have it."""
        with suppress(OSError, ValueError, StoreError), self._folder(hash) as folder:
            return files.read_meta(folder, hash).owner
        return None

    @contextmanager
    def _program(self, hash: str) -> Iterator[int]:
        """Open a program's folder to read it. Raises NotFound, Damaged, StoreFailed."""
        try:
            with self._folder(hash) as folder:
                yield folder
        except FileNotFoundError:
            raise Damaged(hash, "one of its files is missing") from None
        except ValueError as error:
            raise Damaged(hash, str(error)) from error
        except OSError as error:
            raise read_error(hash, error) from error

    def take_out(self, hash: str) -> str:
        """Rename a program to a temporary name, durably, and return that name. Raises StoreFailed."""
        removed_folder = f"{_TEMPORARY}removed-{hash[:16]}-{time.monotonic_ns()}"
        with self._errors(f"can't remove program {hash}"), self._programs_and_shelf(hash) as (programs, shelf):
            _rename_durably((shelf, hash[2:]), (programs, removed_folder), shelf=shelf)
        return removed_folder

    def put_back(self, hash: str, removed_folder: str) -> None:
        """Undo `take_out`. Raises StoreFailed."""
        with self._errors(f"can't restore program {hash}"), self._programs_and_shelf(hash) as (programs, shelf):
            # Not undone if the sync fails, because the next start would delete the program under its temporary name.
            os.rename(removed_folder, hash[2:], src_dir_fd=programs, dst_dir_fd=shelf)
            os.fsync(shelf)

    def erase(self, removed_folder: str) -> int:
        """Delete a program that was taken out, and return its disk space. The next start deletes what is left."""
        size = tree_bytes(self._programs / removed_folder)
        _erase(self._programs / removed_folder)
        return size

    def bytes_of(self, hash: str) -> int:
        """Return the disk space of a program; 0 if there is none."""
        return tree_bytes(self._path(hash))

    def set_aside(self, hash: str) -> None:
        """Move a damaged or unreadable program to `damaged/`. Raises StoreFailed."""
        with self._errors(f"can't move program {hash} to damaged/"), self._programs_and_shelf(hash) as (_, shelf):
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
                # Not ProgramUnreadable, because a submit cannot replace a shelf.
                raise store_error(f"can't open the shelf of program {hash}", error) from error
            yield programs, shelf

    @contextmanager
    def _folder(self, hash: str) -> Iterator[int]:
        """Open a program's folder. Raises NotFound, OSError."""
        with ExitStack() as opened:
            try:
                _, shelf = opened.enter_context(self._programs_and_shelf(hash))
                folder = opened.enter_context(open_folder(hash[2:], shelf))
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
        _log.error("%s", store_error(f"{path} is a leftover and can't be removed", error))
