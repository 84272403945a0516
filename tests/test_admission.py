"""Admission is fair by CPU time, work-conserving, bounded, and quick for light clients. Service times are simulated."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from promptlogd.admission import LIGHT_MS, LONG_S, SPECIAL, Admission
from promptlogd.principal import Principal
from promptlogd.principals import Node, Ticket
from promptlogd.refusal import RequestError
from promptlogd.room import Room
from tests.clock import within_a_minute
from tests.simulated import Cells, Simulation, client

_BOMB_MS = 50.0
_SHORT_MS = 1.0
_SLOTS = 4


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps to the next deadline."""
    return MockClock(autojump_threshold=0)


def _noting(into: list[int], number: int) -> Callable[[object], None]:
    """Return a callback for a grant that appends this number."""
    return lambda _: into.append(number)


def _p99(sorted_ms: list[float]) -> float:
    return sorted_ms[int(len(sorted_ms) * 0.99)]


# --- slots and the queue ----------------------------------------------------------------------------------------------


@within_a_minute
async def test_a_full_queue_refuses_the_newest_run_of_the_client_with_the_most() -> None:
    """A client with one run displaces one of many; a client with as many runs as others is refused."""
    admission = Admission(concurrent=1, queue=4, queue_bytes=1000, cells={"quickjs": Cells()})
    granted: list[str] = []
    refused: list[str] = []

    def ask(name: str, principal: Principal) -> Ticket:
        def answer(ticket: Ticket | RequestError) -> None:
            (granted if isinstance(ticket, Ticket) else refused).append(name)

        return admission.ask(principal, "quickjs", answer)

    first = ask("runs", client(1))
    for name in "abcd":
        ask(name, client(1))
    assert (granted, refused, admission.queued) == (["runs"], [], 4)
    ask("e", client(1))
    assert refused == ["e"]
    ask("other connection", client(2))
    assert refused == ["e", "d"]
    ask("other process", client(3, pid=2))
    assert refused == ["e", "d", "c"]
    ask("other user", client(4, uid=2))
    assert refused == ["e", "d", "c", "b"]
    ask("other user again", client(4, uid=2))
    assert refused == ["e", "d", "c", "b", "other connection"]
    ask("other user, a third time", client(4, uid=2))
    assert refused[5:] == ["other user, a third time"]
    admission.end(first, 1.0)
    assert admission.queued == 3


@within_a_minute
async def test_the_memory_of_waiting_runs_is_bounded() -> None:
    """Above the bound, the newest run of the client that holds the most memory is refused, even a client's only run."""
    admission = Admission(concurrent=1, queue=100, queue_bytes=1000, cells={"quickjs": Cells()})
    refused: list[str] = []

    def ask(name: str, principal: Principal, held_bytes: int) -> None:
        def answer(ticket: Ticket | RequestError) -> None:
            if isinstance(ticket, RequestError):
                assert ticket.code == "busy"
                refused.append(name)

        admission.ask(principal, "quickjs", answer, held_bytes=held_bytes)

    ask("runs", client(1), 5000)
    ask("large", client(1), 900)
    for number in range(10):
        ask(f"small {number}", client(2, uid=2), 10)
    assert refused == []
    ask("one more", client(2, uid=2), 10)
    assert refused == ["large"]
    ask("too large", client(3, uid=3), 2000)
    assert refused == ["large", "too large"]


@within_a_minute
async def test_refusals_are_spread_over_turns_of_the_loop() -> None:
    """If an engine's cells do not start, its runs are refused a few per turn, and runs of other engines stay."""
    admission = Admission(concurrent=1, queue=1000, queue_bytes=1000, cells={"quickjs": Cells(0), "deno": Cells(0)})
    refused: list[int] = []
    for number in range(300):
        for engine in ("quickjs", "deno"):
            admission.ask(client(number % 7, uid=number % 3), engine, _noting(refused, number))
    seen: list[int] = []

    async def watch() -> None:
        while len(refused) < 300:
            seen.append(len(refused))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await admission.send_away("deno", RequestError("internal", "no cells"))
    assert refused == list(range(300))
    assert max(after - before for before, after in pairwise(seen)) <= 64
    assert (admission.pending("deno"), admission.pending("quickjs"), admission.queued) == (0, 300, 300)
    await admission.send_away("no engine", RequestError("internal", "no cells"))
    assert admission.queued == 300


