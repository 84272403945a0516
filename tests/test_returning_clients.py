"""What admission remembers of clients that left: a process may connect anew for each run."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import trio
from trio.testing import MockClock

from tests.clock import within_a_minute
from tests.waiting import Waiting

_NO_MORE_SHORT_RUNS_S = 0.11
"""For so long after a short run admission expects more of them."""


def _has_long_runs(admission: Waiting, client: Hashable) -> bool:
    """Whether an idle admission of two slots takes this client for one with long runs: it gets one of them then."""
    slots = [admission.take(client) for _ in range(2)]
    for slot in slots:
        if slot is not None:
            admission.release(slot, 1)
    return slots[1] is None


@within_a_minute
async def test_a_process_that_connects_anew_is_what_it_was(clock: MockClock) -> None:
    """A client of a process that left with long runs a moment ago has the history of the one that left, once."""
    admission = Waiting(concurrent=2, queue=0)
    admission.release(await admission.acquire(1), 50)
    admission.forget(1, process=7)
    admission.inherit(2, process=8)
    assert not _has_long_runs(admission, 2)
    await trio.sleep(_NO_MORE_SHORT_RUNS_S)
    admission.inherit(3, process=7)
    assert _has_long_runs(admission, 3)
    await trio.sleep(_NO_MORE_SHORT_RUNS_S)
    admission.inherit(4, process=7)
    assert not _has_long_runs(admission, 4)


@within_a_minute
async def test_a_process_that_connects_anew_late_is_a_new_one(clock: MockClock) -> None:
    """The history of a client that left is kept for a second."""
    for pause_s, remembered in ((0.9, True), (1.1, False)):
        admission = Waiting(concurrent=2, queue=0)
        admission.release(await admission.acquire(1), 50)
        admission.forget(1, process=7)
        await trio.sleep(pause_s)
        admission.inherit(2, process=7)
        assert _has_long_runs(admission, 2) is remembered


@pytest.mark.parametrize("processes", [3000, 1])
@within_a_minute
async def test_who_left_is_remembered_up_to_a_bound(clock: MockClock, processes: int) -> None:
    """Of 3,000 clients that left, of as many processes or of one, a bounded number is remembered: the last ones."""
    admission = Waiting(concurrent=2, queue=0)
    for number in range(3000):
        admission.release(await admission.acquire(number), 50)
        admission.forget(number, process=number % processes)
    remembered = []
    for number in reversed(range(3000)):
        anew = ("anew", number)
        admission.inherit(anew, process=number % processes)
        slots = [admission.take(anew) for _ in range(2)]
        remembered.append(slots[1] is None)
        for slot in slots:
            if slot is not None:
                admission.release(slot, 50)  # long, so that short runs are not expected
    assert remembered == [True] * sum(remembered) + [False] * (3000 - sum(remembered))
    assert 1000 <= sum(remembered) <= 1100
