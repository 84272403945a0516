"""The metadata of a program in its `meta.json`: files, owner, time, engine and language. Pure.

The facts in SQLite can be rebuilt from it. The line is sealed (seal.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from promptlogd.store.artifacts import check_engine
from promptlogd.store.errors import Unstorable
from promptlogd.store.holders import Holder, Owner
from promptlogd.store.paths import check_files
from promptlogd.store.seal import seal, unseal
from sandbox.program import Engine, Language, Program

_TENANT_CHARACTERS = 255
_TEXT_ENTRIES = {language: Program.of_text(b"", language=language, engine="").entry for language in get_args(Language)}
"""By language: the path of the file of a program with one file."""


class FileMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Size in bytes and SHA-256 (lowercase hex) of one file, exactly as submitted."""

    size: int
    sha256: str


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a program. `files`: by path. `owner`, `created_at`: who submitted it first, and when (seconds
    since the epoch). `holders`: empty in records before format version 3."""

    files: dict[str, FileMeta]
    entry: str
    language: Language
    engine: Engine
    owner: Owner
    created_at: float
    holders: list[Holder] = []

    @property
    def held_by(self) -> list[Holder]:
        """Who holds it. Without a record, its owner does, and everyone sees it."""
        return self.holders or [Holder(uid=self.owner.uid, tenant=self.owner.tenant, at=self.created_at)]

    @property
    def size(self) -> int:
        """Total size of all files, in bytes."""
        return sum(file.size for file in self.files.values())

    def is_text(self, hash: str) -> bool:
        """Whether the program with this hash has one file, which its hash alone verifies."""
        return self.files.keys() == {_TEXT_ENTRIES[self.language]} and self.files[self.entry].sha256 == hash


class _Version1(msgspec.Struct, frozen=True, kw_only=True):
    """The record of format version 1, in which each program has one file."""

    size: int
    created_at: float
    created_by: int
    engine: Literal["quickjs", "deno"] = "quickjs"
    language: Language = "javascript"


def text_meta(
    hash: str,
    *,
    size: int,
    language: Language,
    engine: Engine,
    owner: Owner,
    created_at: float,
    holders: Sequence[Holder] = (),
) -> Meta:
    """Return the metadata of a program with one file. Its hash is the SHA-256 of the file."""
    entry = _TEXT_ENTRIES[language]
    return Meta(
        files={entry: FileMeta(size=size, sha256=hash)},
        entry=entry,
        language=language,
        engine=engine,
        owner=owner,
        created_at=created_at,
        holders=list(holders),
    )


def meta_of(program: Program, *, holder: Holder) -> Meta:
    """Return the metadata of a program that this holder submits.

    Raises Unstorable if its files, engine or tenant are invalid.
    """
    check_engine(program.engine)
    tenant = holder.tenant
    if tenant is not None and not (0 < len(tenant) <= _TENANT_CHARACTERS and tenant.isprintable()):
        raise Unstorable(f"{tenant!a:.80} is not a tenant: it must have 1 to {_TENANT_CHARACTERS} printable characters")
    check_files({path: len(data) for path, data in program.files.items()}, program.entry)
    files = {
        path: FileMeta(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in program.files.items()
    }
    return Meta(
        files=files,
        entry=program.entry,
        language=program.language,
        engine=program.engine,
        owner=holder.owner,
        created_at=holder.at,
        holders=[holder],
    )


def encode_meta(meta: Meta) -> bytes:
    """Return the content of `meta.json`."""
    return seal(meta)


def decode_meta(data: bytes, hash: str) -> tuple[Meta, bool]:
    """Return (metadata, whether the record has the current version). Raises ValueError for damage.

    A newer folder can have a record of version 1, from a program that could not be read during the migration.
    """
    try:
        meta = unseal(data, Meta)
        check_files({path: file.size for path, file in meta.files.items()}, meta.entry)
    except msgspec.ValidationError:
        old = unseal(data, _Version1)
        owner = Owner(uid=old.created_by)
        meta = text_meta(
            hash, size=old.size, language=old.language, engine=old.engine, owner=owner, created_at=old.created_at
        )
        return meta, False
    return meta, True
