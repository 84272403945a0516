"""The state machine of a run, compared with the table in these tests: every state, event and message."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.protocol.events import (
    LAST,
    Call,
    Checked,
    Log,
    Maybe,
    Message,
    NoJson,
    OutOfMemory,
    Refused,
    Thrown,
    TooLarge,
    Trusted,
    Value,
    Wait,
)
from sandbox.protocol.machine import IllegalEvent, Machine, State

_TABLE = """
    STARTING  READY > BLANK
    STARTING  ENDED LOST > GONE

    BLANK     LIMITS > STARTING
    BLANK     JOB > SENDING
    BLANK     ENDED LOST > GONE
    BLANK     log call wait maybe last > GONE

    SENDING   SENT > RUNNING
    SENDING   CPU WALL CANCEL MALFORMED CALLS > ENDING
    SENDING   ENDED LOST > GONE
    SENDING   log call wait maybe last > ENDING

    RUNNING   log maybe call > RUNNING
    RUNNING   ANSWER > RUNNING
    RUNNING   last > SAID
    RUNNING   wait > WAITING
    RUNNING   CPU WALL CANCEL MALFORMED CALLS > ENDING
    RUNNING   ENDED LOST > GONE

    WAITING   ANSWER WAKE > RUNNING
    WAITING   CPU WALL CANCEL MALFORMED CALLS > ENDING
    WAITING   ENDED LOST > GONE
    WAITING   log call wait maybe last > ENDING

    SAID      CPU WALL CANCEL MALFORMED CALLS > ENDING
    SAID      ENDED LOST > GONE
    SAID      log call wait maybe last > SAID

    ENDING    CPU WALL CANCEL MALFORMED CALLS > ENDING
    ENDING    ENDED LOST > GONE
    ENDING    log call wait maybe last > ENDING

    STARTING  log call wait maybe last > GONE
    GONE      log call wait maybe last > GONE
"""
"""State, events (in capitals) and messages, next state. A trusted event that is not listed is illegal.

