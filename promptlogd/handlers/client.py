"""What a handler may know of the client it works for, and do to it. The connection makes it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from promptlogd.wire.messages import Id, Reply


class Client:
    """One connected client: a number for its turn, its uid (SO_PEERCRED), its running runs, its way back."""

    def __init__(self, *, number: int, uid: int, send: Callable[[Reply], None]) -> None:
        self.number = number
        self.uid = uid
        self.send = send
        self.runs: dict[Id, trio.CancelScope] = {}
