"""A clock for removing data by its age. It ignores a wall clock that is ahead for a short time."""

from __future__ import annotations

_STEADY_S = 3600.0
"""Time for which the wall clock must have been ahead before this clock follows it."""


class SteadyClock:
    """The wall clock, except that a step forward takes effect only after an hour. A step back takes effect at once.

    After an error of NTP, for example, the wall clock may be years ahead for a minute. Data removed by its age in this
    minute would be lost. So the time is the monotonic clock plus an offset: the smallest difference of the two clocks
    in the last hour.
    """

    def __init__(self) -> None:
        self._least: list[tuple[float, float]] = []
        """(monotonic time, difference): since this time, the difference was at least this. Both are ascending."""

    def read(self, wall_s: float, monotonic_s: float) -> float | None:
        """Return the time in seconds since the epoch; None within an hour of the first call.

        Call it several times an hour. Between two calls, the difference counts as unchanged.
        """
        since_s, difference_s = monotonic_s, wall_s - monotonic_s
        while self._least and self._least[-1][1] >= difference_s:
            since_s, _ = self._least.pop()
        self._least.append((since_s, difference_s))
        begin_s = monotonic_s - _STEADY_S
        while len(self._least) > 1 and self._least[1][0] <= begin_s:
            del self._least[0]
        since_s, difference_s = self._least[0]
        return monotonic_s + difference_s if since_s <= begin_s else None