@within_a_minute
async def test_closed_connections_are_not_kept_by_the_rankings() -> None:
    """While the queue is never full, so that nothing is ranked, a closed connection whose run waited is forgotten."""
    admission = Admission(concurrent=1, queue=1000, queue_bytes=1000, cells={"quickjs": Cells(0)})
    for connection in range(100):
        ticket = admission.ask(client(connection), "quickjs", lambda _: None, held_bytes=1)
        admission.leave(ticket)
        admission.forget(connection)
    del ticket
    gc.collect()
    remembered = [node for node in gc.get_objects() if isinstance(node, Node) and node.key in range(100)]
    assert not remembered


@within_a_minute
async def test_the_ranking_of_many_connections_is_not_left_to_one_turn() -> None:
    """While thousands of connections of one process have waiting runs, only a few of them are not ranked yet."""
    admission = Admission(concurrent=1, queue=4000, queue_bytes=1 << 20, cells={"quickjs": Cells(0)})
    for connection in range(3000):
        ticket = admission.ask(client(connection), "quickjs", lambda _: None)
    assert len(ticket.path.client.unranked) < 256


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.booleans()), max_size=60))
def test_the_refused_run_belongs_to_the_client_with_the_most_in_the_queue(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    """For any sequence, the refused run belongs to the user, process and connection that hold the most in the queue."""

    async def drive() -> None:
        admission = Admission(concurrent=1, queue=8, queue_bytes=20, cells={"quickjs": Cells(0)})
        waiting: list[tuple[int, int, int, Ticket]] = []
        refused: list[int] = []
        for number, (uid, pid, held_bytes, leaves) in enumerate(steps):
            if leaves and waiting:
                admission.leave(waiting.pop(held_bytes % len(waiting))[3])
                continue
            connection = 10 * uid + pid
            asked = admission.ask(
                client(connection, uid=uid, pid=pid),
                "quickjs",
                _noting(refused, number),
                held_bytes=7 * held_bytes,
            )
            before = [*waiting, (uid, pid, 7 * held_bytes, asked)]
            waiting = [entry for entry in before if entry[3].waits]
            gone = [entry for entry in before if not entry[3].waits]
            assert admission.queued == len(waiting) <= 8
            assert sum(entry[2] for entry in waiting) <= 20
            if len(gone) == 1:
                by_number = len(before) > 8
                for depth in (1, 2):
                    totals: dict[tuple[int, ...], int] = {}
                    for *place, held, _ in before:
                        key = tuple(place[:depth])
                        totals[key] = totals.get(key, 0) + (1 if by_number else held)
                    lost = gone[0][:2][:depth]
                    assert totals[lost] == max(total for key, total in totals.items() if key[:-1] == lost[:-1])

    trio.run(drive)


@within_a_minute
async def test_no_light_client_is_overlooked(clock: MockClock) -> None:
    """If only one of many light clients may start a run, it gets the reserved slot after a few attempts."""
    cells = Cells()
    admission = Admission(concurrent=3, queue=1000, queue_bytes=1000, cells={"quickjs": cells})
    held: list[Ticket | RequestError] = []
    for number in range(600):  # each client becomes light
        admission.ask(client(number, pid=number), "quickjs", held.append)
        ticket = held.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, 0.1)
    for _ in range(2):
        admission.ask(client(1000, pid=1000), "quickjs", held.append)
    assert len(held) == 2
    granted: list[int] = []
    for number in range(600):  # only the last client has an ordinary run
        admission.ask(client(number, pid=number), "quickjs", _noting(granted, number), ordinary=number == 599)
    for _ in range(3):
        admission.select()
    assert granted == [599]


