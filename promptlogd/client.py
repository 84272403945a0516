"""What a handler may know of the client it works for, and do to it. The connection makes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from promptlogd.peer import Process
from promptlogd.wire.messages import Id, Reply


class Client:
    """One connected client: a number for its turn, its process and uid (SO_PEERCRED), its running runs, its way back.

    `has_room`: whether it reads its replies fast enough that another one may be made.
    """

    def __init__(
        self,
        *,
        number: int,
        uid: int,
        process: Process | None,
        send: Callable[[Reply], None],
        has_room: Callable[[], bool],
        wait_for_room: Callable[[], Awaitable[None]],
    ) -> None:
        self.number = number
        self.uid = uid
        self.process = process
        self.known = False
        """Whether it has asked for a run."""
        self.gone = False
        self.send = send
        self.has_room = has_room
        self.wait_for_room = wait_for_room
        self.runs: dict[Id, trio.CancelScope] = {}
