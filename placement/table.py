"""The placement table: the blocks of the cell's start that runs write to. This module does no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_NOT_TAKEN, TAKEN, _WRITTEN = 0, 1, 2
"""The values that the jail's trace.c writes for a block."""

_A_LINE = 6
"""Number of ranges in a line of the header."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Blocks by their number, in the order in which the start allocates them."""

    blocks: int
    """Number of blocks that the start allocates."""
    by_many: frozenset[int]
    """Blocks that more than a quarter of the runs write to."""
    by_some: frozenset[int]
    """Blocks that other runs write to."""

    @classmethod
    def from_traces(cls, traces: Iterable[bytes]) -> Table:
        """Make the table from traces with one byte for each block. Raises ValueError if the block counts differ."""
        runs = list(traces)
        starts, writers = set(), Counter[int]()
        for trace in runs:
            starts.add(trace.index(_NOT_TAKEN))
            writers.update(number for number, noted in enumerate(trace) if noted == _WRITTEN)
        if len(starts) != 1:
            raise ValueError(f"the starts took {sorted(starts)} blocks: they are not the same")
        by_many = frozenset(number for number, times in writers.items() if 4 * times > len(runs))
        return cls(blocks=starts.pop(), by_many=by_many, by_some=frozenset(writers) - by_many)


def ranges(table: Table) -> list[tuple[int, int, bool]]:
    """Return ranges in ascending order: first number, count, and whether many runs write to the blocks."""
    found: list[tuple[int, int, bool]] = []
    for number in sorted(table.by_many | table.by_some):
        by_many = number in table.by_many
        if found and sum(found[-1][:2]) == number and found[-1][2] == by_many:
            found[-1] = (found[-1][0], found[-1][1] + 1, by_many)
        else:
            found.append((number, 1, by_many))
    return found


def as_header(table: Table, engine_build: str) -> str:
    """Return the table as a C header for the cell's allocator."""
    items = [f"{{{first}, {count}, {int(by_many)}}}" for first, count, by_many in ranges(table)]
    lines = [", ".join(items[at : at + _A_LINE]) for at in range(0, len(items), _A_LINE)]
    return "\n".join(
        [
            "/* Which blocks of the start runs write to. Made by `make placement`: see memory.c. */",
            f'#define PLACEMENT_ENGINE_BUILD "{engine_build}"',
            f"#define PLACEMENT_BLOCKS {table.blocks} /* that the start takes */",
            "",
            "static const struct {",
            "    unsigned first, count;",
            "    bool by_many; /* runs, not by some alone */",
            "} placement[] = {",
            *[f"    {line}," for line in lines],
            "};",
            "",
        ]
    )
