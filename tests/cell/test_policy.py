"""How many cells a pool keeps."""

from __future__ import annotations

import pytest

from sandbox.cells.policy import ByDemand, Steady


def test_a_steady_pool_always_has_as_many() -> None:
    """Whatever is wanted, and when, the number is the same."""
    policy = Steady(4)
    for now, wanted in ((0.0, 1), (5.0, 100), (10_000.0, 0)):
        policy.note(now, wanted)
        assert policy.target(now) == 4


def test_by_demand_there_are_none_before_the_first_request_and_long_after_the_last() -> None:
    """The first request makes it one; after `idle_s` without a request it is none again."""
    policy = ByDemand(most=8, idle_s=300.0)
    assert policy.target(0.0) == 0
    policy.note(1.0, 1)
    assert policy.target(1.0) == policy.target(300.0) == 1
    assert policy.target(302.0) == 0


@pytest.mark.parametrize(("asked", "now", "target"), [
    ([(0.0, 3)], 9.0, 3),  # the most at once in the last 10 s
    ([(0.0, 3), (5.0, 1)], 9.0, 3),
    ([(0.0, 3), (5.0, 1)], 11.0, 1),  # of which the 3 are over
    ([(0.0, 1), (1.0, 2), (2.0, 3)], 3.0, 3),
    ([(0.0, 3), (1.0, 2), (2.0, 1)], 10.5, 2),
    ([(0.0, 50)], 1.0, 8),  # up to the bound
])  # fmt: skip
def test_by_demand_there_are_as_many_as_were_wanted_at_once(
    asked: list[tuple[float, int]], now: float, target: int
) -> None:
    """The maximum over a window of ten seconds, up to a bound."""
    policy = ByDemand(most=8, idle_s=300.0)
    for at, wanted in asked:
        policy.note(at, wanted)
    assert policy.target(now) == target
