"""How many cells a pool keeps: a fixed number, or by recent demand. Pure: the caller passes the time."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

_WINDOW_S = 10.0
"""Length of the window over which the maximum demand is taken."""


class Policy(Protocol):
    """Determines the number of blank cells of a pool."""

    fixed: bool
    """Whether the number of cells is constant. If so, the pool starts a replacement before it retires a worn cell."""

    def note(self, now: float, wanted: int) -> None:
        """Note a request for a cell. `wanted`: number of cells that are wanted now, including it."""

    def target(self, now: float) -> int:
        """Return the number of cells that the pool should have."""


class Steady:
    """A fixed number, from the start. For an engine whose cells execute many runs."""

    fixed = True

    def __init__(self, size: int) -> None:
        self._size = size

    def note(self, now: float, wanted: int) -> None:
        """Do nothing."""

    def target(self, now: float) -> int:
        """Return the number."""
        return self._size


class ByDemand:
    """The maximum of cells that were wanted at the same time in the last seconds, up to a limit; none after a long
    pause."""

    fixed = False

    def __init__(self, most: int, idle_s: float) -> None:
        """`idle_s`: after this time without a request, the number is 0."""
        self._most = most
        self._idle_s = idle_s
        self._asked_at = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()
        """Monotonic queue for the maximum over the window: (time, number), in descending order of numbers."""

    def note(self, now: float, wanted: int) -> None:
        """Add a demand to the window."""
        self._asked_at = now
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now, wanted))
        self._forget(now)

    def target(self, now: float) -> int:
        """Return the maximum demand in the window."""
        if now - self._asked_at > self._idle_s:
            return 0
        self._forget(now)
        return min(self._most, self._wanted[0][1] if self._wanted else 1)

    def _forget(self, now: float) -> None:
        while len(self._wanted) > 1 and self._wanted[0][0] < now - _WINDOW_S:
            self._wanted.popleft()
