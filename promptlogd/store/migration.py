"""In-place migration from format version 1 (promptlog 0.1.0): new metadata, and no wrapped code.

    version 1                       version 2
    source                          source, unchanged
    wrapped                         removed: the artifact is made at the next run
    meta.json, of the old form      meta.json, of the new form (meta.py)

Version 3 has holders of programs and owners of names (holders.py). A record without them is held by its owner and seen
by everyone, as in version 2. So only SQLite's tables change (facts.py).

After each step, this version can read the program, so nothing is lost if the process is killed. The next start examines
each program again, because `format` is written last. `wrapped` is removed after the new metadata is on disk, because if
the old metadata is damaged, only `wrapped` has the engine and the language of the program.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from itertools import islice
from pathlib import Path

import msgspec

from promptlogd.store.disk import open_folder, read_file, write_all
from promptlogd.store.errors import TRANSIENT_ERRORS, store_error
from promptlogd.store.files import META, MOST_META_BYTES, SOURCE
from promptlogd.store.format_version import FORMAT
from promptlogd.store.hashes import is_hash, is_shelf
from promptlogd.store.holders import Owner
from promptlogd.store.meta import Meta, decode_meta, encode_meta, text_meta
from promptlogd.store.seal import unseal
from sandbox.program import Engine, Language

_log = logging.getLogger(__name__)

_WRAPPED = "wrapped"
_NEW_WRAPPED = ".tmp-wrapped"
_NEW_META = ".tmp-meta.json"
_MOST_WRAPPED_BYTES = 128 << 20
_DENO_WRAPPERS = 1000
"""Lowest version of a Deno wrapper. Lower versions are QuickJS's."""
_TYPESCRIPT_FORMS = (b"T", b"N", b"b", b"m")
"""First bytes of wrapped code whose source is TypeScript."""

_BATCH = 64
"""Programs whose new metadata is written at the same time. It fits into a quarter of the reserve."""

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, *TRANSIENT_ERRORS}
"""Errors of the disk or the host. Other errors concern one program, which is left unchanged."""


class _Result(Enum):
    CONVERTED = auto()
    GUESSED = auto()
    """Converted with reconstructed metadata, because the old metadata is damaged."""
    ALREADY = auto()
    LEFT = auto()
    """Not converted: the metadata is damaged, and there is no `wrapped` to reconstruct it from."""
    FAILED = auto()


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of `wrapped`: version of the wrapper, and hash of the rest."""

    wrapper: int
    sha256: str


def migrate(state_dir: Path) -> None:
    """Migrate all programs, durably. Raises StoreFailed; programs that are already migrated stay migrated.

    A program that cannot be converted is logged and left unchanged. Its old metadata can still be read (meta.py).
    """
    counts = dict.fromkeys(_Result, 0)
    try:
        with open_folder(state_dir / "programs") as programs:
            hashes = _hashes(programs)
            while batch := list(islice(hashes, _BATCH)):
                for result in _migrate_batch(programs, batch):
                    counts[result] += 1
    except OSError as error:
        what = f"can't migrate {state_dir} to format version {FORMAT}; nothing is lost, and the next start continues"
        raise store_error(what, error) from error
    if total := sum(counts.values()):
        _log.info(
            "%s has format version %d now: %d programs, of which %d were converted, %d were converted with "
            "reconstructed metadata, %d had this version already, %d are damaged, and %d could not be converted",
            state_dir,
            FORMAT,
            total,
            *counts.values(),
        )


def _hashes(programs: int) -> Iterator[str]:
    for shelf in sorted(filter(is_shelf, os.listdir(programs))):
        try:
            with open_folder(shelf, programs) as descriptor:
                names = os.listdir(descriptor)
        except OSError as error:
            if error.errno in _FATAL:
                raise
            continue  # the following listing of programs logs it
        yield from sorted(filter(is_hash, (shelf + name for name in names)))


def _migrate_batch(programs: int, hashes: Sequence[str]) -> list[_Result]:
    """Start all writes before waiting for the first, so that a journaling file system commits them together."""
    results = [_attempt(programs, hash, _write) for hash in hashes]
    for index, hash in enumerate(hashes):
        if (
            results[index] in (_Result.CONVERTED, _Result.GUESSED)
            and _attempt(programs, hash, _finish) is _Result.FAILED
        ):
            results[index] = _Result.FAILED
    return results


def _attempt(programs: int, hash: str, step: Callable[[int, str], _Result]) -> _Result:
    try:
        with _folder(programs, hash) as folder:
            return step(folder, hash)
    except OSError as error:
        if error.errno in _FATAL:
            raise
        _log.error("%s", store_error(f"program {hash} is not migrated", error))
        return _Result.FAILED


@contextmanager
def _folder(programs: int, hash: str) -> Iterator[int]:
    with open_folder(hash[:2], programs) as shelf, open_folder(hash[2:], shelf) as folder:
        yield folder


def _write(folder: int, hash: str) -> _Result:
    """Write the new metadata next to the old, and start its write-back. Raises OSError."""
    result = _Result.CONVERTED
    try:
        meta, current = decode_meta(read_file(META, MOST_META_BYTES, parent=folder), hash)
    except (FileNotFoundError, ValueError):
        guess = _guess(folder, hash)
        if guess is None:
            return _Result.LEFT
        meta, current, result = guess, False, _Result.GUESSED
    if current:
        _remove(folder, _WRAPPED, _NEW_WRAPPED, _NEW_META)
        return _Result.ALREADY
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_NEW_META, flags, 0o600, dir_fd=folder)
    try:
        write_all(descriptor, encode_meta(meta))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # starts the write-back of dirty pages
    except BaseException:
        _remove(folder, _NEW_META)
        raise
    finally:
        os.close(descriptor)
    return result


def _finish(folder: int, hash: str) -> _Result:
    """Replace the old metadata durably, then remove the wrapped code. Raises OSError."""
    descriptor = os.open(_NEW_META, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(_NEW_META, META, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    _remove(folder, _WRAPPED, _NEW_WRAPPED)
    return _Result.CONVERTED


def _remove(folder: int, *names: str) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _guess(folder: int, hash: str) -> Meta | None:
    """Reconstruct the metadata from the wrapped code and the source; None if one is damaged. Raises OSError."""
    try:
        line, _, code = read_file(_WRAPPED, _MOST_WRAPPED_BYTES, parent=folder).partition(b"\n")
        header = unseal(line, _Wrapped)
        if hashlib.sha256(code).hexdigest() != header.sha256:
            return None
        source = os.stat(SOURCE, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, ValueError):
        return None
    engine: Engine = "deno" if header.wrapper >= _DENO_WRAPPERS else "quickjs"
    language: Language = "typescript" if code[:1] in _TYPESCRIPT_FORMS else "javascript"
    return text_meta(
        hash,
        size=source.st_size,
        language=language,
        engine=engine,
        owner=Owner(uid=source.st_uid),
        created_at=source.st_mtime,
    )
