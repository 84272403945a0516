"""Requests of one connection, read as its budget allows. The connection handles them."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain

import trio

from promptlogd.arrivals import Arrivals
from promptlogd.budget import FREE_BYTES, Budget
from promptlogd.wire import BadMessage, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Cancel, Ping, Request, Run, Stats

_READ_BYTES = 256 * 1024
"""Bytes that one system call reads of a long frame."""

_SLICE_BYTES = 16 * 1024
"""Bytes that are decoded in one go. A longer frame is a long one: it waits for a place before the rest is read."""

_WAITS = 3
"""How many times the time for the rest of a frame a client may wait, in the middle of one, for room for it."""

CLOSE_S = 0.0003
"""Time of the loop that the end of a connection takes."""

AT_ONCE = (Cancel, Ping, Stats, BadMessage)
"""Requests that are answered as soon as they are read, with a short reply. Others may wait, and so may many `stats`."""


def _drop(request: Request | BadMessage) -> None:
    """Nobody takes requests yet."""


class Inbox:
    """Reads requests. `read` runs until there will be no more."""

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
        """`unless_gone`: wait for something else than the socket, and notice nevertheless if the client leaves.

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
        """Bytes of the frame on its way that the budget counts."""
        self._has_room = False
        """Whether these are all that a short frame may have: then it is read to its end."""
        self._overdue = False
        """Whether the last wait for room took too long."""
        self._waited = False
        """Whether `_receive` had to wait for room."""
        self._take: Callable[[Request | BadMessage], None] = _drop
        self._left: Iterator[Request | BadMessage | ProtocolError | Unread] | None = None
        """What `_read_now` has read, and left to this connection's task."""
        self._error: Exception | None = None
        """Why `_read_now` has failed."""

    async def read(self, take: Callable[[Request | BadMessage], None]) -> None:
        """Hand on requests until the client closes its side.

        Raises ProtocolError if it sends what can't be followed, or owes the rest of a frame for `stall_s`.
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
                raise ProtocolError(f"the rest of a frame did not come within {stall_s:g} s")
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # else a reference cycle through its traceback keeps this connection in memory
            if self._left is not None:
                events, self._left = self._left, None
                whole = await self._take_events(events, trio.current_time())
            elif read_now is not None and session.mid_frame:
                whole = True  # it has read the beginning of a frame
            else:
                data = await self._receive()
                if self._waited and session.mid_frame:
                    owed_since = trio.current_time()  # until now the daemon let the client wait
                if data is None:
                    continue
                if not data:
                    budget.share.spend(CLOSE_S)
                    if session.mid_frame:
                        raise ProtocolError("the connection ended within a frame")
                    return
                whole = await self._take_data(data)
                del data  # else it is kept until more comes
            self._count_buffered()
            budget.pass_on()
            if not session.mid_frame:
                owed_since = math.inf
            elif owed_since == math.inf or whole:
                owed_since = trio.current_time()

    def _read_now(self) -> bool:
        """Read and hand on short requests in the task that wakes connections: this saves a turn of the loop.

        Return whether that was all. If something has to be waited for, this connection's own task goes on.
        """
        session, budget = self._session, self._budget
        share = budget.share
        if budget.is_tight or share.used_up:
            return False
        began = trio.current_time()
        try:
            data = self._sock.recv(_SLICE_BYTES)
            if not data:
                return False
            self._left = events = session.events(data)
            for come in events:
                if isinstance(come, Unread | ProtocolError) or not (isinstance(come, Run) or budget.may_answer):
                    self._left = chain((come,), events)
                    return False
                self._take(come)
                now = trio.current_time()
                share.spend(now - began)
                began = now
                if share.used_up:
                    return False
            self._left = None
        except BlockingIOError:
            return True
        except OSError:
            return False  # the client is gone; the next read finds the end
        except Exception as error:
            self._error = error
            return False
        self._count_buffered()
        budget.pass_on()
        return not session.mid_frame

    async def _receive(self) -> bytes | None:
        """Read what there is once the client may be read from; None if that was nothing."""
        session, budget = self._session, self._budget
        long = session.buffered_bytes > _SLICE_BYTES
        # Who has a place reads its frame to the end, within `stall_s`: others wait for the place.
        has_room = self._has_room and self._counted
        self._waited = not budget.has_frame_place and (long or not (has_room or budget.may_read))
        if self._waited:
            await self._unless_gone(self._wait_for_room)
            if self._overdue:
                raise ProtocolError("the connections of this process hold too much of the daemon's room", code="busy")
        if budget.share.used_up:
            await budget.share.turn()
        try:
            return self._sock.recv(_READ_BYTES if long else FREE_BYTES if budget.is_tight else _SLICE_BYTES)
        except BlockingIOError:
            return None

    def clear(self) -> None:
        """Drop the frame that is on its way, and return the place that it has."""
        self._session.clear()
        self._count_buffered()
        if self._budget.has_frame_place:
            self._budget.return_frame_place()

    def _count_buffered(self) -> None:
        """Count the frame on its way. It gets room for all of a short frame, or counts by its bytes if there is none.

        What a long frame holds beyond that is bounded by the places for long frames.
        """
        buffered, counted = self._session.buffered_bytes, self._counted
        if not counted:
            self._has_room = not self._budget.is_tight
        self._counted = min(buffered, _SLICE_BYTES) if not (buffered and self._has_room) else _SLICE_BYTES
        if self._counted > counted:
            self._budget.requests.charge(self._counted - counted)
        elif self._counted < counted:
            self._budget.requests.release(counted - self._counted)

    async def _take_data(self, data: bytes) -> bool:
        """Hand on what these bytes complete; return whether there was any."""
        budget, whole = self._budget, False
        for start in range(0, len(data), _SLICE_BYTES):
            events = self._session.events(data[start : start + _SLICE_BYTES])
            whole = await self._take_events(events, trio.current_time()) or whole
            if whole and start + _SLICE_BYTES < len(data):
                await trio.lowlevel.checkpoint()
                if not budget.may_read:
                    await self._unless_gone(budget.room_to_read)
        return whole

    async def _take_events(self, events: Iterator[Request | BadMessage | ProtocolError | Unread], began: float) -> bool:
        """Hand on these requests; return whether there was any. `began`: when this turn began to work."""
        budget, share, whole = self._budget, self._budget.share, False
        for come in events:
            whole = True
            if isinstance(come, Unread):
                event = await self._decode(come)
                began = trio.current_time()
            else:
                event = come
            if budget.has_frame_place:
                budget.return_frame_place()
            if isinstance(event, ProtocolError):
                raise event
            if isinstance(event, AT_ONCE) and not budget.may_answer:
                await self._unless_gone(budget.room_to_answer)
                began = trio.current_time()
            self._take(event)
            now = trio.current_time()
            share.spend(now - began)
            began = now
            if share.used_up:
                await share.turn()
                began = trio.current_time()
        share.spend(trio.current_time() - began)
        return whole

    async def _wait_for_room(self) -> None:
        """Wait until the client may be read from; for a long frame, also for a place.

        In the middle of a frame this is overdue after a while: others may wait for the room of its part.
        """
        wait = self._room_for_frame if self._session.buffered_bytes > _SLICE_BYTES else self._budget.room_to_read
        if not self._session.mid_frame:
            await wait()
            return
        with self._arrivals.cancel_at(trio.current_time() + _WAITS * self._stall_s) as patience:
            await wait()
        self._overdue = patience.cancelled_caught

    async def _room_for_frame(self) -> None:
        """Wait for a place for one long frame, and for room for the request that it will be."""
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
