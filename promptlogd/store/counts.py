"""Finished runs that the facts do not have yet. Pure, and safe to use from any thread."""

from __future__ import annotations

import threading


class RunCounts:
    """For each program, how many runs have ended since they were last taken, and when the last one did."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._runs: dict[str, tuple[int, float]] = {}

    def add(self, hash: str, count: int, at: float) -> None:
        """Count runs, the last of which ended at this time."""
        with self._mutex:
            before, _ = self._runs.get(hash, (0, 0.0))
            self._runs[hash] = (before + count, at)

    def get(self, hash: str) -> tuple[int, float] | None:
        """Return what is counted for one program."""
        with self._mutex:
            return self._runs.get(hash)

    def take(self) -> dict[str, tuple[int, float]]:
        """Return what is counted, and begin anew."""
        with self._mutex:
            runs, self._runs = self._runs, {}
            return runs

    def put_back(self, runs: dict[str, tuple[int, float]]) -> None:
        """Count again what was taken, before what was counted meanwhile."""
        with self._mutex:
            for hash, (count, at) in runs.items():
                later, last_at = self._runs.get(hash, (0, at))
                self._runs[hash] = (count + later, last_at)

    def drop(self, hash: str) -> None:
        """Forget what is counted for one program."""
        with self._mutex:
            self._runs.pop(hash, None)
