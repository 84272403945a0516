"""Measuring and reporting how long turns of the loop take."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client
from promptlogd.turns import Turns


@pytest.mark.parametrize(
    ("turns_ms", "p99_ms", "longest_ms"),
    [
        ([1.0] * 1000, 1.0, 1.0),
        ([1.0] * 995 + [80.0] * 5, 1.0, 80.0),
        ([1.0] * 985 + [80.0] * 15, 80.0, 80.0),
        ([0.001] * 100, 0.001, 0.001),
        ([], 0.0, 0.0),
        ([9_000.0], 9_000.0, 9_000.0),
    ],
)
def test_the_99th_percentile_is_at_most_a_quarter_too_high(
    turns_ms: list[float], p99_ms: float, longest_ms: float
) -> None:
    """For any turns, the percentile is within this bound, and the longest turn is exact."""
    turns = Turns()
    for turn_ms in turns_ms:
        turns.note(turn_ms / 1000)
    assert p99_ms <= turns.p99_s() * 1000 * 1.0001
    assert turns.p99_s() * 1000 <= p99_ms * 1.25
    assert turns.longest_s * 1000 == pytest.approx(longest_ms)


def test_stats_report_the_loops_turns(socket_path: str) -> None:
    """A running daemon measures its turns and reports them in `stats`."""
    with Client(socket_path) as client:
        client.ping()
        stats = client.stats()
    assert 0 < stats.turn_p99_ms <= stats.turn_max_ms
    assert 0 < stats.turn_cpu_max_ms <= stats.turn_max_ms + 1
