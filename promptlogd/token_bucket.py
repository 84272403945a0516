"""A token bucket that works as a meter (RFC 2697): it has the amount that was used, less the rate times the time.

Rate and burst are arguments, so that a reload can change them between two calls. The caller passes the time.
"""

from __future__ import annotations


class TokenBucket:
    """The amount that was used, less the rate times the time since then. It is never negative."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._used = 0.0
        self._at = 0.0

    def used(self, now: float, rate: float) -> float:
        """Return the current amount. `rate`: per second."""
        return max(0.0, self._used - (now - self._at) * rate)

    def use(self, amount: float, now: float, rate: float) -> None:
        """Add an amount, which may exceed any burst. It then takes longer until the next use is allowed."""
        self._used = self.used(now, rate) + amount
        self._at = now

    def wait_s(self, amount: float, now: float, rate: float, burst: float) -> float:
        """Return the time in seconds until this amount may be used. 0.0: now."""
        return max(0.0, (self.used(now, rate) + amount - burst) / rate)
