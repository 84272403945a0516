"""Time of the loop that the connections of one process have, together, in each turn of it.

trio runs all tasks that are ready in each turn. With a bound for each connection alone, a process with many connections
would hold the loop as many times longer.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

import trio

TURN_S = 0.001
"""Time for one process in each turn; up to twice as much, since it can be renewed in the middle of a turn. Without this
bound 16 KiB of requests, of at least nine bytes each, could hold the loop for 50 ms."""

_WOKEN = 16
"""Waiters that are woken in each turn. One that finds the time used up by others waits again, which costs 20 us."""


class Share:
    """The time of one process. A connection awaits `turn` before it works, and reports the time it used to `spend`."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self._waiting: OrderedDict[trio.Event, None] = OrderedDict()
        """The oldest first."""
        self._renews = False

    @property
    def used_up(self) -> bool:
        """Whether a connection must wait: no time is left, or others wait already."""
        return self._used_s >= TURN_S or bool(self._waiting)

    def spend(self, used_s: float) -> None:
        """Report time of the loop that was used."""
        self._used_s += used_s

    async def turn(self) -> None:
        """Wait for a turn in which time is left. Return at once if time is left now and nobody waits."""
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
            waits, woken = self._used_s >= TURN_S, True

    def _renew(self) -> None:
        """Begin anew. Called once in a turn while somebody waits."""
        self._used_s = 0.0
        for event in list(islice(self._waiting, _WOKEN)):
            del self._waiting[event]
            event.set()
        self._renews = bool(self._waiting)
        if self._renews:
            trio.lowlevel.current_trio_token().run_sync_soon(self._renew)
