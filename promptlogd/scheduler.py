"""Who runs next: so many at once, a bounded queue behind, and turns by client, so that none can crowd out the rest.

A run's length is not known beforehand, but a client's next run is much like its last ones. A client whose runs took
long lately has half of the slots at the most, together with all others of that kind: whatever they send, a client with
short runs finds a slot. CPU-bound runs lose nothing by it, since there are twice as many slots as cores. While others
have short runs it is one less, so that these find a core as well.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Hashable

import trio

LONG_MS = 5.0
"""CPU time from which on a run is a long one."""

_FORGET = 0.9
"""How much of what a long run has shown is left after each shorter one: after 22 of them a client is as before."""


_SHORT_S = 0.1
"""For so long after a short run, more of them are to be expected."""


class Busy(Exception):
    """The queue is full."""

    def __init__(self, queue: int) -> None:
        super().__init__(f"{queue} runs are waiting already; try again in a moment")
        self.queue = queue


class Slot:
    """Leave to run, until `Scheduler.release`."""

    __slots__ = ("client", "long")

    def __init__(self, client: Hashable, *, long: bool) -> None:
        self.client = client
        self.long = long


class _Turn:
    def __init__(self) -> None:
        self.came = trio.Event()
        self.slot: Slot | None = None


class Scheduler:
    """Slots for runs. A free slot goes to the next client in turn, and to the oldest run of that client."""

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self._free = concurrent
        self._half = max(1, concurrent // 2)
        self._long = 0
        self._short_at = -_SHORT_S
        self._queue = queue
        self.running = 0
        self.queued = 0
        self._waiting: OrderedDict[Hashable, deque[_Turn]] = OrderedDict()
        self._expected_ms: dict[Hashable, float] = {}

    def acquire_nowait(self, client: Hashable) -> Slot | None:
        """Take a slot that is free for this client."""
        return self._take(client)

    async def acquire(self, client: Hashable) -> Slot:
        """Wait for a slot. Raises Busy at once if too many wait already."""
        slot = self._take(client)
        if slot is not None:
            return slot
        if self.queued >= self._queue:
            raise Busy(self._queue)
        return await self._wait(client)

    def release(self, slot: Slot, cpu_ms: float) -> None:
        """Give a slot back, with the CPU time of its run: it goes to whose turn it is."""
        self._give(slot)
        expected = max(cpu_ms, _FORGET * self._expected_ms.get(slot.client, 0.0))
        if expected >= LONG_MS:
            self._expected_ms[slot.client] = expected
        else:
            self._expected_ms.pop(slot.client, None)
            self._short_at = time.monotonic()
        self._hand_out()

    def forget(self, client: Hashable) -> None:
        """Forget a client that left."""
        self._expected_ms.pop(client, None)

    def _take(self, client: Hashable) -> Slot | None:
        long = client in self._expected_ms
        if not self._free or (long and self._long >= self._most_long()):
            return None
        self._free -= 1
        self._long += long
        self.running += 1
        return Slot(client, long=long)

    def _most_long(self) -> int:
        short_runs = time.monotonic() - self._short_at < _SHORT_S
        return max(1, self._half - short_runs)

    def _give(self, slot: Slot) -> None:
        self._free += 1
        self._long -= slot.long
        self.running -= 1

    async def _wait(self, client: Hashable) -> Slot:
        turn = _Turn()
        self._waiting.setdefault(client, deque()).append(turn)
        self.queued += 1
        try:
            await turn.came.wait()
        except trio.Cancelled:
            if turn.slot is not None:
                self._give(turn.slot)
                self._hand_out()
            else:
                self.queued -= 1
                queue = self._waiting[client]
                queue.remove(turn)
                if not queue:
                    del self._waiting[client]
            raise
        assert turn.slot is not None
        return turn.slot

    def _hand_out(self) -> None:
        """Give what is free to those whose turn it is, and who may have it."""
        while self._free:
            for client in self._waiting:
                slot = self._take(client)
                if slot is not None:
                    break
            else:
                return
            queue = self._waiting[client]
            turn = queue.popleft()
            self.queued -= 1
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            turn.slot = slot
            turn.came.set()
