"""Counts of finished runs that are not in SQLite yet. Pure and thread-safe.

The event loop takes the lock at each run. So no disk access and no iteration over all programs may hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from promptlogd.store.holders import MANAGER, Viewer

_MOST = 100_000
"""Maximum number of pairs of a program and a viewer: 40 MB. It is reached only if the disk fails for a long time. Then
runs of further pairs count as runs of a manager, so that the sum for each program stays correct."""

Counts = Mapping[Viewer, tuple[int, float]]
"""For each viewer that ran a program: the number of runs, and the time of the last end."""


def total_runs(counts: Counts) -> tuple[int, float]:
    """Return the number of runs by all viewers, and the time of the last end. There must be a run."""
    return sum(count for count, _ in counts.values()), max(at for _, at in counts.values())


class RunCounts:
    """For each program, who ran it: the number of runs since the last `take`, and the time of the last end."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._runs: dict[str, dict[Viewer, tuple[int, float]]] = {}
        self._pairs = 0

    def add(self, hash: str, viewer: Viewer, at: float) -> None:
        """Add a run that ended at this time."""
        with self._mutex:
            self._add(hash, viewer, 1, at)

    def _add(self, hash: str, viewer: Viewer, count: int, at: float) -> None:
        counts = self._runs.setdefault(hash, {})
        known = counts.get(viewer)
        if known is None and self._pairs >= _MOST:
            viewer, known = MANAGER, counts.get(MANAGER)
        if known is None:
            self._pairs += 1
            counts[viewer] = (count, at)
        else:
            counts[viewer] = (known[0] + count, max(known[1], at))

    def get(self, hash: str) -> Counts:
        """Return the counts of one program; empty if there was no run."""
        with self._mutex:
            return dict(self._runs.get(hash, ()))

    def take(self) -> dict[str, dict[Viewer, tuple[int, float]]]:
        """Return all counts, and start again from zero."""
        with self._mutex:
            runs, self._runs, self._pairs = self._runs, {}, 0
            return runs

    def put_back(self, runs: dict[str, dict[Viewer, tuple[int, float]]]) -> None:
        """Add back counts that could not be written. The caller must not use `runs` afterwards."""
        with self._mutex:
            since, self._runs = self._runs, runs
            self._pairs = sum(map(len, runs.values()))
            for hash, counts in since.items():  # only the runs that ended during the write
                for viewer, (count, at) in counts.items():
                    self._add(hash, viewer, count, at)

    def discard(self, hash: str) -> None:
        """Remove the counts of one program, if there are any."""
        with self._mutex:
            self._pairs -= len(self._runs.pop(hash, ()))
