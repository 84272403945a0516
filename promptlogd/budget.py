"""Limits of the memory that requests and replies hold: for a connection, a process, a uid, and all clients.

Three kinds of client data are buffered. Each has its own limits, so that none waits for another:

| limit of | a connection | a process | a uid | all |
|---|---|---|---|---|
| incomplete frames of more than 16 KiB, each up to 8 MiB | 1 | 1 | 4 | 8 |
| requests without a reply, and incomplete shorter frames | 8 MiB | 16 MiB | 48 MiB | 128 MiB |
| replies that the socket did not accept | 1 MiB | 16 MiB | 48 MiB | 128 MiB |

A long part of a reply counts until its last byte is sent, because its memory is held until then.

The rule is the same at each level. Above a limit of requests or of replies, the daemon does not read from the
connection. Above a limit of replies, it starts none of the connection's requests. Earlier work may still add to the
total: one request, or the replies of running runs. So the memory is bounded by the table plus one reply for each
running run. Waiters are woken one at a time, first in, first out.

The daemon always reads from a connection that itself holds at most `FREE_BYTES`, and always answers its requests with
short replies (`ping`, `stats`, `cancel`). Otherwise a connection that does not read its replies could block the other
connections of its process. So each connection may hold up to 3 KiB beyond the table: `FREE_BYTES`, and two reads of
the same size.

Each byte is released in bounded time: requests end at their limits, and a connection whose client does not read its
replies is closed (outbox.py has the rule).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress

import trio

from promptlogd.principal import Principal
from promptlogd.share import Share
from promptlogd.turns import Turns
from sandbox.limits import MIB

REQUEST_BYTES, REPLY_BYTES = 8 * MIB, MIB
"""Limits of one connection. Requests: one large frame or thousands of small ones, so that a later cancel is read."""

FREE_BYTES = 1024
"""Requests, and replies, that a connection may always hold, regardless of the other connections of its process."""

_PROCESS_BYTES, _UID_BYTES, _ALL_BYTES = 16 * MIB, 48 * MIB, 128 * MIB
"""Limits of requests, and the same of replies. A uid has room for three full processes, all clients for two uids."""

_PROCESS_FRAMES, _UID_FRAMES, _ALL_FRAMES = 1, 4, 8
"""Number of long frames in progress. One at a time is no slower, because one event loop reads them all."""

_PROCESS_SHARE = 7 / 8
"""Fraction of all connections that one process may have, so that others can still connect."""


class NoPlace(Exception):
    """The maximum number of connections is reached."""


class Account:
    """Bytes that are held at one level. Charges also count at the levels above."""

    __slots__ = ("_chain", "_more", "_waiting", "_wakes", "held_bytes", "most_bytes")

    def __init__(self, most_bytes: int, above: Account | None = None) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._waiting: dict[Callable[[], None], None] = {}
        """Waiters for room at this level, oldest first."""
        self._wakes = False
        self._more = False
        """Whether the waiter that is being woken has called `pass_on`."""
        self._chain: tuple[Account, ...] = (self,) if above is None else (self, *above._chain)

    def is_over(self, free_bytes: int = -1) -> bool:
        """Whether this level or one above exceeds its limit. False if this level holds `free_bytes` or less."""
        if self.held_bytes <= free_bytes:
            return False
        for account in self._chain:  # noqa: SIM110 - half the time of any(), in the path of each run
            if account.held_bytes > account.most_bytes:
                return True
        return False

    def charge(self, held_bytes: int) -> None:
        """Count bytes that are held from now on."""
        for account in self._chain:
            account.held_bytes += held_bytes

    def release(self, held_bytes: int) -> None:
        """Stop counting these bytes, and wake the next waiter of each level that has room."""
        chain = self._chain
        for account in chain:
            account.held_bytes -= held_bytes
        for account in chain:  # the same as `pass_on`, without a call, because each run comes here
            if account._waiting:
                account._wake()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once the lowest level over its limit has room. Others may still be over. Then call `pass_on`."""
        for account in self._chain:
            if account.held_bytes > account.most_bytes:
                account._waiting[callback] = None
                return
        callback()

    async def room(self, free_bytes: int = -1) -> None:
        """Wait until `is_over` is false. Call `pass_on` after charging the bytes that needed the room."""
        while self.is_over(free_bytes):
            event = trio.Event()
            self.when_room(event.set)
            if free_bytes >= 0:
                self._waiting[event.set] = None  # releasing this level's own bytes may be enough
            try:
                await event.wait()
            finally:
                self.forget(event.set)
                if self.is_over(free_bytes) or not event.is_set():
                    self.pass_on()

    def pass_on(self) -> None:
        """Wake the next waiter at each level that has room. A waiter that was woken must call this."""
        for account in self._chain:
            if account._waiting:
                account._wake()

    def forget(self, callback: Callable[[], None]) -> None:
        """Remove a waiter."""
        for account in self._chain:
            account._waiting.pop(callback, None)

    def close(self) -> None:
        """Release all bytes held here, and break the account's reference cycle. Do not use the account afterwards."""
        self.release(self.held_bytes)
        self._chain = ()

    def _wake(self) -> None:
        """Wake the next waiter if there is room, then the one after it if that calls `pass_on`. A loop, not a
        recursion."""
        self._more = True
        if self._wakes:
            return
        self._wakes = True
        try:
            while self._more and self._waiting and self.held_bytes <= self.most_bytes:
                self._more = False
                callback = next(iter(self._waiting))
                del self._waiting[callback]
                callback()
        finally:
            self._wakes = False


