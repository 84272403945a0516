"""Records of the store's interface, in addition to programs and artifacts (sandbox/program.py)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from promptlogd.store.journal import Move
from promptlogd.store.lookups import Fact
from promptlogd.store.meta import Meta
from sandbox.program import Artifact, Engine, Language, Program


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was written but not published. `folder` is None if there was already a folder for its hash."""

    program: Program
    meta: Meta
    folder: Path | None
    claim: int | None = None
    """Number of its claim of disk space (usage.py)."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A staged program that was checked. `name`: name to give it. `build`: build of the artifact.

    `engine` and `language`: as requested by the client. None means those of an already stored program.
    """

    staged: Staged
    artifact: Artifact
    build: str
    name: str | None = None
    engine: Engine | None = None
    language: Language | None = None
    moves: bool = True
    """Whether the name may be on another program already."""
    replace: bool = False
    """Whether to change the engine and the language of an already stored program."""


class Kept(NamedTuple):
    """A program that was kept, whether it is new, its engine, and where its name was if that was on another program."""

    hash: str
    created: bool
    engine: Engine
    moved_from: str | None


class BackedUp(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that is complete: the number of programs, and of files that are hard links and copies."""

    programs: int
    linked: int
    copied: int


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A program, its first names, the number of further names, and the moves of its names, oldest first."""

    fact: Fact
    names: list[str]
    more_names: int
    history: dict[str, list[Move]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A program in a list, its first names, and the number of further names."""

    fact: Fact
    names: list[str]
    more_names: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Programs, and the cursor of the next page if there is one."""

    rows: list[Row]
    next: str | None
