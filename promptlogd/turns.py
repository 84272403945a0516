"""Measures the duration of each turn of the event loop. All clients wait during a turn."""

from __future__ import annotations

import time
from bisect import bisect_left

import trio

_BUCKETS = 64
_LEAST_S = 10e-6
_RATIO = 1.25
"""Ratio of bucket bounds. From 10 us, 64 buckets reach 13 s."""
_MERGED = 4
"""Buckets that `histogram` merges into one."""
_BOUNDS_S = [_LEAST_S * _RATIO**bucket for bucket in range(_BUCKETS - 1)]
"""Upper bounds of the buckets. The last bucket has none."""


class Turns(trio.abc.Instrument):
    """A histogram of the turns of trio's loop by duration. Each bucket is a quarter wider than the previous one."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.longest_cpu_s = 0.0
        """Largest CPU time of one turn. Unlike wall time, it does not include waiting for a core."""
        self.number = 0
        """Number of turns that have ended."""
        self.sum_s = 0.0
        """Duration of all turns together."""
        self._counts = [0] * _BUCKETS
        self._began = time.perf_counter()
        self._cpu_ended = time.thread_time()
        """CPU time at the end of the last turn. The thread uses hardly any between two turns."""

    def after_io_wait(self, timeout: float) -> None:
        """Note the start of a turn."""
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """Note the end of a turn."""
        self.number += 1
        ended = time.thread_time()
        if ended - self._cpu_ended > self.longest_cpu_s:
            self.longest_cpu_s = ended - self._cpu_ended
        self._cpu_ended = ended
        self.note(time.perf_counter() - self._began)

    def note(self, turn_s: float) -> None:
        """Count a turn."""
        if turn_s > self.longest_s:
            self.longest_s = turn_s
        self.sum_s += turn_s
        self._counts[bisect_left(_BOUNDS_S, turn_s)] += 1

    def p99_s(self) -> float:
        """Return the 99th percentile of the duration of a turn, to within a quarter. 0 before the first turn."""
        left = sum(self._counts) // 100
        for bucket in reversed(range(_BUCKETS)):
            left -= self._counts[bucket]
            if left < 0:
                return min(self.longest_s, _LEAST_S * _RATIO**bucket)
        return 0.0

    def histogram(self) -> tuple[list[float], list[int]]:
        """Return upper bounds in seconds, and the number of turns in each bucket. The last bucket has no bound."""
        bounds_s = [_LEAST_S * _RATIO**bucket for bucket in range(0, _BUCKETS - 1, _MERGED)]
        ends = [bucket + 1 for bucket in range(0, _BUCKETS - 1, _MERGED)]
        starts = [0, *ends]
        return bounds_s, [sum(self._counts[start:end]) for start, end in zip(starts, [*ends, _BUCKETS], strict=True)]
