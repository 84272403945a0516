"""The state machine of one process and its run: takes an event, returns the new state.

    starting --READY--> blank --JOB--> sending --SENT--> running --last message--> said --ENDED--> gone
                                          |       Wait |   ^ ANSWER, WAKE           |
                                          |            v   |                        |
                                          |          waiting                        |
                                          +--- CPU, WALL, CANCEL, MALFORMED, CALLS, or a message that is not legal
                                               in this state --> ending --ENDED or LOST--> gone

Calls, answers and waits are for host functions, which no engine supports yet.

A trusted event that is not legal in a state is an error of the daemon: it raises IllegalEvent and changes nothing. A
message of the process is hostile and never raises: at worst it ends the run.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import cast

from sandbox.protocol.events import LAST, Call, Last, Log, Maybe, Message, Refused, Trusted, Wait


class State(Enum):
    """The state of a process and its run."""

    __hash__ = object.__hash__  # that of Enum is in Python, and each run looks up several states

    STARTING = auto()
    """The process does not wait for a job yet."""
    BLANK = auto()
    """The process waits for a job."""
    SENDING = auto()
    """A part of the job is not sent yet."""
    RUNNING = auto()
    """The program runs."""
    WAITING = auto()
    """The process reports that the program waits for an answer or a timer."""
    SAID = auto()
    """The process has sent its last message. The kernel's report is pending."""
    ENDING = auto()
    """The process must end, for the first cause."""
    GONE = auto()
    """The process has ended. No event is legal."""


class IllegalEvent(Exception):
    """The event is not legal in this state. The state has not changed."""

    def __init__(self, state: State, event: Trusted) -> None:
        super().__init__(f"a run that is {state.name.lower()} can't take {event.name}")
        self.state = state
        self.event = event


_STARTING, _BLANK, _SENDING, _RUNNING = State.STARTING, State.BLANK, State.SENDING, State.RUNNING
_WAITING, _SAID, _ENDING, _GONE = State.WAITING, State.SAID, State.ENDING, State.GONE

_Events = dict[Trusted | type, State]
_STOPS: _Events = dict.fromkeys((Trusted.CPU, Trusted.WALL, Trusted.CANCEL, Trusted.MALFORMED, Trusted.CALLS), _ENDING)
_OVER: _Events = {Trusted.ENDED: _GONE, Trusted.LOST: _GONE}

TRANSITIONS: dict[State, _Events] = {
    _STARTING: {Trusted.READY: _BLANK, **_OVER},
    _BLANK: {Trusted.LIMITS: _STARTING, Trusted.JOB: _SENDING, **_OVER},
    _SENDING: {Trusted.SENT: _RUNNING, **_STOPS, **_OVER},
    _RUNNING: {
        Log: _RUNNING,
        Maybe: _RUNNING,
        Call: _RUNNING,  # or ending: see `_called`
        Wait: _WAITING,  # or running, or ending: see `_waits`
        **dict.fromkeys(LAST, _SAID),
        Trusted.ANSWER: _RUNNING,
        **_STOPS,
        **_OVER,
    },
    _WAITING: {Trusted.ANSWER: _RUNNING, Trusted.WAKE: _RUNNING, **_STOPS, **_OVER},
    _SAID: {**_STOPS, **_OVER},
    _ENDING: {**_STOPS, **_OVER},
    _GONE: {},
}
"""State -> event -> next state."""

OUT_OF_PLACE: dict[State, State] = {
    _STARTING: _GONE,
    _BLANK: _GONE,
    _SENDING: _ENDING,
    _RUNNING: _ENDING,
    _WAITING: _ENDING,
    _SAID: _SAID,
    _ENDING: _ENDING,
    _GONE: _GONE,
}
"""State -> next state, for messages that TRANSITIONS does not list. A blank cell is lost; a run ends as crashed;
messages after the last one, and messages of a process that must end, are ignored."""


class Machine:
    """The state of one process and its run."""

    __slots__ = ("_answers_sent", "_calls", "_calls_granted", "cause", "last", "maybe", "state")

    def __init__(self, state: State = State.BLANK, *, calls_granted: int = 0) -> None:
        """`calls_granted`: maximum number of calls of host functions."""
        self.state = state
        self.cause: Trusted | None = None
        """The first event that stopped the run, if one did."""
        self.last: Last | None = None
        """The last message, once the process has sent it."""
        self.maybe: Refused | None = None
        """The provisional outcome, used if the process ends without a last message."""
        self._calls = 0
        self._calls_granted = calls_granted
        self._answers_sent = 0

    def happen(self, event: Trusted) -> State:
        """Apply a trusted event, and return the new state. Raises IllegalEvent."""
        state = TRANSITIONS[self.state].get(event)
        if state is None:
            raise IllegalEvent(self.state, event)
        if state is _ENDING:
            return self._end(event)
        if event is Trusted.ANSWER:
            self._answers_sent += 1
        self.state = state
        return state

    def receive(self, message: Message) -> State:
        """Apply a message of the process, and return the new state. At worst the message ends the run."""
        state = TRANSITIONS[self.state].get(type(message))
        if state is None:
            state = OUT_OF_PLACE[self.state]
            if state is _ENDING:
                return self._end(Trusted.MALFORMED)
        elif state is _SAID:
            self.last = cast(Last, message)  # TRANSITIONS leads to SAID for the messages of LAST only
        elif isinstance(message, Maybe):
            self.maybe = message.last
        elif isinstance(message, Call):
            return self._called(message)
        elif isinstance(message, Wait):
            return self._waits(message)
        self.state = state
        return state

    def _end(self, cause: Trusted) -> State:
        """End the run. Only the first cause is kept."""
        self.cause = self.cause or cause
        self.state = _ENDING
        return _ENDING

    def _called(self, call: Call) -> State:
        """Apply a call. Calls must be in order, and no more than granted."""
        if call.number != self._calls:
            return self._end(Trusted.MALFORMED)
        if self._calls >= self._calls_granted:
            return self._end(Trusted.CALLS)
        self._calls += 1
        return self.state

    def _waits(self, wait: Wait) -> State:
        """Apply a wait. The program may wait if something can wake it. If an answer is in transit, it will continue."""
        if wait.answers_seen > self._answers_sent:
            return self._end(Trusted.MALFORMED)
        if wait.answers_seen == self._answers_sent:
            if wait.wake_ms is None and self._calls == self._answers_sent:
                return self._end(Trusted.MALFORMED)
            self.state = _WAITING
        return self.state
