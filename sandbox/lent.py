"""The cells that are handed out: runs that go on for long give way to the rest."""

from __future__ import annotations

from typing import Protocol

import trio

LONG_S = 0.0025
"""Wall time after which a run is a long one."""

_WATCHES = 40
"""Looks at what is lent before the watch may rest: to wake it costs more than a look."""


class Yields(Protocol):
    """A cell, as far as this is concerned."""

    def yield_to_others(self, after_s: float) -> None:
        """Lower its run's priority, once, if it has gone on for so long."""


class Lent:
    """Cells that are handed out. `watch` must run beside; a timer of its own would cost each run more."""

    def __init__(self) -> None:
        self._cells: set[Yields] = set()
        self._any = trio.Event()

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, cell: Yields) -> None:
        """A cell is handed out."""
        self._cells.add(cell)
        self._any.set()

    def discard(self, cell: Yields) -> None:
        """A cell was given back."""
        self._cells.discard(cell)

    async def watch(self) -> None:
        """Look, again and again, for runs that go on for long."""
        while True:
            for _ in range(_WATCHES):
                await trio.sleep(LONG_S)
                for cell in self._cells:
                    cell.yield_to_others(LONG_S)
            if not self._cells:
                self._any = trio.Event()
                await self._any.wait()
