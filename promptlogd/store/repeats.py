"""Times of repeated submits that are not in SQLite yet. Pure and thread-safe.

A submit of a stored program writes nothing to its folder. But the program counts as used, so that `gc` does not remove
it before its client runs it.
"""

from __future__ import annotations

import threading
from itertools import islice

_MOST = 10_000
"""Maximum number of programs: 3 MB. It is reached only if the disk fails for a long time. Then the oldest are
dropped."""


class RepeatedSubmits:
    """For each program, when it was last submitted again since the last `take`, the oldest first."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._times: dict[str, float] = {}

    def add(self, hash: str, at: float) -> None:
        """Add a repeated submit."""
        with self._mutex:
            self._times.pop(hash, None)
            self._times[hash] = at
            if len(self._times) > _MOST:
                del self._times[next(iter(self._times))]

    def has(self, hash: str) -> bool:
        """Whether a program was submitted again since the last `take`."""
        with self._mutex:
            return hash in self._times

    def take(self) -> dict[str, float]:
        """Return all times, and forget them."""
        with self._mutex:
            times, self._times = self._times, {}
            return times

    def put_back(self, times: dict[str, float]) -> None:
        """Add back times that could not be written. Later ones replace them."""
        with self._mutex:
            earlier = {hash: at for hash, at in times.items() if hash not in self._times}
            merged = earlier | self._times
            self._times = dict(islice(merged.items(), max(0, len(merged) - _MOST), None))