@within_a_minute
async def test_a_light_client_has_one_run_in_the_reserved_slot() -> None:
    """While a light client's run is in progress, its next run does not get the slot reserved for light clients."""
    admission = Admission(concurrent=4, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    running: list[Ticket | RequestError] = []

    def end(charge_ms: float) -> None:
        ticket = running.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, charge_ms)

    for number in (1, 3):
        admission.ask(client(number, pid=number), "quickjs", running.append)
        end(0.1)  # the client is light from now on
    for _ in range(3):
        admission.ask(client(2, pid=2), "quickjs", running.append)
    admission.ask(client(3, pid=3), "quickjs", running.append)
    granted: list[int] = []
    for number in (1, 2):
        admission.ask(client(1, pid=1), "quickjs", _noting(granted, number))
    assert granted == []
    end(0.1)  # the run in the reserved slot
    assert granted == [1]
    end(50.0)
    assert granted == [1]  # only the reserved slot is free
    end(50.0)
    assert granted == [1, 2]


@within_a_minute
async def test_a_refused_run_is_told_when_the_queue_may_be_empty() -> None:
    """`retry_after_ms` of a full queue is the time that its runs need, at the mean CPU time of all clients' runs."""
    admission = Admission(concurrent=1, queue=2, queue_bytes=1000, cells={"quickjs": Cells()})
    answers: list[Ticket | RequestError] = []
    admission.ask(client(1, uid=1), "quickjs", answers.append)
    first = answers.pop()
    assert isinstance(first, Ticket)
    admission.end(first, 400.0)
    for _ in range(4):
        admission.ask(client(2, uid=2), "quickjs", answers.append)
    refused = answers[-1]
    assert isinstance(refused, RequestError)
    assert refused.detail == {"retry_after_ms": 3 * 400}


@within_a_minute
async def test_a_run_that_waits_too_long_is_refused(clock: MockClock) -> None:
    """A run is refused after `wait_s`, at most a twentieth late; a later run keeps waiting, and gets the slot."""
    admission = Admission(concurrent=1, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    held: list[Ticket | RequestError] = []
    admission.ask(client(1), "quickjs", held.append)
    ended: list[tuple[str, bool, float]] = []
    began = trio.current_time()

    def note(name: str) -> None:
        admission.ask(
            client(2),
            "quickjs",
            lambda ticket: ended.append((name, isinstance(ticket, Ticket), trio.current_time() - began)),
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.serve, 10.0)
        note("first")
        note("second")
        await trio.sleep(5)
        note("third")
        await trio.sleep(7)
        assert [(name, granted) for name, granted, _ in ended] == [("first", False), ("second", False)]
        assert all(10 <= at <= 10.5 for _, _, at in ended)
        assert isinstance(held[0], Ticket)
        admission.end(held[0], 1.0)
        assert ended[2][:2] == ("third", True)
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_a_cancelled_run_loses_no_slot() -> None:
    """Whichever waiting run is cancelled, the others get the slot in order."""
    for leaving in range(3):
        admission = Admission(concurrent=1, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
        granted: list[tuple[int, Ticket]] = []

        def note(number: int, ticket: Ticket | RequestError, granted: list[tuple[int, Ticket]] = granted) -> None:
            assert isinstance(ticket, Ticket)
            granted.append((number, ticket))

        tickets = [
            admission.ask(client(1), "quickjs", lambda ticket, number=number: note(number, ticket))  # type: ignore[misc]
            for number in range(4)
        ]
        admission.leave(tickets[1 + leaving])
        admission.leave(tickets[1 + leaving])
        for _ in range(3):
            admission.end(granted[-1][1], 1.0)
        assert [number for number, _ in granted] == [number for number in range(4) if number != 1 + leaving]
        assert (admission.running, admission.queued) == (0, 0)


@within_a_minute
async def test_slots_that_are_returned_at_once() -> None:
    """Thousands of runs that return their slot at once each get it once, one after the other."""
    admission = Admission(concurrent=1, queue=5000, queue_bytes=1000, cells={"quickjs": Cells()})
    held: list[Ticket | RequestError] = []
    admission.ask(client(1), "quickjs", held.append)
    had: list[int] = []

    def give_back(ticket: Ticket | RequestError) -> None:
        assert isinstance(ticket, Ticket)
        had.append(1)
        admission.return_unused(ticket)

    for number in range(3000):
        admission.ask(client(number % 7), "quickjs", give_back)
    assert isinstance(held[0], Ticket)
    admission.end(held[0], 1.0)
    while len(had) < 3000:
        await trio.lowlevel.checkpoint()
    assert (len(had), admission.running, admission.queued) == (3000, 0, 0)


# --- bound 1: no slot except the reserved one is idle while a run may begin
# --------------------------------------------


class _Reader(Room):
    """A client that reads its replies, or does not."""

    def __init__(self) -> None:
        self.reads = True
        self._waiting: list[object] = []

    def has_room(self) -> bool:
        """Return whether the client reads."""
        return self.reads

    def when_room(self, callback: object) -> None:
        """Store the callback."""
        self._waiting.append(callback)

    def read(self) -> None:
        """Read everything."""
        self.reads = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()  # type: ignore[operator]


_EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.integers(0, 5),
            st.sampled_from(["quickjs", "deno", SPECIAL]),
            st.sampled_from([0.5, 2.0, 50.0, 500.0]),
        ),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("unused"), st.integers(0, 50)),
        st.tuples(st.just("leave"), st.integers(0, 50)),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("cells"), st.sampled_from(["quickjs", "deno"]), st.integers(0, 3)),
        st.tuples(st.just("reads"), st.integers(0, 5), st.booleans()),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(concurrent=st.integers(1, 5), events=_EVENTS)
