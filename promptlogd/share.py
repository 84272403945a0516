"""Limits the loop time that the connections of one process use together in each turn.

trio runs all ready tasks in each turn. If only each connection had a limit, a process could multiply it by opening many
connections.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

import trio

from promptlogd.turns import Turns

TURN_S = 0.001
"""Time for one process in each turn. It can be up to twice as much, because it may be renewed in the middle of a turn.
Without this limit, 16 KiB of requests, of at least nine bytes each, could block the loop for 50 ms."""

_WOKEN = 16
"""Waiters that are woken in each turn. A waiter waits again if others have used up the time, which costs 20 us."""


class Share:
    """The time of one process. A connection awaits `turn` before it works, and reports its used time with `spend`."""

    def __init__(self, turns: Turns) -> None:
        """`turns`: knows when a turn has ended."""
        self._turns = turns
        self._turn = -1
        """The turn in which the time was used."""
        self._used_s = 0.0
        self._waiting: OrderedDict[trio.Event, None] = OrderedDict()
        """Oldest first."""
        self._renews = False

    @property
    def used_up(self) -> bool:
        """Whether a connection must wait, because no time is left or others are waiting."""
        return bool(self._waiting) or self._lacks_time

    @property
    def _lacks_time(self) -> bool:
        return self._used_s >= TURN_S and self._turn == self._turns.number

    def spend(self, used_s: float) -> None:
        """Report used loop time."""
        turn = self._turns.number
        if turn != self._turn:
            self._turn, self._used_s = turn, 0.0
        self._used_s += used_s

    async def turn(self) -> None:
        """Wait for a turn with time left. Return at once if time is left now and nobody waits."""
        waits, woken = self.used_up, False
        while waits:
            event = trio.Event()
            self._waiting[event] = None
            if woken:
                self._waiting.move_to_end(event, last=False)  # it keeps its place
            if not self._renews:
                self._renews = True
                trio.lowlevel.current_trio_token().run_sync_soon(self._renew)
            try:
                await event.wait()
            finally:
                self._waiting.pop(event, None)
            waits, woken = self._lacks_time, True

    def _renew(self) -> None:
        """Renew the time. Called once in each turn while somebody waits."""
        self._used_s = 0.0
        for event in list(islice(self._waiting, _WOKEN)):
            del self._waiting[event]
            event.set()
        self._renews = bool(self._waiting)
        if self._renews:
            trio.lowlevel.current_trio_token().run_sync_soon(self._renew)