A `wait` is for an answer that is still to come. A `call` has the next number, and is granted.
"""


def _read_table() -> dict[tuple[State, str], State]:
    found: dict[tuple[State, str], State] = {}
    for row in filter(str.strip, _TABLE.splitlines()):
        before, _, after = row.partition(">")
        state, *happened = before.split()
        for name in happened:
            assert (State[state], name) not in found
            found[State[state], name] = State[after.strip()]
    return found


_NEXT = _read_table()

_REFUSED = Refused(module=False, message=b"m", stack=b"")
_MESSAGES: tuple[Message, ...] = (
    Log(level=1, mapping=0, text=b"x"),
    Call(number=1, name=b"f", arguments=b"[]"),
    Wait(answers_seen=0, wake_ms=None),
    Maybe(last=_REFUSED),
    Value(json=b"2"),
    TooLarge(size=9),
    NoJson(message=b"m"),
    Thrown(name=b"E", message=b"m", stack=b""),
    OutOfMemory(),
    _REFUSED,
    Checked(module=True, code=None),
)
_VALUE = Value(json=b"1")


def _word(message: Message) -> str:
    return "last" if isinstance(message, LAST) else type(message).__name__.lower()


def _running(calls: int = 1, granted: int = 2) -> Machine:
    """Return a machine whose program runs, and has made this number of calls."""
    machine = Machine(State.STARTING, calls_granted=granted)
    for event in (Trusted.READY, Trusted.JOB, Trusted.SENT):
        machine.happen(event)
    for number in range(calls):
        assert machine.receive(Call(number=number, name=b"f", arguments=b"[]")) is State.RUNNING
    return machine


def _machine_in(state: State) -> Machine:
    """Return a machine in this state, reached by legal events. If a program runs, one call waits for its answer."""
    machine = Machine(State.STARTING, calls_granted=2)
    way = {State.STARTING: 0, State.BLANK: 1, State.SENDING: 2}
    if state in way:
        for event in (Trusted.READY, Trusted.JOB)[: way[state]]:
            machine.happen(event)
    else:
        machine = _running()
        match state:
            case State.WAITING:
                machine.receive(Wait(answers_seen=0, wake_ms=None))
            case State.SAID:
                machine.receive(_VALUE)
            case State.ENDING:
                machine.happen(Trusted.WALL)
            case State.GONE:
                machine.happen(Trusted.ENDED)
    assert machine.state is state
    return machine


def _all(machine: Machine) -> tuple[State, Trusted | None, object, object]:
    return machine.state, machine.cause, machine.last, machine.maybe


@pytest.mark.parametrize("event", Trusted)
@pytest.mark.parametrize("state", State)
def test_every_event_in_every_state(state: State, event: Trusted) -> None:
    """A trusted event leads to the state in the table; an event without an entry is illegal and changes nothing."""
    machine = _machine_in(state)
    expected, before = _NEXT.get((state, event.name)), _all(machine)
    if expected is not None:
        assert machine.happen(event) is expected
        assert machine.state is expected
        return
    with pytest.raises(IllegalEvent, match=rf"{state.name.lower()}.*{event.name}") as raised:
        machine.happen(event)
    assert (raised.value.state, raised.value.event) == (state, event)
    assert _all(machine) == before


@pytest.mark.parametrize("message", _MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("state", State)
def test_every_message_in_every_state(state: State, message: Message) -> None:
    """A message leads to the state in the table, never to an exception. Only messages of a running program count."""
    machine = _machine_in(state)
    before, expected = _all(machine), _NEXT[state, _word(message)]
    assert machine.receive(message) is expected
    assert machine.state is expected
    if state is State.RUNNING:
        assert machine.last == (message if isinstance(message, LAST) else None)
        assert machine.maybe == (message.last if isinstance(message, Maybe) else None)
    else:
        assert (machine.last, machine.maybe) == before[2:]
    ended_by_it = expected is State.ENDING and state is not State.ENDING
    assert machine.cause is (Trusted.MALFORMED if ended_by_it else before[1])


def test_all_message_types_are_covered() -> None:
    """These tests use one message of each type that exists."""
    assert [type(message) for message in _MESSAGES] == list(get_args(Message))


def test_a_machine_begins_blank() -> None:
    """Without another state, a machine is blank: the process waits for its job, and no evidence exists."""
    assert _all(Machine()) == (State.BLANK, None, None, None)


_STOPS = (Trusted.CPU, Trusted.WALL, Trusted.CANCEL, Trusted.MALFORMED, Trusted.CALLS)


@pytest.mark.parametrize("first", _STOPS)
@pytest.mark.parametrize("state", [State.SENDING, State.RUNNING, State.WAITING, State.SAID])
def test_the_first_cause_is_kept(state: State, first: Trusted) -> None:
    """Later causes, messages and the end of the process do not change the reason for which a run was stopped."""
    machine = _machine_in(state)
    last = machine.last
    machine.happen(first)
    for later in (*_STOPS, Trusted.ENDED):
        for message in _MESSAGES:
            machine.receive(message)
        machine.happen(later)
    assert (machine.state, machine.cause, machine.last) == (State.GONE, first, last)


@pytest.mark.parametrize("how", [Trusted.ENDED, Trusted.LOST])
@pytest.mark.parametrize("state", [State.SENDING, State.RUNNING, State.WAITING, State.SAID])
def test_a_normal_exit_has_no_cause(state: State, how: Trusted) -> None:
    """A process that exits by itself leaves no cause."""
    machine = _machine_in(state)
    machine.happen(how)
    assert machine.cause is None


def test_calls_come_in_order() -> None:
    """Calls count from 0; a repeated, skipped or extra number ends the run."""
    for number in (0, 2, 3, 0xFFFFFFFF):
        machine = _running(calls=1, granted=10)
        assert machine.receive(Call(number=number, name=b"f", arguments=b"[]")) is State.ENDING
        assert machine.cause is Trusted.MALFORMED
    assert _running(calls=10, granted=10).state is State.RUNNING


@pytest.mark.parametrize("granted", [0, 1, 3])
def test_the_number_of_calls_is_limited(granted: int) -> None:
    """A run may make as many calls as it was granted, and one more ends it. Answers do not grant further calls."""
    machine = _running(calls=granted, granted=granted)
    for _ in range(granted):
        machine.happen(Trusted.ANSWER)
    assert machine.receive(Call(number=granted, name=b"f", arguments=b"[]")) is State.ENDING
    assert machine.cause is Trusted.CALLS


def test_a_call_with_a_wrong_number_is_malformed() -> None:
    """A call with a wrong number is malformed, whether or not another call is granted."""
    machine = _running(calls=1, granted=1)
    machine.receive(Call(number=5, name=b"f", arguments=b"[]"))
    assert machine.cause is Trusted.MALFORMED


@pytest.mark.parametrize(
    ("calls", "answers", "seen", "wake_ms", "state"),
    [
        (1, 0, 0, None, State.WAITING),
        (2, 1, 1, None, State.WAITING),
        (0, 0, 0, 0, State.WAITING),
        (2, 2, 2, 5, State.WAITING),
        (1, 1, 0, None, State.RUNNING),  # an answer is on its way
        (3, 2, 1, 7, State.RUNNING),
        (1, 1, 0, 7, State.RUNNING),
        (0, 0, 0, None, State.ENDING),  # nothing can wake the program
        (2, 2, 2, None, State.ENDING),
        (1, 0, 1, None, State.ENDING),  # this answer was not sent
        (1, 1, 2, 7, State.ENDING),
        (0, 0, 0xFFFFFFFF, 7, State.ENDING),
    ],
)
def test_a_program_may_wait_only_for_something(
    calls: int, answers: int, seen: int, wake_ms: int | None, state: State
) -> None:
    """A program may wait if it has seen all answers and something can wake it; a false claim ends the run."""
    machine = _running(calls=calls, granted=5)
    for _ in range(answers):
        machine.happen(Trusted.ANSWER)
    assert machine.receive(Wait(answers_seen=seen, wake_ms=wake_ms)) is state
    assert machine.cause is (Trusted.MALFORMED if state is State.ENDING else None)


def test_a_program_can_wait_repeatedly() -> None:
    """A timer wakes a program and leaves its calls unanswered; each answer wakes it; then it runs to its end."""
    machine = _running(calls=2, granted=2)
    assert machine.receive(Wait(answers_seen=0, wake_ms=5)) is State.WAITING
    assert machine.happen(Trusted.WAKE) is State.RUNNING
    for seen in (0, 1):
        assert machine.receive(Wait(answers_seen=seen, wake_ms=None)) is State.WAITING
        assert machine.happen(Trusted.ANSWER) is State.RUNNING
    assert machine.receive(_VALUE) is State.SAID
    assert machine.happen(Trusted.ENDED) is State.GONE
    assert (machine.cause, machine.last) == (None, _VALUE)


def test_the_provisional_outcome_can_be_withdrawn() -> None:
    """The last provisional outcome counts, and an empty one withdraws it."""
    machine = _running()
    other = Refused(module=True, message=b"other", stack=b"")
    for last in (_REFUSED, other, None, other):
        assert machine.receive(Maybe(last=last)) is State.RUNNING
        assert machine.maybe == last
    machine.receive(_VALUE)
    assert (machine.maybe, machine.last) == (other, _VALUE)


_STEPS = st.one_of(
    st.sampled_from(Trusted),
    st.sampled_from(_MESSAGES),
    st.builds(Call, number=st.integers(0, 3), name=st.just(b""), arguments=st.just(b"")),
    st.builds(Wait, answers_seen=st.integers(0, 3), wake_ms=st.none() | st.just(1)),
)
_WAY = (Trusted.READY, Trusted.JOB, Trusted.SENT)


@given(st.integers(0, 3), st.lists(_STEPS, max_size=30))
def test_any_walk_follows_the_table(skip: int, steps: list[Trusted | Message]) -> None:
    """For any sequence of events, the machine follows the table, and an exit leads to GONE, which is final."""
    machine = Machine(State.STARTING, calls_granted=2)
    calls = answers = 0
    for step in (*_WAY[:skip], *steps):
        state, before = machine.state, _all(machine)
        if isinstance(step, Trusted):
            expected = _NEXT.get((state, step.name))
            if expected is None:
                with pytest.raises(IllegalEvent):
                    machine.happen(step)
                assert _all(machine) == before
            elif step is not Trusted.ANSWER or answers < calls:
                assert machine.happen(step) is expected
                answers += step is Trusted.ANSWER
            continue
        expected = _NEXT[state, _word(step)]
        if state is State.RUNNING:
            match step:
                case Call(number=number) if number == calls and calls < 2:
                    calls += 1
                case Call():
                    expected = State.ENDING
                case Wait(answers_seen=seen, wake_ms=wake_ms):
                    if seen > answers or (seen == answers and wake_ms is None and calls == answers):
                        expected = State.ENDING
                    elif seen < answers:
                        expected = State.RUNNING
        assert machine.receive(step) is expected
        if before[1] is not None:
            assert machine.cause is before[1]
        if before[2] is not None:
            assert machine.last is before[2]
        assert (machine.last is None) or machine.state in (State.SAID, State.ENDING, State.GONE)
    if machine.state is not State.GONE:
        assert machine.happen(Trusted.ENDED) is State.GONE
    for event in Trusted:
        with pytest.raises(IllegalEvent):
            machine.happen(event)
    for message in _MESSAGES:
        assert machine.receive(message) is State.GONE


@given(st.lists(st.sampled_from(Trusted), max_size=30))
def test_ending_leads_only_to_gone(events: list[Trusted]) -> None:
    """From ENDING, no event leads back to a state in which the program could continue."""
    machine = _machine_in(State.ENDING)
    for event in events:
        try:
            machine.happen(event)
        except IllegalEvent:
            pass
        assert machine.state in (State.ENDING, State.GONE)
    assert machine.cause is Trusted.WALL
