"""Admission with quotas of running and waiting runs: whoever has used up a quota waits, and nobody else does."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from promptlogd.admission import Admission
from promptlogd.principal import Principal
from promptlogd.principals import Ticket
from promptlogd.quotas import NO_CAPS, Caps
from promptlogd.refusal import RequestError
from tests.clock import within_a_minute
from tests.simulated import Cells, client


class _Runs:
    """Runs that were asked for: which have a slot, and which were refused with which code."""

    def __init__(self, *, slots: int = 4) -> None:
        self.admission = Admission(concurrent=slots, queue=1000, queue_bytes=1000, cells={"quickjs": Cells()})
        self.running: dict[str, Ticket] = {}
        self.refused: dict[str, RequestError] = {}

    def ask(self, name: str, principal: Principal, caps: Caps = NO_CAPS) -> None:
        """Ask for a slot."""

        def answer(ticket: Ticket | RequestError) -> None:
            if isinstance(ticket, Ticket):
                self.running[name] = ticket
            else:
                self.refused[name] = ticket

        self.admission.ask(principal, "quickjs", answer, caps=caps)

    def end(self, name: str) -> None:
        """End a run that has a slot."""
        self.admission.end(self.running.pop(name), 1.0)


async def test_a_user_waits_at_its_quota() -> None:
    """Its further runs wait while slots are free, over all its processes; others start; a run that ends starts one."""
    runs, caps = _Runs(), Caps(user_running=2)
    for number, name in enumerate("abcd"):
        runs.ask(name, client(number, uid=7, pid=number), caps)
    runs.ask("other", client(9, uid=8), caps)
    assert runs.running.keys() == {"a", "b", "other"}
    runs.end("other")
    assert runs.running.keys() == {"a", "b"}
    runs.end("a")
    assert runs.running.keys() == {"b", "c"}


async def test_a_light_client_of_a_user_at_its_quota_waits_too() -> None:
    """The reserved slot is no way round a quota."""
    runs, caps = _Runs(slots=3), Caps(user_running=2)
    light = client(1, uid=7, pid=1)
    runs.ask("first", light, caps)
    runs.end("first")  # now it counts as light
    for number, name in enumerate("ab"):
        runs.ask(name, client(2 + number, uid=7, pid=2), caps)
    runs.ask("light", light, caps)
    assert runs.running.keys() == {"a", "b"}
    runs.end("a")
    assert runs.running.keys() == {"b", "light"}


async def test_a_tenant_waits_at_its_quota() -> None:
    """Other tenants of the front do not, up to the quota of the front's user."""
    runs, caps = _Runs(), Caps(tenant_running=1, user_running=2)
    for name, tenant in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")):
        runs.ask(name, client(1, tenant=tenant), caps)
    assert runs.running.keys() == {"a1", "b1"}
    runs.end("a1")
    assert len(runs.running) == 2


async def test_the_queue_has_a_part_for_each() -> None:
    """A run beyond the quota of waiting runs is refused with `quota`; that of another user still waits."""
    runs, caps = _Runs(slots=1), Caps(user_waiting=2)
    for name in "abcd":
        runs.ask(name, client(1, uid=7), caps)
    runs.ask("other", client(2, uid=8), caps)
    assert runs.running.keys() == {"a"}
    assert runs.refused.keys() == {"d"}
    assert runs.refused["d"].code == "quota"
    assert runs.admission.queued == 3
    runs.end("a")
    runs.end("other")  # it has used less, so its run came first
    runs.ask("e", client(1, uid=7), caps)
    assert "e" not in runs.refused


async def test_a_tenant_cannot_fill_its_users_part_of_the_queue() -> None:
    """Above the user's quota, the newest run of the tenant with the most waiting runs is refused."""
    runs, caps = _Runs(slots=1), Caps(user_waiting=4)
    runs.ask("running", client(1, tenant="flood"), caps)
    for number in range(5):
        runs.ask(f"flood {number}", client(1, tenant="flood"), caps)
    assert runs.refused.keys() == {"flood 4"}
    for number in range(2):
        runs.ask(f"good {number}", client(2, tenant="good"), caps)
    assert runs.refused.keys() == {"flood 4", "flood 3", "flood 2"}
    assert {error.code for error in runs.refused.values()} == {"quota"}
    runs.ask("flood 5", client(1, tenant="flood"), caps)
    assert runs.refused.keys() == {"flood 5", "flood 4", "flood 3", "flood 2"}
    runs.ask("third", client(3, tenant="third"), caps)
    assert "third" not in runs.refused
    assert runs.admission.queued == 4


async def test_a_lower_quota_of_waiting_runs() -> None:
    """Runs that waited before a reload lowered the quota keep their places; each new one is refused, and no other."""
    runs = _Runs(slots=1)
    for name in "abcd":
        runs.ask(name, client(1, tenant="a"), Caps(user_waiting=3, tenant_waiting=3))
    for name in "ef":
        runs.ask(name, client(1, tenant="a"), Caps(user_waiting=1, tenant_waiting=2))
    assert runs.refused.keys() == {"e", "f"}


async def test_slots_that_are_returned_at_once_do_not_hold_up_the_loop() -> None:
    """Waiting runs that the quota of CPU time refuses, once they get a slot, are refused some in each turn."""
    runs, granted = _Runs(slots=1), 0
    runs.ask("first", client(1))

    def refuse(ticket: Ticket | RequestError) -> None:
        nonlocal granted
        assert isinstance(ticket, Ticket)
        granted += 1
        runs.admission.return_unused(ticket)

    for _ in range(100):
        runs.admission.ask(client(1), "quickjs", refuse)
    runs.end("first")
    most, turns = granted, 0
    while granted < 100:
        before = granted
        await trio.lowlevel.checkpoint()
        most, turns = max(most, granted - before), turns + 1
    assert most <= 2 * 32  # a checkpoint may take two turns
    assert turns < 20


def test_slots_that_are_returned_at_the_end() -> None:
    """Runs that are still granted and refused when the daemon ends do no harm."""

    async def main() -> None:
        runs = _Runs(slots=1)
        runs.ask("first", client(1))

        def refuse(ticket: Ticket | RequestError) -> None:
            assert isinstance(ticket, Ticket)
            runs.admission.return_unused(ticket)

        for _ in range(500):
            runs.admission.ask(client(1), "quickjs", refuse)
        runs.end("first")

    trio.run(main)


async def test_a_quota_that_is_lifted() -> None:
    """With the next run after a reload, the runs that waited for the quota start."""
    runs = _Runs()
    for name in "abc":
        runs.ask(name, client(1, uid=7), Caps(user_running=1))
    assert runs.running.keys() == {"a"}
    runs.ask("d", client(1, uid=7))
    assert len(runs.running) == 3  # the fourth slot is reserved
    runs.end("a")
    assert runs.running.keys() == {"b", "c", "d"}


@within_a_minute
async def test_a_run_that_waits_too_long_for_a_quota_is_refused() -> None:
    """A run that waited for its user's own runs is refused with `quota`, another one with `busy`."""
    runs = _Runs(slots=1)
    runs.ask("own", client(1, uid=7), Caps(user_running=1))
    runs.ask("waits", client(1, uid=7), Caps(user_running=1))
    runs.ask("other", client(2, uid=8))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runs.admission.serve, 1.0)
        while len(runs.refused) < 2:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert {name: error.code for name, error in runs.refused.items()} == {"waits": "quota", "other": "busy"}
    for error in runs.refused.values():
        assert error.detail is not None
        assert error.detail["retry_after_ms"]


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps to the next deadline."""
    return MockClock(autojump_threshold=0)
