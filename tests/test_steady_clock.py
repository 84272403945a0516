"""The clock for removing data by its age: steps of the wall clock, with samples at any times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promptlogd.steady_clock import SteadyClock

_WALL, _YEARS = 1.8e9, 3e8


def test_a_step_forward_takes_effect_after_an_hour() -> None:
    """In the first hour there is no time; then a step forward counts after an hour, and a step back at once."""
    clock = SteadyClock()
    assert clock.read(_WALL, 0) is None
    assert clock.read(_WALL + 3599, 3599) is None
    assert clock.read(_WALL + 3600, 3600) == _WALL + 3600
    assert clock.read(_WALL + 4000 + _YEARS, 4000) == _WALL + 4000
    assert clock.read(_WALL + 7599 + _YEARS, 7599) == _WALL + 7599
    assert clock.read(_WALL + 7600 + _YEARS, 7600) == _WALL + 7600 + _YEARS
    assert clock.read(_WALL + 7601, 7601) == _WALL + 7601


def test_a_clock_that_is_ahead_again_and_again() -> None:
    """A wall clock that is right at least once an hour never takes this clock ahead."""
    clock = SteadyClock()
    for minute in range(600):
        ahead = 0 if minute % 59 == 0 else _YEARS + minute
        read = clock.read(_WALL + minute * 60 + ahead, minute * 60)
        assert read is None if minute < 60 else read == _WALL + minute * 60


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 5)), min_size=1, max_size=40))
def test_it_is_the_smallest_difference_of_an_hour(samples: list[tuple[int, int]]) -> None:
    """For any samples the time is the monotonic clock plus the smallest difference within the last hour."""
    clock, monotonic, seen = SteadyClock(), 0, list[tuple[int, int]]()
    for waited, difference in samples:
        monotonic += waited
        seen.append((monotonic, difference))
        read = clock.read(monotonic + difference, monotonic)
        before = [number for number, (at, _) in enumerate(seen) if at <= monotonic - 3600]
        if not before:
            assert read is None
        else:
            assert read == monotonic + min(difference for _, difference in seen[before[-1] :])