@example(  # the run that leaves is the first of its connection, and the next one needs another engine
    concurrent=3,
    events=[("ask", 0, "quickjs", 0.5), ("ask", 0, "quickjs", 0.5), ("ask", 0, "deno", 0.5), ("leave", 0)],
)
def test_no_slot_is_idle_while_a_run_may_begin(concurrent: int, events: list[tuple[object, ...]]) -> None:
    """After any events, no run with a ready cell and room waits while more slots are free than are reserved."""

    async def main() -> None:
        cells = {"quickjs": Cells(2), "deno": Cells(2)}
        admission = Admission(concurrent=concurrent, queue=1000, queue_bytes=1000, cells=cells)
        reserved = 1 if concurrent >= 3 else 0
        readers = [_Reader() for _ in range(6)]
        numbers = list(range(6))
        costs: dict[Ticket, float] = {}
        running: list[Ticket] = []
        waiting: list[Ticket] = []

        def ask(who: int, engine: str, cost: float) -> None:
            def granted(ticket: Ticket | RequestError) -> None:
                assert isinstance(ticket, Ticket)
                running.append(ticket)
                costs[ticket] = cost
                if engine != SPECIAL:
                    cells[engine].count -= 1
                    cells[engine].lent += 1

            principal = client(numbers[who], uid=who % 2, pid=who // 2, tenant=["t", None][who % 2])
            ticket = admission.ask(principal, engine, granted, room=readers[who])
            waiting.append(ticket)

        def take(ticket: Ticket) -> None:
            running.remove(ticket)
            if ticket.engine != SPECIAL:
                cells[ticket.engine].count += 1
                cells[ticket.engine].lent -= 1

        for event in events:
            match event:
                case ("ask", int(who), str(engine), float(cost)):
                    ask(who, engine, cost)
                case ("end", int(which)) if running:
                    ticket = running[which % len(running)]
                    take(ticket)
                    admission.end(ticket, costs[ticket])
                case ("unused", int(which)) if running:
                    ticket = running[which % len(running)]
                    take(ticket)
                    admission.return_unused(ticket)
                case ("leave", int(which)) if waiting:
                    admission.leave(waiting[which % len(waiting)])
                case ("close", int(who)):
                    for ticket in waiting:
                        if ticket.room is readers[who]:
                            admission.leave(ticket)
                    admission.forget(numbers[who])
                    numbers[who] += 6
                case ("cells", str(engine), int(count)):
                    cells[engine].count = count
                    admission.select()
                case ("reads", int(who), bool(reads)):
                    if reads:
                        readers[who].read()
                    else:
                        readers[who].reads = False
            await wait_all_tasks_blocked()
            waiting = [ticket for ticket in waiting if ticket.waits]
            assert admission.running == len(running)
            assert admission.free == concurrent - len(running)
            assert admission.queued == len(waiting)
            heads: dict[object, Ticket] = {}
            for ticket in waiting:
                heads.setdefault(ticket.path, ticket)
            eligible = [
                ticket
                for ticket in heads.values()
                if ticket.room.has_room()
                and (
                    ticket.engine == SPECIAL
                    or (cells[ticket.engine].can_lend() and not (reserved and cells[ticket.engine].is_last()))
                )
            ]
            assert not eligible or admission.free <= reserved
        for reader in readers:
            reader.read()
        for each in cells.values():
            each.count = max(each.count, 2)
        admission.select()
        while running:
            ticket = running[0]
            take(ticket)
            admission.end(ticket, costs[ticket])
        assert (admission.running, admission.queued, admission.free) == (0, 0, concurrent)

    trio.run(main)


# --- bound 2: siblings with a backlog get equal CPU time --------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(
    first_ms=st.sampled_from([0.5, 1.0, 5.0, 20.0, 50.0]),
    second_ms=st.sampled_from([1.0, 10.0, 50.0]),
    connections=st.integers(1, 30),
    level=st.sampled_from(["user", "process", "connection"]),
)
def test_siblings_with_a_backlog_differ_by_a_few_runs(
    first_ms: float, second_ms: float, connections: int, level: str
) -> None:
    """Over any interval, their CPU times differ by at most (D+1)(ci+cj), for any number of connections."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            simulation = Simulation(nursery)
            served = {"first": 0.0, "second": 0.0}

            def keep(name: str, number: int, pid: int, cpu_ms: float) -> None:
                uid = 1 if level != "user" or name == "first" else 2
                own_pid = pid if level == "user" or name == "first" else 1000
                if level == "connection":
                    own_pid = 1

                def again() -> None:
                    served[name] += cpu_ms
                    keep(name, number, pid, cpu_ms)

                simulation.run(client(number, uid=uid, pid=own_pid), cpu_ms, again)

            for _ in range(8):
                keep("first", 1, 1, first_ms)
            many = 1 if level == "connection" else connections
            for index in range(many):
                for _ in range(8 if many == 1 else 2):
                    keep("second", 2 + index, 2 + index if level == "user" else 1000, second_ms)
            await trio.sleep(1.0)  # until the estimates have settled
            gaps = []
            for _ in range(20):
                gaps.append(served["first"] - served["second"])
                await trio.sleep(0.1)
            assert max(gaps) - min(gaps) <= (_SLOTS + 1) * (first_ms + second_ms) + 1e-6
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@within_a_minute
async def test_new_connections_and_processes_do_not_increase_a_users_share(clock: MockClock) -> None:
    """A user who starts each run from a new process has the same share as one with a single connection."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        number = 1000

        def from_a_new_process() -> None:
            nonlocal number
            number += 1
            mine = number

            def again() -> None:
                simulation.admission.forget(mine)
                from_a_new_process()

            simulation.run(client(mine, uid=2, pid=mine), _BOMB_MS, again)

        for _ in range(64):
            from_a_new_process()
        for _ in range(8):
            simulation.keep_running(client(1, uid=1), _BOMB_MS)
        await trio.sleep(20)
        assert simulation.served_ms[1] == pytest.approx(simulation.served_ms[2], abs=(_SLOTS + 1) * 2 * _BOMB_MS)
        nursery.cancel_scope.cancel()


