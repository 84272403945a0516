"""Totals of the runs since the daemon's start, by engine: outcomes, and histograms of CPU time and wall time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from sandbox.outcome import Usage
from sandbox.program import Engine

UNKNOWN = "unknown"
"""Stands for the engine of runs that were cancelled before their program was found."""

BOUNDS_MS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 30e3)
"""Upper bounds of the buckets, up to the largest wall limit. They are fixed, so that histograms of several daemons can
be added."""


class Durations:
    """A histogram of durations. Not thread-safe."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        """Number of durations in each bucket. The last bucket holds those above all bounds."""
        self.sum_ms = 0.0

    def note(self, duration_ms: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS_MS, duration_ms)] += 1
        self.sum_ms += duration_ms


class EngineTotals:
    """The runs of one engine."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.cpu = Durations()
        self.wall = Durations()


class RunTotals:
    """The finished runs of all engines. The event loop calls `note` for each run, so it must stay O(1)."""

    def __init__(self) -> None:
        self.engines: dict[str, EngineTotals] = {}

    def note(self, engine: Engine | None, kind: str, usage: Usage) -> None:
        """Count a finished run. `kind`: of its outcome. Runs that never started are in no histogram."""
        name = engine or UNKNOWN
        totals = self.engines.get(name)
        if totals is None:
            totals = self.engines[name] = EngineTotals()
        totals.outcomes[kind] += 1
        if usage.wall_ms > 0:
            totals.cpu.note(usage.cpu_ms)
            totals.wall.note(usage.wall_ms)

    def outcomes(self) -> Counter[str]:
        """Return the number of runs of all engines by outcome."""
        total: Counter[str] = Counter()
        for engine in self.engines.values():
            total.update(engine.outcomes)
        return total
