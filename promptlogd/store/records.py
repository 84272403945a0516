"""What the store takes and gives."""

from __future__ import annotations

from pathlib import Path

import msgspec

from promptlogd.store.facts import Fact
from promptlogd.store.files import Meta
from promptlogd.wire.messages import Engine, Language


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A verified program. `wrapped` is None if it must be rebuilt from the source."""

    hash: str
    source: bytes
    engine: Engine
    language: Language
    wrapped: bytes | None
    wrapper: int


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A source that has no name yet. `folder` is None if there was something under its hash already."""

    hash: str
    source: bytes
    meta: Meta
    folder: Path | None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A staged source that was checked. `name`: to be put on the program. `wrapper`: version of the wrapped code.

    `engine` and `language`: those that the client asked for; None stands for those that the program is kept for.
    """

    staged: Staged
    wrapped: bytes
    wrapper: int
    name: str | None = None
    engine: Engine | None = None
    language: Language | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some programs, each with its names, and the cursor to the next page if there is one."""

    rows: list[tuple[Fact, list[str]]]
    next: str | None
