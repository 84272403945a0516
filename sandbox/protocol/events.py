"""What happens in a run: the messages of the process, and trusted events.

A message of the process is hostile. It counts only as what the program could say about itself. Trusted events come from
the kernel and from the daemon.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import get_args

import msgspec


class _Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    pass


class Log(_Message, frozen=True, kw_only=True, gc=False):
    """One console line."""

    level: int
    """0 debug, 1 log, 2 info, 3 warn, 4 error."""
    mapping: int
    """How stacks in the line count lines: the engine's own number, 0 where it has one way only."""
    text: bytes
    """Cut to LINE_TEXT_BYTES + 1 (`frames`): the extra byte shows that the line was longer."""


class Call(_Message, frozen=True, kw_only=True, gc=False):
    """A call of a host function. Calls count from 0."""

    number: int
    name: bytes
    arguments: bytes
    """A JSON array."""


class Wait(_Message, frozen=True, kw_only=True, gc=False):
    """The program waits for an answer or for a timer."""

    answers_seen: int
    wake_ms: int | None
    """When the next timer is due; None without a timer."""


class Value(_Message, frozen=True, kw_only=True, gc=False):
    """The run's result, as JSON."""

    json: bytes | memoryview
    """A view if it is large."""


class TooLarge(_Message, frozen=True, kw_only=True, gc=False):
    """The result is larger than its limit."""

    size: int
    """In bytes, or in UTF-16 code units if the process says so: it counts these."""


class NoJson(_Message, frozen=True, kw_only=True, gc=False):
    """There is no result, or it is not JSON."""

    message: bytes


class Thrown(_Message, frozen=True, kw_only=True, gc=False):
    """The program threw an exception."""

    name: bytes
    message: bytes
    stack: bytes


class OutOfMemory(_Message, frozen=True, kw_only=True, gc=False):
    """The kernel refused memory to the process, and the program could not go on."""


class Refused(_Message, frozen=True, kw_only=True, gc=False):
    """The source is not a program."""

    module: bool
    """Whether the error is about the source as a module."""
    message: bytes
    stack: bytes
    """Has the error's place, in the engine's own notation."""


class Checked(_Message, frozen=True, kw_only=True, gc=False):
    """The source is a program."""

    module: bool
    """Whether it is a module. Otherwise it is a body."""
    code: bytes | memoryview | None
    """What the engine made of the program, for its runs: the text of a TypeScript program without its types, or
    bytecode; None if the text is to be run as it is. A view if it is large."""


class Maybe(_Message, frozen=True, kw_only=True, gc=False):
    """The provisional outcome, used if the process ends before a last message. None takes an earlier one back."""

    last: Refused | None


Last = Value | TooLarge | NoJson | Thrown | OutOfMemory | Refused | Checked
"""How the program ended. Nothing that the process sends after such a message counts."""

LAST: tuple[type, ...] = get_args(Last)

Message = Log | Call | Wait | Maybe | Last
"""Everything that a process can send."""


class Trusted(Enum):
    """What the kernel or the daemon says."""

    READY = auto()
    """The process waits for a job."""
    LIMITS = auto()
    """The blank process is replaced by one with other limits."""
    JOB = auto()
    """The job is being sent."""
    SENT = auto()
    """All of the job is sent."""
    ANSWER = auto()
    """The answer to a call is sent."""
    WAKE = auto()
    """The process is woken for its timer."""
    CPU = auto()
    """The CPU limit is reached."""
    WALL = auto()
    """The wall limit is reached."""
    CANCEL = auto()
    """Nobody wants the run any more."""
    MALFORMED = auto()
    """The process sent bytes that are not a message, or more than it may."""
    CALLS = auto()
    """The process made more calls than it may."""
    ENDED = auto()
    """The process has ended, and the kernel's account of it is there."""
    LOST = auto()
    """The jail is gone, and with it any account of the process."""
