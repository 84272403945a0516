"""Who waits for a cell, and how a pool stands."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sandbox.cells.cell import Cell
from sandbox.errors import CellStartError
from sandbox.jail.root import RootError

StartError = CellStartError | RootError

Taken = Callable[[Cell | StartError], None]
"""Takes a cell, or the reason why none can be had."""


class PoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cells wanted, ready, handed out; started and retired since the start."""

    size: int
    blank: int
    busy: int
    started: int
    retired: int


class Waiter:
    """Somebody who waits for a cell. `cancel` if it is not wanted any more."""

    def __init__(self, taken: Taken, until: float) -> None:
        self.taken: Taken | None = taken
        self.until = until

    def cancel(self) -> None:
        """Stop to wait."""
        self.taken = None
