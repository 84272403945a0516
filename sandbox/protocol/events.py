"""Events of a run: messages of the jailed process, and trusted events.

Messages of the process are hostile. They count only as claims of the program about itself. Trusted events come from the
kernel and from the daemon.
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
    """Line mapping of the stacks in the line: a number defined by the engine; 0 if it has only one mapping."""
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
    """The result exceeds its limit."""

    size: int
    """In bytes. In UTF-16 code units if the process reports it, because it counts these."""


class NoJson(_Message, frozen=True, kw_only=True, gc=False):
    """There is no result, or it is not JSON."""

    message: bytes


class Thrown(_Message, frozen=True, kw_only=True, gc=False):
    """The program threw an exception."""

    name: bytes
    message: bytes
    stack: bytes


class OutOfMemory(_Message, frozen=True, kw_only=True, gc=False):
    """The kernel refused memory to the process, and the program could not continue."""


class Refused(_Message, frozen=True, kw_only=True, gc=False):
    """The source is not a program."""

    module: bool
    """Whether the error is about the source as a module."""
    message: bytes
    stack: bytes
    """Contains the error's position, in the engine's notation."""


class Checked(_Message, frozen=True, kw_only=True, gc=False):
    """The source is a program."""

    module: bool
    """Whether it is a module. Otherwise it is a body."""
    code: bytes | memoryview | None
    """Code for runs of the program: bytecode, or the text of a TypeScript program with its types removed. None: run the
    source itself. A view if it is large."""


class Maybe(_Message, frozen=True, kw_only=True, gc=False):
    """The provisional outcome, used if the process ends without a last message. None withdraws an earlier one."""

    last: Refused | None


Last = Value | TooLarge | NoJson | Thrown | OutOfMemory | Refused | Checked
"""The last message: how the program ended. Later messages of the process are ignored."""

LAST: tuple[type, ...] = get_args(Last)

Message = Log | Call | Wait | Maybe | Last
"""Any message of a process."""


class Trusted(Enum):
    """Events from the kernel or the daemon."""

    __hash__ = object.__hash__  # that of Enum is in Python, and each run looks up several events

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
    """The run was cancelled."""
    MALFORMED = auto()
    """The process sent invalid bytes, or more than its cap."""
    CALLS = auto()
    """The process made more calls than granted."""
    ENDED = auto()
    """The process has ended, and the kernel's report of it is available."""
    LOST = auto()
    """The jail has ended, and the kernel's report of the process is lost."""
