"""The number of cells that a pool keeps."""

from __future__ import annotations

import pytest

from sandbox.cells.policy import ByDemand, Steady


def test_a_steady_pool_keeps_its_number() -> None:
    """The number stays the same, whatever is requested and when."""
    policy = Steady(4)
    for now, wanted in ((0.0, 1), (5.0, 100), (10_000.0, 0)):
        policy.note(now, wanted)
        assert policy.target(now) == 4


def test_a_pool_on_demand_keeps_no_cell_when_idle() -> None:
    """The first request makes the number one; it returns to zero after `idle_s` without a request."""
    policy = ByDemand(most=8, idle_s=300.0)
    assert policy.target(0.0) == 0
    policy.note(1.0, 1)
    assert policy.target(1.0) == policy.target(300.0) == 1
    assert policy.target(302.0) == 0


@pytest.mark.parametrize(("asked", "now", "target"), [
    ([(0.0, 3)], 9.0, 3),  # the maximum within the last 10 s
    ([(0.0, 3), (5.0, 1)], 9.0, 3),
    ([(0.0, 3), (5.0, 1)], 11.0, 1),  # the request for 3 is more than 10 s ago
    ([(0.0, 1), (1.0, 2), (2.0, 3)], 3.0, 3),
    ([(0.0, 3), (1.0, 2), (2.0, 1)], 10.5, 2),
    ([(0.0, 50)], 1.0, 8),  # up to the bound
])  # fmt: skip
def test_a_pool_on_demand_keeps_as_many_as_were_in_use_at_once(
    asked: list[tuple[float, int]], now: float, target: int
) -> None:
    """The number is the maximum over a window of ten seconds, up to a bound."""
    policy = ByDemand(most=8, idle_s=300.0)
    for at, wanted in asked:
        policy.note(at, wanted)
    assert policy.target(now) == target
