"""The table: which blocks of the start runs write to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_NOT_TAKEN, _WRITTEN = 0, 2
"""What the jail's trace.c notes of a block."""

_A_LINE = 8
"""Ranges in a line of the header."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers of blocks, in the order in which the start takes them."""

    blocks: int
    """That the start takes."""
    written: frozenset[int]
    """By runs."""

    @classmethod
    def from_trace(cls, noted: bytes) -> Table:
        """Read what a traced cell left, a byte for each block."""
        blocks = noted.index(_NOT_TAKEN)
        return cls(blocks=blocks, written=frozenset(n for n in range(blocks) if noted[n] == _WRITTEN))

    def joined(self, other: Table) -> Table:
        """Return the table of both traces. Raises ValueError if they are not of the same start."""
        if self.blocks != other.blocks:
            raise ValueError(f"one start took {self.blocks} blocks, another {other.blocks}")
        return Table(blocks=self.blocks, written=self.written | other.written)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as ranges, the first one and how many, in ascending order."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


def as_header(table: Table, engine_build: str) -> str:
    """Return the table as the cell's allocator includes it."""
    items = [f"{{{first}, {count}}}" for first, count in ranges(table.written)]
    lines = [", ".join(items[at : at + _A_LINE]) for at in range(0, len(items), _A_LINE)]
    return "\n".join(
        [
            "/* Which blocks of the start runs write to. Made by `make placement`: see memory.c. */",
            f'#define PLACEMENT_ENGINE_BUILD "{engine_build}"',
            f"#define PLACEMENT_BLOCKS {table.blocks} /* that the start takes */",
            "",
            "static const struct {",
            "    unsigned first, count;",
            "} placement[] = {",
            *[f"    {line}," for line in lines],
            "};",
            "",
        ]
    )
