"""Who runs next: so many at once, a bounded queue behind, and turns by client, so that none can crowd out the rest."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

import trio


class Busy(Exception):
    """The queue is full."""

    def __init__(self, queue: int) -> None:
        super().__init__(f"{queue} runs are waiting already; try again in a moment")
        self.queue = queue


class Scheduler:
    """Slots for runs. A free slot goes to the next client in turn, and to the oldest run of that client."""

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self._free = concurrent
        self._queue = queue
        self.running = 0
        self.queued = 0
        self._waiting: OrderedDict[Hashable, deque[trio.Event]] = OrderedDict()

    async def acquire(self, client: Hashable) -> None:
        """Wait for a slot. Raises Busy at once if too many wait already."""
        if self._free and not self.queued:
            self._free -= 1
        else:
            if self.queued >= self._queue:
                raise Busy(self._queue)
            await self._wait(client)
        self.running += 1

    def release(self) -> None:
        """Give a slot back: it goes to whose turn it is."""
        self.running -= 1
        self._release()

    async def _wait(self, client: Hashable) -> None:
        turn = trio.Event()
        self._waiting.setdefault(client, deque()).append(turn)
        self.queued += 1
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._release()
            else:
                self.queued -= 1
                queue = self._waiting[client]
                queue.remove(turn)
                if not queue:
                    del self._waiting[client]
            raise

    def _release(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        client, queue = next(iter(self._waiting.items()))
        turn = queue.popleft()
        self.queued -= 1
        if queue:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        turn.set()
