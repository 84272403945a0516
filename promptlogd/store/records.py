"""What the store takes and gives, beside programs and artifacts (sandbox/program.py)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from promptlogd.store.journal import Move
from promptlogd.store.lookups import Fact
from promptlogd.store.meta import Meta
from sandbox.program import Artifact, Engine, Language, Program


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A program that has no name yet. `folder` is None if there was something under its hash already."""

    program: Program
    meta: Meta
    folder: Path | None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A staged program that was checked. `name`: to be put on it. `build`: of the engine that made the artifact.

    `engine` and `language`: those that the client asked for; None stands for those that the program is kept for.
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
    """Whether to change the engine and the language of a program that is kept already."""


class Kept(NamedTuple):
    """A program that was kept, whether it is new, and where its name was if that was on another program."""

    hash: str
    created: bool
    moved_from: str | None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A program, the first of its names, how many more names it has, and where names have been, oldest first."""

    fact: Fact
    names: list[str]
    more_names: int
    history: dict[str, list[Move]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A program in a list, the first of its names, and how many more names it has."""

    fact: Fact
    names: list[str]
    more_names: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some programs, and the cursor to the next page if there is one."""

    rows: list[Row]
    next: str | None
