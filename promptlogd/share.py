"""Time of the loop that the connections of one process have, together, in each turn of it.

trio runs all tasks that are ready in each turn. With a bound for each connection alone, a process with many connections
would hold the loop as many times longer.
"""

from __future__ import annotations

from itertools import islice

import trio

TURN_S = 0.001
"""Time for one process in each turn; twice as much if it is renewed amid the turn. A request has at least nine bytes
and takes up to 0.05 ms with its reply, so 16 KiB of requests could hold the loop for 50 ms."""

_WOKEN = 16
"""Waiters that are woken in each turn. They may find that those before them have used up the time: 20 us each."""


class Share:
    """Shared by the connections of one process. Who is about to work awaits `turn`, and reports the time by `spend`."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self._waiting: dict[trio.Event, None] = {}
        """The oldest first."""
        self._renews = False

    @property
    def used_up(self) -> bool:
        """Whether nothing of it is left for now."""
        return self._used_s >= TURN_S or bool(self._waiting)

    def spend(self, used_s: float) -> None:
        """Report time of the loop that was used."""
        self._used_s += used_s

    async def turn(self) -> None:
        """Wait for a turn in which time is left; first in, first out. Returns at once if there is some now."""
        waits = self.used_up
        while waits:
            event = trio.Event()
            self._waiting[event] = None
            if not self._renews:
                self._renews = True
                trio.lowlevel.current_trio_token().run_sync_soon(self._renew)
            try:
                await event.wait()
            finally:
                self._waiting.pop(event, None)
            waits = self._used_s >= TURN_S

    def _renew(self) -> None:
        """Begin anew. Called once in a turn while somebody waits."""
        self._used_s = 0.0
        for event in list(islice(self._waiting, _WOKEN)):
            del self._waiting[event]
            event.set()
        self._renews = bool(self._waiting)
        if self._renews:
            trio.lowlevel.current_trio_token().run_sync_soon(self._renew)
