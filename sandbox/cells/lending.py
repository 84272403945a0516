"""Waiters for cells, and the state of a pool."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sandbox.cells.cell import Cell
from sandbox.errors import CellStartError
from sandbox.jail.root import RootError

StartError = CellStartError | RootError

Taken = Callable[[Cell | StartError], None]
"""Receives a cell, or the reason why there is none."""


class PoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of cells: wanted, ready, in use; started and retired since the daemon's start."""

    size: int
    blank: int
    busy: int
    started: int
    retired: int


class Waiter:
    """A request for a cell. Call `cancel` if the cell is no longer needed."""

    def __init__(self, taken: Taken, until: float) -> None:
        self.taken: Taken | None = taken
        self.until = until
        self._starting = False
        self._over: Callable[[], None] | None = None

    def cancel(self, over: Callable[[], None]) -> bool:
        """Stop waiting. If a cell is being started for this waiter, return True and call `over` when the start has
        ended."""
        self.taken = None
        if self._starting:
            self._over = over
        return self._starting

    def start_begins(self) -> None:
        """Note that a cell is being started for this waiter."""
        self._starting = True

    def start_ended(self) -> None:
        """Note that the start of that cell has ended, successfully or not."""
        self._starting = False
        over, self._over = self._over, None
        if over is not None:
            over()
