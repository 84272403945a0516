"""Bounds of the memory that requests and replies hold: for a connection, a process, a uid, and all clients.

Three things of a client are buffered. Each has bounds of its own, so that none waits for another:

| bound of | a connection | a process | a uid | all |
|---|---|---|---|---|
| frames of more than 16 KiB on their way, each up to 8 MiB | 1 | 1 | 4 | 8 |
| requests that were read and are not answered, and parts of shorter frames | 8 MiB | 16 MiB | 48 MiB | 128 MiB |
| replies that the socket did not take | 1 MiB | 16 MiB | 48 MiB | 128 MiB |

A long part of a reply counts until its last byte is sent, since its memory is held until then.

The rule is the same at each level. Above a bound of requests or of replies, the daemon does not read from the
connection. Above a bound of replies, it begins none of the connection's requests. Earlier work may still add to what is
held: one request, or the replies of runs that are in cells. So the table and one reply for each run in a cell
bound the memory. Waiters are woken first in, first out, one at a time.

A connection that itself holds at most `FREE_BYTES` is always read, and its requests with short replies (`ping`,
`stats`, `cancel`) are always answered. Otherwise a connection that does not read its replies could block the other
connections of its process. So each connection may hold up to 3 KiB beyond the table: `FREE_BYTES`, and two reads of
as much.

Each byte is released in bounded time: requests end by their limits, and a connection whose replies do not go out is
closed (outbox.py has the rule).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress

import trio

from promptlogd.principal import Principal
from promptlogd.share import Share
from sandbox.limits import MIB

REQUEST_BYTES, REPLY_BYTES = 8 * MIB, MIB
"""Of one connection. Requests: one frame, or thousands of small ones, so that a cancel behind them is read."""

FREE_BYTES = 1024
"""Requests, and replies, that a connection may hold whatever the others of its process hold."""

_PROCESS_BYTES, _UID_BYTES, _ALL_BYTES = 16 * MIB, 48 * MIB, 128 * MIB
"""Requests, and as many replies. A uid has three full processes, all clients have less than three full uids."""

_PROCESS_FRAMES, _UID_FRAMES, _ALL_FRAMES = 1, 4, 8
"""Long frames on their way at once. One at a time is no slower: the daemon has one loop to read them."""

_PROCESS_SHARE = 7 / 8
"""Share of all connections that one process may have, so that others can still connect."""


class NoPlace(Exception):
    """The bound of connections is reached."""


class Account:
    """Bytes that are held at one level. What is charged here is charged to the levels above as well."""

    __slots__ = ("_chain", "_more", "_waiting", "_wakes", "held_bytes", "most_bytes")

    def __init__(self, most_bytes: int, above: Account | None = None) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._waiting: dict[Callable[[], None], None] = {}
        """Waiters for room at this level, the oldest first."""
        self._wakes = False
        self._more = False
        """Whether a waiter that is being woken passes on."""
        self._chain: tuple[Account, ...] = (self,) if above is None else (self, *above._chain)

    def is_over(self, free_bytes: int = -1) -> bool:
        """Whether this level, or one above, is over its bound. False if this level holds `free_bytes` or less."""
        if self.held_bytes <= free_bytes:
            return False
        for account in self._chain:  # noqa: SIM110 - half as long as any(), and each run comes through here
            if account.held_bytes > account.most_bytes:
                return True
        return False

    def charge(self, held_bytes: int) -> None:
        """Count bytes that are held from now on."""
        for account in self._chain:
            account.held_bytes += held_bytes

    def release(self, held_bytes: int) -> None:
        """Count these bytes no longer, and wake the next waiter of each level that has room."""
        for account in self._chain:
            account.held_bytes -= held_bytes
        self.pass_on()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once the lowest level over its bound has room. Others may still be over. Then call `pass_on`."""
        for account in self._chain:
            if account.held_bytes > account.most_bytes:
                account._waiting[callback] = None
                return
        callback()

    async def room(self, free_bytes: int = -1) -> None:
        """Wait until `is_over` is false. Call `pass_on` once the bytes that the room was for are charged."""
        while self.is_over(free_bytes):
            event = trio.Event()
            self.when_room(event.set)
            if free_bytes >= 0:
                self._waiting[event.set] = None  # releasing its own bytes may be enough
            try:
                await event.wait()
            finally:
                self.forget(event.set)
                if self.is_over(free_bytes) or not event.is_set():
                    self.pass_on()

    def pass_on(self) -> None:
        """Wake the next waiter at each level that has room. To be called by a waiter that was woken."""
        for account in self._chain:
            if account._waiting:
                account._wake()

    def forget(self, callback: Callable[[], None]) -> None:
        """Remove a waiter."""
        for account in self._chain:
            account._waiting.pop(callback, None)

    def close(self) -> None:
        """Release all that is held here, and break the account's reference cycle. It is not to be used afterwards."""
        self.release(self.held_bytes)
        self._chain = ()

    def _wake(self) -> None:
        """Wake the next waiter if there is room, and the one after it if that one passes on: a loop, no recursion."""
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
    """What a process, a uid, or all clients together hold."""

    def __init__(self, most_bytes: int, frames: int, most_connections: int, above: _Level | None = None) -> None:
        self.above: _Level | None = above
        self.requests: Account = Account(most_bytes, None if above is None else above.requests)
        self.replies: Account = Account(most_bytes, None if above is None else above.replies)
        self.frames = trio.CapacityLimiter(frames)
        self.share = Share()
        self.connections = 0
        self.most_connections = most_connections