# --- long runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 8, 64])
@within_a_minute
async def test_sleeping_runs_of_a_process_do_not_block_a_new_client(clock: MockClock, connections: int) -> None:
    """Runs of one process that sleep for 30 s do not keep their slots: a new client's runs start within LONG_S."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        nursery.start_soon(simulation.admission.serve, 60.0)
        for number in range(connections):
            for _ in range(8):
                simulation.keep_running(client(100 + number, pid=2), _SHORT_MS, sleeps_s=30.0)
        await trio.sleep(0.05)
        waits = await simulation.run_every(client(1), 20.0, 0.05, 200)
        assert waits[-1] <= 1.5 * LONG_S * 1000
        assert _p99(waits[:-1]) <= 1
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_sleeping_runs_of_a_user_do_not_block_another_user(clock: MockClock) -> None:
    """However many processes of a user have sleeping runs, a new client of another user starts runs within LONG_S."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        nursery.start_soon(simulation.admission.serve, 60.0)
        for pid in range(2, 12):
            for _ in range(8):
                simulation.keep_running(client(100 + pid, uid=2000, pid=pid), _SHORT_MS, sleeps_s=30.0)
        await trio.sleep(0.05)
        waits = await simulation.run_every(client(1), 20.0, 0.05, 200)
        assert waits[-1] <= 2 * LONG_S * 1000
        assert waits[-10] <= 1
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_sleeping_runs_of_a_user_do_not_delay_its_light_clients(clock: MockClock) -> None:
    """If a user has the maximum of long runs, its other clients are held back, but a light one hardly waits."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        nursery.start_soon(simulation.admission.serve, 60.0)
        await simulation.run_every(client(1), _SHORT_MS, 0.005, 3)
        for pid in range(2, 8):
            for _ in range(8):
                simulation.keep_running(client(100 + pid, pid=pid), 5.0, sleeps_s=7.0)
        await trio.sleep(0.5)
        waits = await simulation.run_every(client(1), _SHORT_MS, 0.005, 1000)
        assert waits[-1] <= 2 * LIGHT_MS
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_a_client_with_long_runs_has_one_slot(clock: MockClock) -> None:
    """The client may have long runs for half of the slots; its other runs start one at a time, and all end."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        admission = simulation.admission
        nursery.start_soon(admission.serve, 60.0)
        for number in range(3):
            simulation.run(client(number), _SHORT_MS, sleeps_s=10.0)
        for number in range(40):
            simulation.run(client(100 + number % 9), 50.0)
        await trio.sleep(1.0)
        assert (admission.free, admission.running) == (3, 3)
        assert not simulation.run(client(500, pid=2), _SHORT_MS).waits
        await trio.sleep(8.0)
        assert (admission.free, admission.running) == (3, 3)
        await trio.sleep(10.0)
        assert (admission.free, admission.running, admission.queued) == (4, 0, 0)
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_all_slots_return_from_long_runs(clock: MockClock) -> None:
    """With short, long and cancelled runs of many clients, all others end, and no slot is lost."""
    random = Random(7)
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        nursery.start_soon(simulation.admission.serve, 600.0)
        for _ in range(800):
            who = client(random.randrange(20), uid=random.randrange(2), pid=random.randrange(4))
            ticket = simulation.run(who, random.choice([1.0, 20.0]), sleeps_s=random.choice([0.0, 0.0, 0.0, 0.3]))
            if random.random() < 0.2:
                simulation.admission.leave(ticket)
            assert simulation.admission.running <= 2 * _SLOTS
            await trio.sleep(random.choice([0.0, 0.01, 0.03]))
        await trio.sleep(40)
        admission = simulation.admission
        assert (admission.free, admission.running, admission.queued) == (_SLOTS, 0, 0)
        nursery.cancel_scope.cancel()


