"""The folders of programs: written atomically and durably, verified at every read. No SQLite here.

    programs/ab/cdef.../source      the bytes as submitted
    programs/ab/cdef.../wrapped     a line of JSON {"wrapper", "sha256"}, then what the engine runs
    programs/ab/cdef.../meta.json   who and when, from which the facts can be rebuilt

That line and meta.json are sealed (seal.py).

Folders are opened one below the other without following links, so that nothing planted can lead out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from promptlogd.store.disk import FOLDER, sync, write_all
from promptlogd.store.errors import Damaged, NotFound, StoreFailed
from promptlogd.store.seal import seal, unseal
from promptlogd.store.spares import Spares
from promptlogd.wire.messages import Engine, Language
from sandbox.engines.replies import DENO_WRAPPERS

_CAPS = {"source": 64 << 20, "wrapped": 128 << 20, "meta.json": 64 << 10}
_TEMPORARY = ".tmp-"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Who submitted a program (uid), when (seconds since the epoch), for what engine, written in what."""

    size: int
    created_at: float
    created_by: int
    engine: Engine = "quickjs"
    language: Language = "javascript"


class _WrappedHeader(msgspec.Struct, frozen=True, kw_only=True):
    wrapper: int
    sha256: str


class Objects:
    """The one reader and writer of `programs/` and `damaged/` below the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._programs = state_dir / "programs"
        self._damaged = state_dir / "damaged"
        self.spares = Spares(self._programs, tuple(_CAPS))

    def prepare(self) -> None:
        """Make the folders, and sweep what an earlier process left half done."""
        for folder in (self._programs, self._damaged):
            folder.mkdir(mode=0o700, exist_ok=True)
        for left in self._programs.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.spares.sweep()

    def hashes(self) -> Iterator[str]:
        """Yield the hash of every program folder, unverified."""
        for shelf in sorted(self._programs.iterdir()):
            if len(shelf.name) == 2 and shelf.is_dir() and not shelf.is_symlink():
                for folder in sorted(shelf.iterdir()):
                    if len(folder.name) == 62:
                        yield shelf.name + folder.name

    def has(self, hash: str) -> bool:
        """Whether there is something under this hash, good or bad."""
        return os.path.lexists(self._path(hash))

    def stage(self, source: bytes, meta: Meta) -> Path:
        """Put a source on the disk, under no name that a reader knows; return its folder. Raises StoreFailed."""
        with self._errors():
            folder = self.spares.take()
            try:
                write_all(folder, {"source": source, "meta.json": seal(meta)})
            except BaseException:
                self.discard(folder)
                raise
            return folder

    def publish(self, hash: str, staged: Path, wrapped: bytes, wrapper: int) -> None:
        """Give what was staged its name, durably. Raises StoreFailed, with the staged folder removed.

        The wrapped code is not waited for: should the power go first, it does not verify and is made again.
        """
        with self._errors():
            try:
                write_all(staged, {"wrapped": _with_header(wrapped, wrapper)}, wait=False)
                shelf = self._path(hash).parent
                if not os.path.lexists(shelf):
                    with suppress(FileExistsError):  # the spares' shelves came first
                        shelf.mkdir(mode=0o700)
                    sync(self._programs)
                elif shelf.is_symlink() or not shelf.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{shelf} is not a folder of ours; remove it")
                staged.rename(self._path(hash))
                sync(shelf)
            except BaseException:
                self.discard(staged)
                raise

    def discard(self, staged: Path) -> None:
        """Remove what was staged, if it is still there."""
        shutil.rmtree(staged, ignore_errors=True)

    def rewrap(self, hash: str, wrapped: bytes, wrapper: int) -> None:
        """Put new wrapped code in the place of the old. Raises StoreFailed."""
        folder = self._path(hash)
        with self._errors():
            temporary = folder / f"{_TEMPORARY}wrapped"
            with suppress(FileNotFoundError):
                temporary.unlink()
            write_all(folder, {temporary.name: _with_header(wrapped, wrapper)})
            temporary.rename(folder / "wrapped")
            sync(folder)

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
                source = _read(folder, "source")
                try:
                    wrapped, wrapper = _without_header(_read(folder, "wrapped"))
                except (OSError, ValueError):
                    wrapped, wrapper = None, 0
        except FileNotFoundError:
            if not self.has(hash):
                raise NotFound(hash) from None
            raise Damaged(hash, "its source is missing") from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EIO):
                raise StoreFailed(f"can't read program {hash}: {error.strerror}") from error
            raise Damaged(hash, str(error)) from error
        if hashlib.sha256(source).hexdigest() != hash:
            raise Damaged(hash, "its bytes do not have its hash")
        return source, wrapped, wrapper

    def meta(self, hash: str) -> Meta:
        """Return who and when; made up from the file system's account where the file is no good."""
        try:
            with self._folder(hash) as folder:
                return unseal(_read(folder, "meta.json"), Meta)
        except (OSError, ValueError):
            path = self._path(hash)
            engine, language = self._what_for(hash)
            try:
                source = (path / "source").lstat()
            except OSError:
                return Meta(size=0, created_at=0.0, created_by=0)
            return Meta(
                size=source.st_size,
                created_at=source.st_mtime,
                created_by=source.st_uid,
                engine=engine,
                language=language,
            )

    def _what_for(self, hash: str) -> tuple[Engine, Language]:
        """Return what the wrapped code was made for, which says it as well."""
        try:
            with self._folder(hash) as folder:
                wrapped, wrapper = _without_header(_read(folder, "wrapped"))
        except (OSError, ValueError):
            return "quickjs", "javascript"
        return ("deno" if wrapper >= DENO_WRAPPERS else "quickjs"), (
            "typescript" if wrapped[:1] in (b"T", b"N", b"b", b"m") else "javascript"
        )

    def remove(self, hash: str) -> None:
        """Remove a program: gone from its name at once, then from the disk. Raises NotFound, StoreFailed."""
        with self._errors():
            grave = self._programs / f"{_TEMPORARY}removed-{hash[:16]}-{time.monotonic_ns()}"
            try:
                self._path(hash).rename(grave)
            except FileNotFoundError:
                raise NotFound(hash) from None
            sync(self._path(hash).parent)
            if grave.is_symlink():
                grave.unlink()
            else:
                shutil.rmtree(grave)

    def _path(self, hash: str) -> Path:
        return self._programs / hash[:2] / hash[2:]

    @contextmanager
    def _folder(self, hash: str) -> Iterator[int]:
        descriptors: list[int] = []
        try:
            descriptors.append(os.open(self._programs, FOLDER))
            for name in (hash[:2], hash[2:]):
                descriptors.append(os.open(name, FOLDER, dir_fd=descriptors[-1]))
            yield descriptors[-1]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def set_aside(self, hash: str) -> None:
        """Move a damaged program out of the way, for somebody to look at."""
        with suppress(OSError):
            # A name of its own, whatever the clock does.
            self._path(hash).rename(self._damaged / f"{hash}-{time.time_ns()}-{os.urandom(4).hex()}")
            sync(self._damaged)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = {
                errno.ENOSPC: "the disk is full: free some space",
                errno.EDQUOT: "the quota is used up: free some space",
                errno.EROFS: "the file system is read-only: mount it for writing",
            }.get(error.errno or 0, error.strerror or str(error))
            raise StoreFailed(f"can't write to {self._programs.parent}: {hint}; nothing was kept") from error


def _with_header(wrapped: bytes, wrapper: int) -> bytes:
    header = _WrappedHeader(wrapper=wrapper, sha256=hashlib.sha256(wrapped).hexdigest())
    return seal(header) + b"\n" + wrapped


def _without_header(data: bytes) -> tuple[bytes, int]:
    line, _, wrapped = data.partition(b"\n")
    header = unseal(line, _WrappedHeader)
    if hashlib.sha256(wrapped).hexdigest() != header.sha256:
        raise ValueError("wrapped code does not verify")
    return wrapped, header.wrapper


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _CAPS[name]:
            raise ValueError(f"{name} is no file of a bearable size")
        return file.readall()