class _Level:
    """The bytes that a process, a uid, or all clients hold."""

    def __init__(
        self, most_bytes: int, frames: int, most_connections: int, turns: Turns, above: _Level | None = None
    ) -> None:
        self.above: _Level | None = above
        self.requests: Account = Account(most_bytes, None if above is None else above.requests)
        self.replies: Account = Account(most_bytes, None if above is None else above.replies)
        self.frames = trio.CapacityLimiter(frames)
        self.share = Share(turns)
        self.connections = 0
        self.most_connections = most_connections


class Budget:
    """The bytes that one connection holds."""

    def __init__(self, process: _Level) -> None:
        self.requests = Account(REQUEST_BYTES, process.requests)
        self.replies = Account(REPLY_BYTES, process.replies)
        self.share = process.share
        """The process's share of the loop time."""
        self._process = process
        self.has_frame_place = False

    @property
    def may_read(self) -> bool:
        """Whether the client may be read from."""
        return not self.requests.is_over(FREE_BYTES) and not self.replies.is_over(FREE_BYTES)

    @property
    def is_tight(self) -> bool:
        """Whether to read in parts of FREE_BYTES, because the connection or a level above exceeds a limit."""
        return self.requests.is_over() or self.replies.is_over()

    @property
    def may_answer(self) -> bool:
        """Whether a short reply may be sent."""
        return not self.replies.is_over(FREE_BYTES)

    async def room_to_answer(self) -> None:
        """Wait until a short reply may be sent. Then call `pass_on`."""
        await self.replies.room(FREE_BYTES)

    async def room_to_read(self) -> None:
        """Wait until the client may be read from. Call `pass_on` after charging the bytes that were read."""
        while not self.may_read:
            await self.requests.room(FREE_BYTES)
            await self.replies.room(FREE_BYTES)

    def pass_on(self) -> None:
        """Wake the next waiter at each level that has room."""
        self.requests.pass_on()
        self.replies.pass_on()

    async def take_frame_place(self) -> None:
        """Wait for a place for one long frame. Take the process's place first, so that only its connections wait."""
        self.has_frame_place = True
        level: _Level | None = self._process
        while level is not None:
            await level.frames.acquire_on_behalf_of(self)
            level = level.above

    def return_frame_place(self) -> None:
        """Return the place at each level where it was taken."""
        self.has_frame_place = False
        level: _Level | None = self._process
        while level is not None:
            with suppress(RuntimeError):  # the wait was cancelled before this level
                level.frames.release_on_behalf_of(self)
            level = level.above


class Budgets:
    """The budgets of all connections."""

    def __init__(self, *, connections: int, turns: Turns) -> None:
        """`connections`: maximum number of connections. `turns`: those of the event loop."""
        self._connections = connections
        self._turns = turns
        self._all = _Level(_ALL_BYTES, _ALL_FRAMES, connections, turns)
        self._uids: dict[Hashable, _Level] = {}
        self._processes: dict[Hashable, _Level] = {}

    def open(self, principal: Principal) -> Budget:
        """Return the budget of a new connection. Processes that cannot be identified share one process's limits.

        Raises NoPlace.
        """
        key = (principal.uid, principal.process)
        uid = self._uids.get(principal.uid) or _Level(
            _UID_BYTES, _UID_FRAMES, self._connections, self._turns, self._all
        )
        most = max(1, int(self._connections * _PROCESS_SHARE))
        process = self._processes.get(key) or _Level(_PROCESS_BYTES, _PROCESS_FRAMES, most, self._turns, uid)
        for level, whose in ((self._all, "are there"), (process, "of one process are there")):
            if level.connections >= level.most_connections:
                raise NoPlace(f"{level.connections} connections {whose} already")
        self._uids[principal.uid], self._processes[key] = uid, process
        for level in (self._all, uid, process):
            level.connections += 1
        return Budget(process)

    def close(self, budget: Budget, principal: Principal) -> None:
        """Release all bytes that a closed connection held."""
        if budget.has_frame_place:
            budget.return_frame_place()
        budget.requests.close()
        budget.replies.close()
        self._all.connections -= 1
        _leave(self._processes, (principal.uid, principal.process))
        _leave(self._uids, principal.uid)


def _leave(levels: dict[Hashable, _Level], key: Hashable) -> None:
    level = levels[key]
    level.connections -= 1
    if not level.connections:
        del levels[key]
