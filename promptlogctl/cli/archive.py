"""Reads and writes the file of `export` and `import`: a tar file of programs.

    promptlog-export.json       the version of this format
    HASH.json                   engine, language, time, uid, names
    HASH.source                 the text, exactly as submitted
    ...                         further programs, in the order of their hashes

Equal programs give equal bytes: times, owners and modes in the tar are constant. A reader accepts exactly what `export`
writes: plain files, with these names, in this order, without compression. So there are no paths, links, extended
headers or sparse files to handle, and each read has a limit before it begins.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import BinaryIO, TypeVar

import msgspec

_T = TypeVar("_T")

VERSION = 1
MOST_SOURCE_BYTES = 4 << 20
"""Maximum size of a source. It is the largest allowed value of the daemon's limits.source_kb."""
_MOST_RECORD_BYTES = 256 << 10
_BLOCK = 512
_FIRST = "promptlog-export.json"
_MEMBER = re.compile(r"([0-9a-f]{64})\.(json|source)")
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"
_TOO_SHORT = "it ends too early"
_TYPES = {b"1": "a hard link", b"2": "a symbolic link", b"5": "a folder", b"x": "an extended header"}


class BadArchive(Exception):
    """The file was not written by `export`, or is damaged. The message says where."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a program in an export, besides its source. `import` uses the engine, language and names."""

    hash: str
    engine: str
    language: str
    created_at: float
    created_by: int
    names: list[str]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    promptlog_export: int


def header(name: str, size: int) -> bytes:
    """Return the header of a member in POSIX ustar format: mode 0600, owner 0, time 0."""
    fields = (
        name.encode().ljust(100, b"\0") + b"0000600\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
        + b" " * 8 + b"0" + b"\0" * 100 + b"ustar\x0000" + b"\0" * 64 + b"0000000\0" * 2
    ).ljust(_BLOCK, b"\0")  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


class Writer:
    """Writes an export. Give the programs in the order of their hashes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._add(_FIRST, msgspec.json.encode(_Head(promptlog_export=VERSION)))

    def add(self, program: Exported, source: bytes) -> None:
        """Write a program."""
        self._add(f"{program.hash}.json", msgspec.json.encode(program))
        self._add(f"{program.hash}.source", source)

    def end(self) -> None:
        """Write the end of the tar."""
        self._file.write(b"\0" * 2 * _BLOCK)

    def _add(self, name: str, data: bytes) -> None:
        self._file.write(header(name, len(data)))
        self._file.write(data + b"\0" * (-len(data) % _BLOCK))


def read(file: BinaryIO) -> Iterator[tuple[Exported, bytes]]:
    """Yield the programs of an export, and their sources. Raises BadArchive, OSError."""
    first = _member(file)
    if first is None or first[0] != _FIRST:
        raise BadArchive(f"it is not an export: its first member is not {_FIRST}")
    head = _decoded(_FIRST, first[1], _Head)
    if head.promptlog_export != VERSION:
        raise BadArchive(f"it has version {head.promptlog_export}, and this promptlogctl reads version {VERSION}")
    last = ""
    while (found := _member(file)) is not None:
        name, data = found
        hash, _, kind = name.partition(".")
        if kind != "json" or hash <= last:
            raise BadArchive(f"{name} is out of order")
        program = _decoded(name, data, Exported)
        source = _member(file)
        if program.hash != hash or source is None or source[0] != f"{hash}.source":
            raise BadArchive(f"{name} is not followed by the source of its program")
        if hashlib.sha256(source[1]).hexdigest() != hash:
            raise BadArchive(f"the bytes of {source[0]} do not match their hash")
        yield program, source[1]
        last = hash
    if _exactly(file, _BLOCK) != b"\0" * _BLOCK or file.read(1):
        raise BadArchive("further data follows the end of the export; import several exports one by one")


def _member(file: BinaryIO) -> tuple[str, bytes] | None:
    """Return the name and the bytes of the next member; None at the end. Raises BadArchive."""
    block = _up_to(file, _BLOCK)
    if block == b"\0" * _BLOCK:
        return None
    if block.startswith((_GZIP, _ZSTD, _XZ, _BZIP2)):
        raise BadArchive("it is compressed; decompress it first")
    if len(block) < _BLOCK:
        raise BadArchive(_TOO_SHORT)
    if block[257:262] != b"ustar":
        raise BadArchive("it is not a tar that promptlogctl export has written")
    name = block[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    if (kind := block[156:157]) != b"0":
        raise BadArchive(f"{name!a} is {_TYPES.get(kind, 'not a plain file')}, which an export does not have")
    if name != _FIRST and not _MEMBER.fullmatch(name):
        raise BadArchive(f"the name {name!a} is not one that an export has")
    size_text = block[124:135]
    if not re.fullmatch(rb"[0-7]{11}", size_text):
        raise BadArchive(f"the size of {name} is not a number")
    size = int(size_text, 8)
    most = MOST_SOURCE_BYTES if name.endswith(".source") else _MOST_RECORD_BYTES
    if size > most:
        raise BadArchive(f"{name} has {size} bytes, the maximum is {most}")
    if block != header(name, size):
        raise BadArchive(f"the header of {name} is damaged, or not one that promptlogctl export writes")
    data = _exactly(file, size)
    if any(_exactly(file, -size % _BLOCK)):
        raise BadArchive(f"the padding of {name} is damaged")
    return name, data


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = _up_to(file, size)
    if len(data) < size:
        raise BadArchive(_TOO_SHORT)
    return data


def _up_to(file: BinaryIO, size: int) -> bytes:
    """Read this number of bytes, or fewer at the end of the file. A single read of a pipe may return only a part."""
    data = b""
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return data


def _decoded(name: str, data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadArchive(f"{name} is invalid: {error}") from None
