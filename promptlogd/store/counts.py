"""Counts of finished runs that are not in SQLite yet. Pure and thread-safe.

The event loop takes the lock at each run. So no disk access and no iteration over all programs may hold it.
"""

from __future__ import annotations

import threading


class RunCounts:
    """For each program: the number of runs that ended since the last `take`, and the time of the last end."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._runs: dict[str, tuple[int, float]] = {}

    def add(self, hash: str, count: int, at: float) -> None:
        """Add runs. The last one ended at this time."""
        with self._mutex:
            before, _ = self._runs.get(hash, (0, 0.0))
            self._runs[hash] = (before + count, at)

    def get(self, hash: str) -> tuple[int, float] | None:
        """Return (number of runs, time of the last end) of one program; None if there was no run."""
        with self._mutex:
            return self._runs.get(hash)

    def take(self) -> dict[str, tuple[int, float]]:
        """Return all counts, and start again from zero."""
        with self._mutex:
            runs, self._runs = self._runs, {}
            return runs

    def put_back(self, runs: dict[str, tuple[int, float]]) -> None:
        """Add back counts that could not be written. A later end time that was counted in between stays.

        `runs` is this object's from now on.
        """
        with self._mutex:
            for hash, (count, at) in self._runs.items():  # only the runs that ended during the write
                runs[hash] = (runs.get(hash, (0, at))[0] + count, at)
            self._runs = runs

    def discard(self, hash: str) -> None:
        """Remove the count of one program, if there is one."""
        with self._mutex:
            self._runs.pop(hash, None)
