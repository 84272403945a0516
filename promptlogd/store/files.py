"""The files of one program, in an open folder: their formats, and whether they verify.

    source      the bytes as submitted
    wrapped     a line of JSON {"wrapper", "sha256"}, then what the engine runs
    meta.json   who and when, from which the facts can be rebuilt

That line and meta.json are sealed (seal.py). Raises ValueError if a file does not verify, FileNotFoundError if it is
missing, OSError if the disk fails.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress

import msgspec

from promptlogd.store.seal import seal, unseal
from promptlogd.wire.messages import Engine, Language
from sandbox.engines.replies import DENO_WRAPPERS

_CAPS = {"source": 64 << 20, "wrapped": 128 << 20, "meta.json": 64 << 10}
NAMES = tuple(_CAPS)
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


def read_source(folder: int) -> bytes:
    """Return the source, without comparing it with its hash."""
    return _read(folder, "source")


def read_wrapped(folder: int) -> tuple[bytes, int]:
    """Return (wrapped code, version of its wrapper)."""
    return _without_header(_read(folder, "wrapped"))


def read_meta(folder: int) -> Meta:
    """Return the metadata, or a guess from the other files. Raises OSError if a file can't be read."""
    with suppress(FileNotFoundError, ValueError):
        return unseal(_read(folder, "meta.json"), Meta)
    return _guess(folder)


def _guess(folder: int) -> Meta:
    """Return metadata guessed from the program's other files. Raises OSError if a file can't be read."""
    engine: Engine = "quickjs"
    language: Language = "javascript"
    with suppress(FileNotFoundError, ValueError):
        wrapped, wrapper = read_wrapped(folder)
        engine = "deno" if wrapper >= DENO_WRAPPERS else "quickjs"
        language = "typescript" if wrapped[:1] in (b"T", b"N", b"b", b"m") else "javascript"
    try:
        source = os.stat("source", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return Meta(size=0, created_at=0.0, created_by=0)
    return Meta(
        size=source.st_size,
        created_at=source.st_mtime,
        created_by=source.st_uid,
        engine=engine,
        language=language,
    )


def with_header(wrapped: bytes, wrapper: int) -> bytes:
    """Return the content of the file `wrapped`."""
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
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _CAPS[name]:
            raise ValueError(f"{name} is no file, or of more than {_CAPS[name]} bytes")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)
