"""The token bucket: burst, rate, debts, and a rate that changes."""

from __future__ import annotations

import pytest

from promptlogd.token_bucket import TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    """As many as the burst come at once; then one for each interval of the rate."""
    bucket = TokenBucket()
    for _ in range(3):
        assert bucket.wait_s(1, 0.0, rate=10, burst=3) == 0.0
        bucket.use(1, 0.0, rate=10)
    assert bucket.wait_s(1, 0.0, rate=10, burst=3) == pytest.approx(0.1)
    assert bucket.wait_s(1, 0.1, rate=10, burst=3) == 0.0
    bucket.use(1, 0.1, rate=10)
    assert bucket.wait_s(1, 0.1, rate=10, burst=3) == pytest.approx(0.1)


def test_idle_time_saves_no_more_than_the_burst() -> None:
    """After an hour without use there is room for one burst."""
    bucket = TokenBucket()
    bucket.use(1, 0.0, rate=10)
    for _ in range(3):
        assert bucket.wait_s(1, 3600.0, rate=10, burst=3) == 0.0
        bucket.use(1, 3600.0, rate=10)
    assert bucket.wait_s(1, 3600.0, rate=10, burst=3) > 0.0


def test_a_use_beyond_the_burst_is_paid_off() -> None:
    """A run can use more CPU time than was left: the next one waits for all of it."""
    bucket = TokenBucket()
    bucket.use(5000, 0.0, rate=100)
    assert bucket.wait_s(0, 0.0, rate=100, burst=1000) == pytest.approx(40.0)
    assert bucket.wait_s(0, 30.0, rate=100, burst=1000) == pytest.approx(10.0)


def test_the_rate_may_change() -> None:
    """A reload with another rate keeps what was used, and pays it off at the new rate."""
    bucket = TokenBucket()
    bucket.use(100, 0.0, rate=1)
    assert bucket.wait_s(0, 0.0, rate=50, burst=50) == pytest.approx(1.0)