# --- bound 3: a light client waits for at most one reserved run
# --------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 250, *(pytest.param(n, marks=pytest.mark.long) for n in (8, 64))])
@pytest.mark.parametrize("uid", [1000, 2000])
@within_a_minute
async def test_a_light_client_hardly_waits_beside_endless_loops(clock: MockClock, connections: int, uid: int) -> None:
    """A light client's wait is short, however many connections another process has, of the same user or another."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        await simulation.run_every(client(1), _SHORT_MS, 0.005, 3)
        for number in range(connections):
            for _ in range(8 if connections == 1 else 1):
                simulation.keep_running(client(100 + number, uid=uid, pid=2), _BOMB_MS)
        waits = await simulation.run_every(client(1), _SHORT_MS, 0.005, 2000)
        assert waits[-1] <= LIGHT_MS
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_a_new_client_gets_its_share_beside_endless_loops(clock: MockClock) -> None:
    """A new client waits for a few loops at most, and for none once it counts as light."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        for number in range(64):
            simulation.keep_running(client(100 + number, pid=2), _BOMB_MS)
        await trio.sleep(1)
        waits = await simulation.run_every(client(1), _SHORT_MS, 0.05, 100)
        assert waits[-1] <= 2 * (_SLOTS + 1) * _BOMB_MS
        assert _p99(waits[:-1]) <= LIGHT_MS
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_the_reserved_slot_is_only_for_light_clients(clock: MockClock) -> None:
    """Only a light client's run takes the last free slot.

    Runs of a new client, of one with long runs, of one with a run in progress, or with more than the default limits,
    wait.
    """
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        light, greedy, busy, heavy, new = (client(number, pid=number) for number in range(1, 6))
        for _ in range(3):
            for each in (light, greedy, busy):
                simulation.run(each, _SHORT_MS)
                await trio.sleep(0.01)
            simulation.run(heavy, 20.0)
            await trio.sleep(0.1)
        simulation.run(busy, 1000.0)
        simulation.run(client(10, pid=10), 1000.0)
        simulation.run(client(11, pid=11), 1000.0)
        assert simulation.admission.free == 1
        assert simulation.run(new, _SHORT_MS).waits
        assert simulation.run(heavy, _SHORT_MS).waits
        assert simulation.run(busy, _SHORT_MS).waits
        assert simulation.run(greedy, _SHORT_MS, ordinary=False).waits
        assert not simulation.run(light, _SHORT_MS).waits
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_a_user_with_long_runs_gets_no_reserved_slot_while_others_wait(clock: MockClock) -> None:
    """A light process of a user with long runs gets no reserved slot while another user waits."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        light_of_heavy = client(1, uid=1, pid=1)
        for _ in range(5):
            simulation.run(light_of_heavy, _SHORT_MS)
            await trio.sleep(0.01)
        for number in range(8):
            simulation.keep_running(client(10 + number, uid=1, pid=2), _BOMB_MS)
        await trio.sleep(1)
        assert not simulation.run(light_of_heavy, _SHORT_MS).waits
        await trio.sleep(0.01)
        for number in range(8):
            simulation.keep_running(client(50 + number, uid=2, pid=3), _BOMB_MS)
        await trio.sleep(1)
        assert simulation.run(light_of_heavy, _SHORT_MS).waits
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_processes_that_pretend_to_be_light_delay_only_their_own_user(clock: MockClock) -> None:
    """Processes that become light with a cheap run and then loop delay only clients of their own user."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        victim, other = client(1, uid=1, pid=1), client(2, uid=2, pid=2)
        await simulation.run_every(victim, _SHORT_MS, 0.005, 3)
        await simulation.run_every(other, _SHORT_MS, 0.005, 3)
        number = 1000

        def from_a_new_process() -> None:
            nonlocal number
            number += 1
            mine = client(number, uid=1, pid=number)

            def left() -> None:
                simulation.admission.forget(mine.connection)
                from_a_new_process()

            def loop() -> None:
                simulation.run(mine, _BOMB_MS, left)

            simulation.run(mine, _SHORT_MS, loop)

        for _ in range(64):
            from_a_new_process()
        waits: list[float] = []
        async with trio.open_nursery() as both:

            async def note(principal_waits: list[float]) -> None:
                principal_waits += await simulation.run_every(victim, _SHORT_MS, 0.005, 2000)

            both.start_soon(note, waits)
            of_other = await simulation.run_every(other, _SHORT_MS, 0.005, 2000)
        assert _p99(waits) > 2 * LIGHT_MS
        assert _p99(of_other) <= LIGHT_MS + _BOMB_MS
        nursery.cancel_scope.cancel()