class Budget:
    """What one connection holds."""

    def __init__(self, process: _Level) -> None:
        self.requests = Account(REQUEST_BYTES, process.requests)
        self.replies = Account(REPLY_BYTES, process.replies)
        self.share = process.share
        """The process's share of the loop's time."""
        self._process = process
        self.has_frame_place = False

    @property
    def may_read(self) -> bool:
        """Whether the client may be read from."""
        return not self.requests.is_over(FREE_BYTES) and not self.replies.is_over(FREE_BYTES)

    @property
    def is_tight(self) -> bool:
        """Whether to read the client in parts of FREE_BYTES, since it or a level above is over a bound."""
        return self.requests.is_over() or self.replies.is_over()

    @property
    def may_answer(self) -> bool:
        """Whether a short reply may be made."""
        return not self.replies.is_over(FREE_BYTES)

    @property
    def may_begin(self) -> bool:
        """Whether a request whose reply may be long may begin."""
        return not self.replies.is_over()

    async def room_to_answer(self) -> None:
        """Wait until a short reply may be made. Then call `pass_on`."""
        await self.replies.room(FREE_BYTES)

    async def room_to_read(self) -> None:
        """Wait until the client may be read from. Call `pass_on` once the bytes that were read are charged."""
        while not self.may_read:
            await self.requests.room(FREE_BYTES)
            await self.replies.room(FREE_BYTES)

    def pass_on(self) -> None:
        """Wake the next waiter at each level that has room."""
        self.requests.pass_on()
        self.replies.pass_on()

    async def take_frame_place(self) -> None:
        """Wait for a place for one long frame, and take it: the process's first, so that only its connections wait."""
        self.has_frame_place = True
        level: _Level | None = self._process
        while level is not None:
            await level.frames.acquire_on_behalf_of(self)
            level = level.above

    def return_frame_place(self) -> None:
        """Give the place back at each level where it was taken."""
        self.has_frame_place = False
        level: _Level | None = self._process
        while level is not None:
            with suppress(RuntimeError):  # the wait for it was cancelled before this level
                level.frames.release_on_behalf_of(self)
            level = level.above


class Budgets:
    """The budgets of all connections."""

    def __init__(self, *, connections: int) -> None:
        """`connections`: how many there may be."""
        self._connections = connections
        self._all = _Level(_ALL_BYTES, _ALL_FRAMES, connections)
        self._uids: dict[Hashable, _Level] = {}
        self._processes: dict[Hashable, _Level] = {}

    def open(self, principal: Principal) -> Budget:
        """Return the budget of a new connection. Processes that can't be told apart share one process's bounds.

        Raises NoPlace.
        """
        key = (principal.uid, principal.process)
        uid = self._uids.get(principal.uid) or _Level(_UID_BYTES, _UID_FRAMES, self._connections, self._all)
        most = max(1, int(self._connections * _PROCESS_SHARE))
        process = self._processes.get(key) or _Level(_PROCESS_BYTES, _PROCESS_FRAMES, most, uid)
        for level, whose in ((self._all, "are there"), (process, "of one process are there")):
            if level.connections >= level.most_connections:
                raise NoPlace(f"{level.connections} connections {whose} already")
        self._uids[principal.uid], self._processes[key] = uid, process
        for level in (self._all, uid, process):
            level.connections += 1
        return Budget(process)

    def close(self, budget: Budget, principal: Principal) -> None:
        """Release all that a closed connection held."""
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
