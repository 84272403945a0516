"""The files of one program, in an open folder.

    source                      the text as submitted, for a program with one file
    files/                      the files as submitted, by path, for any other program
    meta.json                   owner, time, and the files' sizes and hashes (meta.py)
    artifact.ENGINE.BUILD       an artifact of the program (artifacts.py)

Functions raise ValueError if a file does not verify, FileNotFoundError if it is missing, OSError for disk errors.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import Literal

from promptlogd.store.artifacts import MOST_BYTES as MOST_ARTIFACT_BYTES
from promptlogd.store.artifacts import Place, engine_prefix, place_of, unseal_artifact
from promptlogd.store.disk import open_folder, open_parent, read_file, write_files, write_tree
from promptlogd.store.holders import Holder
from promptlogd.store.meta import Meta, decode_meta, encode_meta, text_meta
from promptlogd.store.paths import MOST_BYTES
from sandbox.program import Artifact, Engine, Language, Program

SOURCE = "source"
META = "meta.json"
FILES = "files"
ARTIFACT = ".artifact"
"""Temporary name under which an artifact is written."""

_NEW_META = ".meta"

TEXT_NAMES = (SOURCE, META, ARTIFACT)
"""Files of a new program with one file."""

MOST_META_BYTES = 256 << 10

Part = Literal["metadata", "artifact"]
"""A part of a program beside its files."""


def write_text(folder: int, program: Program, meta: Meta) -> None:
    """Write a program with one file, and return once it is on disk. Raises OSError.

    The folder must be on disk, with the empty files TEXT_NAMES in it.
    """
    write_files(folder, {SOURCE: program.source, META: encode_meta(meta)})


def write_several(folder: int, program: Program, meta: Meta) -> None:
    """Write any other program to an empty folder, and return once it is on disk. Raises OSError."""
    os.mkdir(FILES, 0o700, dir_fd=folder)
    with open_folder(FILES, folder) as files:
        write_tree(files, program.files)
    write_files(folder, {META: encode_meta(meta)})
    os.fsync(folder)


def read_program(folder: int, hash: str, *, language: Language, engine: Engine) -> Program:
    """Read and verify a program."""
    try:
        text = read_file(SOURCE, MOST_BYTES, parent=folder)
    except FileNotFoundError:
        return _read_tree(folder, hash, language=language, engine=engine)
    program = Program.of_text(text, language=language, engine=engine)
    if program.hash != hash:
        raise ValueError("its bytes do not match its hash")
    return program


def _read_tree(folder: int, hash: str, *, language: Language, engine: Engine) -> Program:
    meta = read_meta(folder, hash)
    files = {}
    with open_folder(FILES, folder) as tree:
        for path, known in meta.files.items():
            with open_parent(tree, path) as (parent, name):
                data = read_file(name, known.size, parent=parent)
            if hashlib.sha256(data).hexdigest() != known.sha256:
                raise ValueError(f"the bytes of {path} do not match their hash")
            files[path] = data
    return Program(hash=hash, files=files, entry=meta.entry, language=language, engine=engine)


def read_meta(folder: int, hash: str) -> Meta:
    """Read and verify the metadata."""
    return decode_meta(read_file(META, MOST_META_BYTES, parent=folder), hash)[0]


def replace_meta(folder: int, meta: Meta) -> None:
    """Replace the metadata, and return once it is on disk. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(_NEW_META, dir_fd=folder)
    write_files(folder, {_NEW_META: encode_meta(meta)})
    os.rename(_NEW_META, META, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def renew_stamp(folder: int) -> None:
    """Change the stamp of a program with one file, so that cached copies become invalid."""
    with suppress(FileNotFoundError):
        status = os.stat(SOURCE, dir_fd=folder, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(SOURCE, ns=times, dir_fd=folder, follow_symlinks=False)


def guess_meta(folder: int, hash: str, key: bytes) -> Meta:
    """Reconstruct the metadata of a program with one file from its other files. Raises OSError if one can't be read."""
    engine: Engine = "quickjs"
    language: Language = "javascript"
    for name in sorted(os.listdir(folder)):
        place = place_of(hash, name)
        if place is not None:
            engine = place.engine
            with suppress(FileNotFoundError, ValueError):
                language = read_artifact(folder, place, key)[1]
    try:
        source = os.stat(SOURCE, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        if FILES in os.listdir(folder):
            raise ValueError("its metadata does not verify") from None
        size, created_at, uid = 0, 0.0, 0
    else:
        size, created_at, uid = source.st_size, source.st_mtime, source.st_uid
    # The holders are not known. So only managers see the program, unless SQLite still has its holders.
    holder = Holder(uid=uid, visibility="own", at=created_at)
    return text_meta(
        hash,
        size=size,
        language=language,
        engine=engine,
        owner=holder.owner,
        created_at=created_at,
        holders=[holder],
    )


def read_artifact(folder: int, place: Place, key: bytes) -> tuple[Artifact, Language]:
    """Read and verify an artifact. Return (artifact, language of its program)."""
    return unseal_artifact(key, place, read_file(place.file_name, MOST_ARTIFACT_BYTES, parent=folder))


def verify_parts(folder: int, hash: str, key: bytes) -> tuple[int, int, list[tuple[Part, str]]]:
    """Return (number of artifacts, their bytes, parts that do not verify and why)."""
    faults: list[tuple[Part, str]] = []
    try:
        read_meta(folder, hash)
    except FileNotFoundError:
        faults.append(("metadata", f"{META} is missing"))
    except (OSError, ValueError) as error:
        faults.append(("metadata", f"{META}: {error}"))
    places = [place for name in sorted(os.listdir(folder)) if (place := place_of(hash, name)) is not None]
    size = 0
    for place in places:
        try:
            size += os.stat(place.file_name, dir_fd=folder, follow_symlinks=False).st_size
            read_artifact(folder, place, key)
        except FileNotFoundError:
            pass  # replaced by the artifact of another build
        except (OSError, ValueError) as error:
            faults.append(("artifact", f"{place.file_name}: {error}"))
    return len(places), size, faults


def write_artifact(folder: int, place: Place, data: bytes, *, wait: bool = True) -> None:
    """Write an artifact under its name. Raises OSError.

    `wait`: whether to wait until it is on disk. Without waiting, it may not verify after a power cut.
    """
    write_files(folder, {ARTIFACT: data}, wait=wait)
    os.rename(ARTIFACT, place.file_name, src_dir_fd=folder, dst_dir_fd=folder)
    if wait:
        os.fsync(folder)


def remove_other_builds(folder: int, place: Place) -> None:
    """Remove the artifacts of other builds of an engine. Errors are ignored."""
    for name in os.listdir(folder):
        if name.startswith(engine_prefix(place.engine)) and name != place.file_name:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)


def stamp_of_tree(folder: str) -> tuple[int, ...]:
    """Return a value that changes when a file below this path changes. Raises OSError."""
    stamp: list[int] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            stamp += stamp_of(status)
            if entry.is_dir(follow_symlinks=False):
                stamp += stamp_of_tree(entry.path)
    return tuple(stamp)


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return a value that changes when this file changes."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
