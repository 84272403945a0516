"""Who runs next: slots, a bounded queue behind them, and turns by client.

A client whose recent runs used 5 ms of CPU time or more is *long*. Engines that restart slowly form a class of their
own, *costly*, unless the client is long. All other runs are *short*. Each class has a cap, so that none crowds out the
others:

| class  | slots it may hold                                               | while short runs come     |
|--------|-----------------------------------------------------------------|---------------------------|
| short  | all                                                             | all                       |
| costly | half; with long: all but one                                    | with long: half less one  |
| long   | half, less one while costly runs come; with costly: all but one | with costly: half less one|

CPU-bound runs lose nothing by it, since there are twice as many slots as cores.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Literal

import trio

LONG_MS = 5.0
"""CPU time from which on a run is a long one."""

_FORGET = 0.9
"""Share of a client's estimate that stays after each shorter run. After 22 of them 50 ms have become less than 5."""

_LEFT_S = 1.0
"""A process that reconnects within this time keeps its history."""

_MOST_LEFT = 1024

_SHORT_S = 0.1
"""For so long after a short run, more of them are to be expected."""


Kind = Literal["short", "costly", "long"]


class Slot:
    """Leave to run, until `Admission.release`."""

    __slots__ = ("after_ms", "client", "kind")

    def __init__(self, client: Hashable, kind: Kind, after_ms: float) -> None:
        self.client = client
        self.kind: Kind = kind
        self.after_ms = after_ms


class Turn:
    """A run that waits for a slot. `granted` is called once with it, or with None if the run waited for too long."""

    __slots__ = ("after_ms", "client", "granted", "since")

    def __init__(self, client: Hashable, after_ms: float, granted: Callable[[Slot | None], None]) -> None:
        self.client = client
        self.after_ms = after_ms
        self.granted = granted
        self.since = trio.current_time()


class Admission:
    """Slots for runs. A free slot goes to the next client in turn, and to the oldest run of that client."""

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self._free = concurrent
        self._all = concurrent
        self._half = max(1, concurrent // 2)
        self._held: dict[Kind, int] = {"short": 0, "costly": 0, "long": 0}
        self._short_at: dict[Kind, float] = dict.fromkeys(self._held, -math.inf)
        self._queue = queue
        self.running = 0
        self.queued = 0
        self.finished = 0
        """Runs that gave their slot back."""
        self._any_queued = trio.Event()
        self._handing_out = False
        self._waiting: OrderedDict[Hashable, deque[Turn]] = OrderedDict()
        self._expected_ms: dict[Hashable, float] = {}
        self._left: OrderedDict[Hashable, deque[tuple[float, float]]] = OrderedDict()

    def take(self, client: Hashable, after_ms: float = 0.0) -> Slot | None:
        """Take a slot that is free for this client. `after_ms`: CPU time of making a cell ready again after the run."""
        kind: Kind = "long" if client in self._expected_ms else "costly" if after_ms >= LONG_MS else "short"
        if not self._free or not self._may(kind):
            return None
        self._free -= 1
        self._held[kind] += 1
        self.running += 1
        return Slot(client, kind, after_ms)

    @property
    def is_full(self) -> bool:
        """Whether no more runs may wait."""
        return self.queued >= self._queue

    def wait(self, client: Hashable, after_ms: float, granted: Callable[[Slot | None], None]) -> Turn:
        """Let a run wait for a slot: see `Turn`."""
        turn = Turn(client, after_ms, granted)
        self._waiting.setdefault(client, deque()).append(turn)
        if not self.queued:
            self._any_queued.set()
        self.queued += 1
        return turn

    def leave(self, turn: Turn) -> None:
        """Let a run wait no longer, if it still does. `granted` is not called."""
        queue = self._waiting.get(turn.client)
        if queue is None or turn not in queue:
            return
        queue.remove(turn)
        self.queued -= 1
        if not queue:
            del self._waiting[turn.client]

    async def give_up(self, wait_s: float) -> None:
        """Send away, until cancelled, the runs that have waited for so long, to within a twentieth of it.

        One task for all, since a timer of its own would cost each run that waits as much as all the rest of its turn.
        """
        while True:
            await self._any_queued.wait()
            self._any_queued = trio.Event()
            while self.queued:
                await trio.sleep(wait_s / 20)
                since = trio.current_time() - wait_s
                for turn in [turn for turns in self._waiting.values() for turn in turns if turn.since <= since]:
                    self.leave(turn)
                    turn.granted(None)

    def release(self, slot: Slot, cpu_ms: float) -> None:
        """Give a slot back, with the CPU time of its run: it goes to whose turn it is."""
        self._take_back(slot)
        self.finished += 1
        expected = max(cpu_ms, _FORGET * self._expected_ms.get(slot.client, 0.0))
        # To be long takes more where each run costs more.
        if expected >= max(LONG_MS, slot.after_ms):
            self._expected_ms[slot.client] = expected
        else:
            self._expected_ms.pop(slot.client, None)
            self._short_at[slot.kind] = trio.current_time()
        self._hand_out()

    def return_unused(self, slot: Slot) -> None:
        """Give back a slot in which nothing ran. Nothing is learned from it."""
        self._take_back(slot)
        self._hand_out()

    def _take_back(self, slot: Slot) -> None:
        self._free += 1
        self._held[slot.kind] -= 1
        self.running -= 1

    def inherit(self, client: Hashable, process: Hashable) -> None:
        """Take a new client for what one that just left was: a process may connect anew for each run."""
        left = self._left.get(process)
        if left is None:
            return
        at, expected_ms = left.pop()
        if not left:
            del self._left[process]
        if trio.current_time() - at < _LEFT_S and expected_ms > self._expected_ms.get(client, 0.0):
            self._expected_ms[client] = expected_ms

    def forget(self, client: Hashable, process: Hashable = None) -> None:
        """Forget a client that left; its process, for a moment, if its runs were long."""
        expected_ms = self._expected_ms.pop(client, None)
        if expected_ms is None or process is None:
            return
        now = trio.current_time()
        while self._left:
            oldest, left = next(iter(self._left.items()))
            if len(self._left) < _MOST_LEFT and left[-1][0] > now - _LEFT_S:
                break
            del self._left[oldest]
        self._left.setdefault(process, deque(maxlen=_MOST_LEFT)).append((now, expected_ms))
        self._left.move_to_end(process)

    def _may(self, kind: Kind) -> bool:
        if kind == "short":
            return True
        now = trio.current_time()
        long, both = self._held["long"], self._held["long"] + self._held["costly"]
        if now - self._short_at["short"] < _SHORT_S:
            return both < max(1, self._half - 1)
        if kind == "costly":
            return self._held["costly"] < self._half and both < max(1, self._all - 1)
        shorter_runs = now - self._short_at["costly"] < _SHORT_S
        return long < max(1, self._half - shorter_runs) and both < max(1, self._all - 1)

    def _hand_out(self) -> None:
        """Give what is free to those whose turn it is, and who may have it.

        Whoever gets a slot may give it back at once: the loop that is on takes care of that.
        """
        if self._handing_out:
            return
        self._handing_out = True
        try:
            while self._free and self._hand_out_one():
                pass
        finally:
            self._handing_out = False

    def _hand_out_one(self) -> bool:
        for client, turns in self._waiting.items():
            slot = self.take(client, turns[0].after_ms)
            if slot is not None:
                break
        else:
            return False
        queue = self._waiting[client]
        turn = queue.popleft()
        self.queued -= 1
        if queue:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        turn.granted(slot)
        return True