# --- cells and readers ------------------------------------------------------------------------------------------------


@within_a_minute
async def test_an_engine_without_a_ready_cell_does_not_block_another_engine(clock: MockClock) -> None:
    """Runs that wait for a cell hold no slot, and start when a cell is ready."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        simulation.deno.count = 0
        on_deno = [simulation.run(client(number), _BOMB_MS, engine="deno") for number in range(10)]
        assert all(ticket.waits for ticket in on_deno)
        assert not simulation.run(client(100), _SHORT_MS).waits
        simulation.deno.count = 2
        simulation.admission.select()
        assert not all(ticket.waits for ticket in on_deno)
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_the_last_ready_cell_is_reserved_for_light_clients(clock: MockClock) -> None:
    """The last ready cell is reserved while others are lent. A pool's only cell is for all clients."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery, concurrent=8)
        light = client(1)
        await simulation.run_every(light, _SHORT_MS, 0.01, 3)
        simulation.quickjs.count, simulation.quickjs.lent = 1, 3
        assert simulation.run(client(2, pid=2), _BOMB_MS).waits
        assert not simulation.run(light, _SHORT_MS).waits
        await trio.sleep(1)
        simulation.quickjs.lent = 0
        assert not simulation.run(client(3, pid=3), _BOMB_MS).waits
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_a_client_that_does_not_read_gets_no_slot(clock: MockClock) -> None:
    """Runs of a client that does not read wait, and others do not; when it reads, its runs start in order."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery, concurrent=1)
        reader = _Reader()
        reader.reads = False
        first = simulation.run(client(1), _SHORT_MS, room=reader)
        second = simulation.run(client(1), _SHORT_MS, room=reader)
        assert not simulation.run(client(2, pid=2), _SHORT_MS).waits
        await trio.sleep(1)
        assert (first.waits, second.waits, simulation.admission.running) == (True, True, 0)
        reader.read()
        assert (first.waits, second.waits) == (False, True)
        await trio.sleep(1)
        assert simulation.admission.queued == 0
        nursery.cancel_scope.cancel()


# --- remembered usage -------------------------------------------------------------------------------------------------


@within_a_minute
async def test_a_process_keeps_its_usage_across_connections(clock: MockClock) -> None:
    """CPU time used on earlier connections counts against a process that opens one for each run."""
    async with trio.open_nursery() as nursery:
        simulation = Simulation(nursery)
        number = 100

        def on_a_new_connection() -> None:
            nonlocal number
            number += 1
            mine = number

            def again() -> None:
                simulation.admission.forget(mine)
                on_a_new_connection()

            simulation.run(client(mine, pid=2), _BOMB_MS, again)

        for _ in range(64):
            on_a_new_connection()
        for _ in range(8):
            simulation.keep_running(client(1, pid=1), _BOMB_MS)
        await trio.sleep(20)
        mine = len(simulation.waits_ms[1])
        others = sum(len(waits) for connection, waits in simulation.waits_ms.items() if connection != 1)
        assert mine == pytest.approx(others, abs=2 * (_SLOTS + 1))
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_the_number_of_remembered_processes_is_bounded() -> None:
    """After 10,000 processes have disconnected, at most 4,096 of them are remembered, and no closed connection."""
    admission = Admission(concurrent=4, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    granted: list[Ticket | RequestError] = []
    for number in range(10_000):
        admission.ask(client(number, pid=number), "quickjs", granted.append)
        ticket = granted.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, _BOMB_MS)
        admission.forget(number)
    assert 1000 < admission.remembered <= 4096 + 1


@within_a_minute
async def test_the_number_of_remembered_tenants_is_bounded() -> None:
    """After 10,000 tenants on one connection, at most 4,096 of them are remembered, each with a process."""
    admission = Admission(concurrent=4, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    granted: list[Ticket | RequestError] = []
    for number in range(10_000):
        admission.ask(client(1, tenant=str(number)), "quickjs", granted.append)
        ticket = granted.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, _BOMB_MS)
    assert 1000 < admission.remembered <= 1 + 3 * (4096 + 1)
    admission.forget(1)
    assert admission.remembered <= 1 + 2 * 4096


@within_a_minute
async def test_tenants_of_many_connections_share_one_bound() -> None:
    """Tenants that used no more than others are remembered only for a while, with one bound for all connections."""
    admission = Admission(concurrent=4, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    granted: list[Ticket | RequestError] = []
    for number in range(10_000):
        admission.ask(client(number % 10, tenant=str(number)), "quickjs", granted.append)
        ticket = granted.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, 0.0)
    assert admission.remembered <= 1 + 3 * 512
    for number in range(10):
        admission.forget(number)
    assert admission.remembered == 0


@within_a_minute
async def test_a_process_without_extra_usage_is_forgotten() -> None:
    """A process that is not ahead of its parent's clock is forgotten, because a new one would be served the same."""
    admission = Admission(concurrent=4, queue=10, queue_bytes=1000, cells={"quickjs": Cells()})
    granted: list[Ticket | RequestError] = []
    for number in range(3):
        admission.ask(client(number, pid=1), "quickjs", granted.append)
        ticket = granted.pop()
        assert isinstance(ticket, Ticket)
        admission.end(ticket, 0.0)
        admission.forget(number)
    assert admission.remembered == 0
