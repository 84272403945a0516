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
        self._starting = False
        self._over: Callable[[], None] | None = None

    def cancel(self, over: Callable[[], None]) -> bool:
        """Stop to wait. If a cell is being started for it alone, return True and call `over` once that has ended."""
        self.taken = None
        if self._starting:
            self._over = over
        return self._starting

    def start_begins(self) -> None:
        """A cell is being started for it alone."""
        self._starting = True

    def start_ended(self) -> None:
        """That cell has started, or has not."""
        self._starting = False
        over, self._over = self._over, None
        if over is not None:
            over()
