"""Reads the requests of one connection, as its budget allows. The connection handles them."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from time import perf_counter

import trio

from promptlogd.arrivals import Arrivals
from promptlogd.budget import FREE_BYTES, Budget
from promptlogd.wire import BadMessage, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Cancel, Ping, Request, Run, Stats

_READ_BYTES = 256 * 1024
"""Bytes of a long frame that one system call reads."""

_SLICE_BYTES = 16 * 1024
"""Bytes that are decoded at once. A longer frame is a long frame: it waits for a place before its rest is read."""

_WAITS = 3
"""In the middle of a frame, a client may wait for room for this many times `stall_s`."""

CLOSE_S = 0.0003
"""Loop time that closing a connection takes."""

AT_ONCE = (Cancel, Ping, Stats, BadMessage)
"""Requests that are answered when they are read, with a short reply. Others may wait, as may many `stats`."""

_NOT_NOW = (Unread, ProtocolError)
"""Events that `_read_now` leaves to the connection's own task."""


def _drop(request: Request | BadMessage) -> None:
    """Placeholder until `read` is called."""


class Inbox:
    """Reads requests. `read` runs until the client closes its side."""

    def __init__(
        self,
        sock: socket.socket,
        session: ServerSession,
        budget: Budget,
        arrivals: Arrivals,
        *,
        stall_s: float,
        unless_gone: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
        decode: Callable[[Unread], Awaitable[Request | BadMessage | ProtocolError]],
    ) -> None:
        """`unless_gone`: wait for something other than the socket, but still notice a disconnect.

        `decode`: decode a large frame in another process.
        """
        self._sock = sock
        self._session = session
        self._budget = budget
        self._arrivals = arrivals
        self._stall_s = stall_s
        self._unless_gone = unless_gone
        self._decode = decode
        self._counted = 0
        """Bytes of the incomplete frame that the budget counts."""
        self._has_room = False
        """Whether `_counted` covers a whole short frame. Then the frame is read to its end."""
        self._overdue = False
        """Whether the last wait for room exceeded its time limit."""
        self._waited = False
        """Whether `_receive` had to wait for room."""
        self._take: Callable[[Request | BadMessage], None] = _drop
        self._left: Iterator[Request | BadMessage | ProtocolError | Unread] | None = None
        """Events that `_read_now` has read and left for this connection's task."""
        self._error: Exception | None = None
        """The exception of `_read_now`, if it failed."""

    async def read(self, take: Callable[[Request | BadMessage], None]) -> None:
        """Pass on requests until the client closes its side.

        Raises ProtocolError if a frame cannot be decoded, or if the rest of a frame does not arrive within `stall_s`.
        """
        session, budget, stall_s = self._session, self._budget, self._stall_s
        self._take = take
        owed_since = math.inf
        while True:
            read_now = None if session.mid_frame else self._read_now
            deadline = owed_since + stall_s if session.mid_frame else math.inf
            if not await self._arrivals.readable(self._sock, budget.share, deadline, read_now):
                await budget.share.turn()
                budget.share.spend(CLOSE_S)
                raise ProtocolError(f"the rest of a frame did not arrive within {stall_s:g} s")
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # its traceback forms a reference cycle that keeps this connection in memory
            if self._left is not None:
                events, self._left = self._left, None
                whole = await self._take_events(events, perf_counter())
            elif read_now is not None and session.mid_frame:
                whole = True  # it has read the start of a frame
            else:
                data = await self._receive()
                if self._waited and session.mid_frame:
                    owed_since = trio.current_time()  # until now, the daemon made the client wait
                if data is None:
                    budget.pass_on()
                    continue
                if not data:
                    budget.share.spend(CLOSE_S)
                    if session.mid_frame:
                        raise ProtocolError("the connection ended within a frame")
                    return
                whole = await self._take_data(data)
                del data  # otherwise it stays in memory until more data arrives
            self._count_buffered()
            budget.pass_on()
            if not session.mid_frame:
                owed_since = math.inf
            elif owed_since == math.inf or whole:
                owed_since = trio.current_time()

    def _read_now(self) -> bool:
        """Read and pass on short requests in the task that wakes connections, which saves a turn of the loop.

        Return whether that was all. If something must wait, this connection's own task continues.
        """
        session, budget = self._session, self._budget
        share = budget.share
        if budget.is_tight or share.used_up:
            return False
        began = perf_counter()
        try:
            data = self._sock.recv(_SLICE_BYTES)
            if not data:
                return False
            self._left = events = session.events(data)
            for come in events:
                if not isinstance(come, Run) and (isinstance(come, _NOT_NOW) or not budget.may_answer):
                    self._left = chain((come,), events)
                    return False
                self._take(come)
                now = perf_counter()
                share.spend(now - began)
                began = now
                if share.used_up:
                    return False
            self._left = None
        except BlockingIOError:
            return True
        except OSError:
            return False  # the client has disconnected; the next read finds out
        except Exception as error:
            self._error = error
            return False
        buffered = session.buffered_bytes
        if buffered or self._counted:
            self._count_buffered()
        return not buffered

    async def _receive(self) -> bytes | None:
        """Wait until the client may be read from, and read available data. None if there was none."""
        session, budget = self._session, self._budget
        long = session.buffered_bytes > _SLICE_BYTES
        # A connection with a place must complete its frame within `stall_s`, because others wait for the place.
        has_room = self._has_room and self._counted
        self._waited = not budget.has_frame_place and (long or not (has_room or budget.may_read))
        if self._waited:
            await self._unless_gone(self._wait_for_room)
            if self._overdue:
                raise ProtocolError("the connections of this process hold too much of the daemon's memory", code="busy")
        if budget.share.used_up:
            await budget.share.turn()
        try:
            return self._sock.recv(_READ_BYTES if long else FREE_BYTES if budget.is_tight else _SLICE_BYTES)
        except BlockingIOError:
            return None

    def clear(self) -> None:
        """Drop the incomplete frame, and return its place."""
        self._session.clear()
        self._count_buffered()
        if self._budget.has_frame_place:
            self._budget.return_frame_place()

    def _count_buffered(self) -> None:
        """Count the incomplete frame: as a whole short frame if there is room, otherwise by its bytes.

        The places for long frames bound what a long frame holds beyond that.
        """
        buffered, counted = self._session.buffered_bytes, self._counted
        if not (buffered or counted):
            return
        if not counted:
            self._has_room = not self._budget.is_tight
        self._counted = min(buffered, _SLICE_BYTES) if not (buffered and self._has_room) else _SLICE_BYTES
        if self._counted > counted:
            self._budget.requests.charge(self._counted - counted)
        elif self._counted < counted:
            self._budget.requests.release(counted - self._counted)

    async def _take_data(self, data: bytes) -> bool:
        """Pass on the requests that these bytes complete. Return whether there were any."""
        budget, whole = self._budget, False
        for start in range(0, len(data), _SLICE_BYTES):
            events = self._session.events(data[start : start + _SLICE_BYTES])
            whole = await self._take_events(events, perf_counter()) or whole
            if whole and start + _SLICE_BYTES < len(data):
                await trio.lowlevel.checkpoint()
                if not budget.may_read:
                    await self._unless_gone(budget.room_to_read)
        return whole

    async def _take_events(self, events: Iterator[Request | BadMessage | ProtocolError | Unread], began: float) -> bool:
        """Pass on these requests. Return whether there were any. `began`: time at which work in this turn started."""
        budget, share, whole = self._budget, self._budget.share, False
        for come in events:
            whole = True
            if isinstance(come, Unread):
                event = await self._decode(come)
                began = perf_counter()
            else:
                event = come
            if budget.has_frame_place:
                budget.return_frame_place()
            if isinstance(event, ProtocolError):
                raise event
            if isinstance(event, AT_ONCE) and not budget.may_answer:
                await self._unless_gone(budget.room_to_answer)
                began = perf_counter()
            self._take(event)
            now = perf_counter()
            share.spend(now - began)
            began = now
            if share.used_up:
                await share.turn()
                began = perf_counter()
        share.spend(perf_counter() - began)
        return whole

    async def _wait_for_room(self) -> None:
        """Wait until the client may be read from. For a long frame, also wait for a place.

        In the middle of a frame, this wait has a time limit, because others may wait for the room that the frame holds.
        """
        wait = self._room_for_frame if self._session.buffered_bytes > _SLICE_BYTES else self._budget.room_to_read
        if not self._session.mid_frame:
            await wait()
            return
        with self._arrivals.cancel_at(trio.current_time() + _WAITS * self._stall_s) as patience:
            await wait()
        self._overdue = patience.cancelled_caught

    async def _room_for_frame(self) -> None:
        """Wait for a place for one long frame, and for room for its request."""
        budget = self._budget
        if self._has_room:
            await budget.take_frame_place()
            return
        while True:
            await budget.room_to_read()
            await budget.take_frame_place()
            if budget.may_read:
                return
            budget.return_frame_place()
