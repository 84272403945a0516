"""How many cells a pool keeps: always as many, or by recent demand. Pure; the time is the caller's."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

_WINDOW_S = 10.0
"""How long the most cells that were wanted at once are remembered."""


class Policy(Protocol):
    """Tells a pool how many blank cells there should be."""

    fixed: bool
    """Whether the number of cells is constant. If so, the pool replaces spent cells first."""

    def note(self, now: float, wanted: int) -> None:
        """A cell was asked for; with it, so many are wanted now."""

    def target(self, now: float) -> int:
        """Return how many cells there should be."""


class Steady:
    """Always the same number, from the start. For an engine whose cells take many runs."""

    fixed = True

    def __init__(self, size: int) -> None:
        self._size = size

    def note(self, now: float, wanted: int) -> None:
        """Change nothing."""

    def target(self, now: float) -> int:
        """Return the number."""
        return self._size


class ByDemand:
    """As many blank cells as were wanted at once in the last seconds, up to a bound; none if nobody asks for long."""

    fixed = False

    def __init__(self, most: int, idle_s: float) -> None:
        """`idle_s`: after so long without a request there are to be none."""
        self._most = most
        self._idle_s = idle_s
        self._asked_at = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()
        """The maximum over the window: (time, number), numbers falling."""

    def note(self, now: float, wanted: int) -> None:
        """Remember how many are wanted."""
        self._asked_at = now
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now, wanted))
        self._forget(now)

    def target(self, now: float) -> int:
        """Return the most that were wanted at once lately."""
        if now - self._asked_at > self._idle_s:
            return 0
        self._forget(now)
        return min(self._most, self._wanted[0][1] if self._wanted else 1)

    def _forget(self, now: float) -> None:
        while len(self._wanted) > 1 and self._wanted[0][0] < now - _WINDOW_S:
            self._wanted.popleft()
