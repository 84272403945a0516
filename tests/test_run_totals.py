"""Totals of runs: counts by engine and outcome, and histograms with fixed buckets."""

from __future__ import annotations

import time

import pytest

from promptlogd.run_totals import BOUNDS_MS, UNKNOWN, RunTotals
from promptlogd.turns import Turns
from sandbox.outcome import Usage


def _usage(cpu_ms: float, wall_ms: float) -> Usage:
    return Usage(cpu_ms=cpu_ms, wall_ms=wall_ms, peak_memory_bytes=0)


def test_runs_are_counted_by_engine_and_outcome() -> None:
    """Each run is in one counter and in one bucket of each histogram of its engine."""
    totals = RunTotals()
    totals.note("quickjs", "ok", _usage(1.5, 3.0))
    totals.note("quickjs", "ok", _usage(2.0, 40_000.0))
    totals.note("deno", "cpu_limit", _usage(51.0, 60.0))
    quickjs, deno = totals.engines["quickjs"], totals.engines["deno"]
    assert (quickjs.outcomes, deno.outcomes) == ({"ok": 2}, {"cpu_limit": 1})
    assert totals.outcomes() == {"ok": 2, "cpu_limit": 1}
    assert quickjs.cpu.counts[BOUNDS_MS.index(2.0)] == 2, "a bound belongs to its bucket"
    assert quickjs.wall.counts[BOUNDS_MS.index(5.0)] == 1
    assert quickjs.wall.counts[-1] == 1, "above all bounds"
    assert quickjs.wall.sum_ms == pytest.approx(40_003)
    assert sum(deno.cpu.counts) == sum(deno.wall.counts) == 1


def test_runs_that_never_started_are_in_no_histogram() -> None:
    """A run that was cancelled in the queue is counted, but does not affect the durations."""
    totals = RunTotals()
    totals.note(None, "cancelled", _usage(0.0, 0.0))
    totals.note("quickjs", "cancelled", _usage(0.0, 0.0))
    assert totals.engines[UNKNOWN].outcomes == {"cancelled": 1}
    assert sum(totals.engines["quickjs"].wall.counts) == 0


@pytest.mark.timed
def test_counting_a_run_takes_microseconds() -> None:
    """Counting a run takes a few microseconds, also after many runs."""
    totals, usage = RunTotals(), _usage(1.5, 3.0)
    began = time.thread_time()
    for _ in range(100_000):
        totals.note("quickjs", "ok", usage)
    assert (time.thread_time() - began) / 100_000 < 20e-6


def test_the_histogram_of_turns() -> None:
    """Each turn is in one bucket, below its upper bound, and the sum is exact."""
    turns = Turns()
    for turn_s in (5e-6, 0.001, 0.001, 0.08, 60.0):
        turns.note(turn_s)
    bounds_s, counts = turns.histogram()
    assert bounds_s == sorted(set(bounds_s))
    assert (len(counts), sum(counts)) == (len(bounds_s) + 1, 5)
    assert (counts[0], counts[-1]) == (1, 1)
    assert sum(count for bound_s, count in zip(bounds_s, counts, strict=False) if 0.001 <= bound_s < 0.0025) == 2
    assert turns.sum_s == pytest.approx(60.082005)
