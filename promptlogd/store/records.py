"""Records of the store's interface, in addition to programs and artifacts (sandbox/program.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from promptlogd.store.errors import OverQuota
from promptlogd.store.holders import MANAGER, Holder, Viewer, Visibility
from promptlogd.store.journal import Move
from promptlogd.store.lookups import Fact
from promptlogd.store.meta import Meta
from promptlogd.store.totals import Total
from sandbox.program import Artifact, Engine, Language, Program

_MIB = 1 << 20


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was written but not published. `folder` is None if there was already a folder for its hash."""

    program: Program
    meta: Meta
    folder: Path | None
    claim: int | None = None
    """Number of its claim of disk space (usage.py)."""


class HolderQuota(msgspec.Struct, frozen=True, kw_only=True):
    """How much a user, or one of its tenants, may store. None: any number."""

    uid: int
    tenant: str | None = None
    programs: int | None = None
    bytes: int | None = None
    names: int | None = None

    def check(self, used: Total, *, programs: int = 0, bytes: int = 0, names: int = 0) -> None:
        """Raise OverQuota if these additions exceed a quota. `used`: what is already stored."""
        whose = f"uid {self.uid}" if self.tenant is None else f"the tenant {self.tenant!r}"
        if programs and self.programs is not None and used.programs + programs > self.programs:
            raise OverQuota("programs", whose, used.programs, self.programs)
        if bytes and self.bytes is not None and used.bytes + bytes > self.bytes:
            raise OverQuota("stored_mb", whose, used.bytes / _MIB, self.bytes / _MIB)
        if names and self.names is not None and used.names + names > self.names:
            raise OverQuota("names", whose, used.names, self.names)


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
    visibility: Visibility | None = None
    """As requested by the client. None: that of an earlier submit if there is one, else that of the staged program."""
    viewer: Viewer = MANAGER
    """Who submits it."""
    quotas: Sequence[HolderQuota] = ()


class Kept(NamedTuple):
    """A stored program. `created`: whether it is new to the client. `moved_from`: the program that had the name before.
    `stored`: whether its files are new. `holders`: who holds it now."""

    hash: str
    created: bool
    engine: Engine
    moved_from: str | None
    stored: bool
    holders: Sequence[Holder]


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
    holders: list[Holder]
    """The holders that the viewer owns."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A program in a list, its first names, and the number of further names."""

    fact: Fact
    names: list[str]
    more_names: int
    visibility: Visibility | None
    """The visibility that the viewer has given to the program, if it is a holder."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Programs, and the cursor of the next page if there is one."""

    rows: list[Row]
    next: str | None
