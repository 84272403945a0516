"""Reads programs and their artifacts from disk, past all caches, and verifies them. One page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from promptlogd.store.errors import BadReference, Damaged, NotFound, StoreFailed
from promptlogd.store.hashes import SHELF_DIGITS, is_hash
from promptlogd.store.state_folder import StateFolder
from sandbox.program import Program

_PAGE_BYTES = 16 << 20
"""A page ends after so many bytes were read, so that other readers get the thread."""

Part = Literal["program", "metadata", "artifact"]


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a program that does not verify, and why."""

    hash: str
    part: Part
    why: str


class Verification(msgspec.Struct, kw_only=True):
    """What was verified: a page of programs."""

    programs: int = 0
    artifacts: int = 0
    bytes: int = 0
    damaged: list[Damage] = []
    next: str | None = None


class Verifier:
    """Verifies the programs of a store."""

    def __init__(self, state: StateFolder, read: Callable[[str], Program]) -> None:
        """`read`: reads and verifies a program from disk. It moves a damaged one to `damaged/`, and raises Damaged."""
        self._state = state
        self._read = read

    def page(self, limit: int, after: str | None) -> Verification:
        """Verify the programs that follow this hash. Raises BadReference for a cursor that is none; StoreFailed."""
        if after is not None and not is_hash(after):
            raise BadReference(f"{after!r:.80} is not a cursor; give the `next` of the previous page")
        page = Verification()
        for hash in self._hashes(after or ""):
            if page.programs >= limit or page.bytes >= _PAGE_BYTES:
                page.next = after
                break
            self._verify(hash, page)
            after = hash
        return page

    def _hashes(self, after: str) -> Iterator[str]:
        """Yield the hashes that have a folder or a row, in order."""
        for number in range(int(after[:SHELF_DIGITS] or "0", 16), 256):
            shelf = f"{number:02x}"
            with self._state.read_facts() as facts:
                hashes = set(facts.with_prefix(shelf, -1))
            yield from sorted(hash for hash in hashes | self._state.objects.list_shelf(shelf) if hash > after)

    def _verify(self, hash: str, page: Verification) -> None:
        """Verify one program, and add it to the page."""
        try:
            program = self._read(hash)
            page.bytes += sum(map(len, program.files.values()))
            artifacts, size, faults = self._state.objects.verify_parts(hash)
        except NotFound:
            if not self._has_row_alone(hash):
                return  # it was removed in between
            page.damaged.append(Damage(hash=hash, part="program", why="its folder is missing"))
        except Damaged as error:
            page.damaged.append(Damage(hash=hash, part="program", why=error.why))
        except StoreFailed as error:
            page.damaged.append(Damage(hash=hash, part="program", why=str(error)))
        else:
            page.artifacts += artifacts
            page.bytes += size
            page.damaged += [Damage(hash=hash, part=part, why=why) for part, why in faults]
        page.programs += 1

    def _has_row_alone(self, hash: str) -> bool:
        with self._state.writing, self._state.read_facts() as facts:  # no removal is in progress now
            return facts.get(hash) is not None and not self._state.objects.has(hash)
