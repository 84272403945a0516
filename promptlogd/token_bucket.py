"""A token bucket, as a meter: it holds what was used and not yet paid off at the rate (RFC 2697 calls it a meter).

Rate and burst are arguments, so that a reload may change them between two calls. Pure: the caller gives the time.
"""

from __future__ import annotations


class TokenBucket:
    """What was used, less the rate times the time since then; at least nothing."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._used = 0.0
        self._at = 0.0

    def used(self, now: float, rate: float) -> float:
        """Return how much is not paid off yet. `rate`: per second."""
        return max(0.0, self._used - (now - self._at) * rate)

    def use(self, amount: float, now: float, rate: float) -> None:
        """Note a use, which may exceed any burst: it is paid off before the next."""
        self._used = self.used(now, rate) + amount
        self._at = now

    def wait_s(self, amount: float, now: float, rate: float, burst: float) -> float:
        """Return the time until so much may be used; 0.0 if it may be now."""
        return max(0.0, (self.used(now, rate) + amount - burst) / rate)
