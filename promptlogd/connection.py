"""One client connection: drive the wire session over a socket, hand requests to their handlers, send the replies.

Whatever a client does, it ends this connection at the most. Requests go on side by side; replies leave when ready.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
from collections.abc import Awaitable, Callable

import msgspec
import trio

from promptlogd.clients import Clients
from promptlogd.config import Server
from promptlogd.decoder import Decoder, DecoderFailed
from promptlogd.handlers.table import Handlers
from promptlogd.peer import peer_of
from promptlogd.principal import Principal
from promptlogd.refusal import Detail, RequestError
from promptlogd.request_sink import RequestSink
from promptlogd.runs import Runs
from promptlogd.wire import INLINE_BYTES, BadMessage, Encoding, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Cancel, Error, ErrorCode, Id, Reply, Request

_log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_SLICE_BYTES = 16 * 1024
"""Of what was read, so much is taken at once. Between two slices with requests in them others get their turn."""

_OUTBOX_BYTES = 1024 * 1024
"""Unsent replies above which the daemon reads no more requests of this client, and begins none of its runs that wait.
"""

_STOPPED = RequestError("shutting_down", "the daemon was stopped before this was done")


class Connection:
    """Owner of one client's socket. `serve` runs until the client is gone or is sent away."""

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        *,
        clients: Clients,
        handlers: Handlers,
        runs: Runs,
        settings: Server,
        decoder: Decoder,
    ) -> None:
        self._sock = sock
        self._clients = clients
        self._handlers = handlers
        self._runs = runs
        self._settings = settings
        self._decoder = decoder
        self._session = ServerSession(bounds=decoder.bounds, inline_bytes=INLINE_BYTES)
        peer = peer_of(sock)
        self._principal = Principal(connection=number, uid=peer.uid, process=peer.process)
        self._may_name_tenants = peer.uid == os.geteuid() or peer.uid in settings.fronts
        self._in_hand: dict[Id, RequestSink] = {}
        self._outbox = bytearray()
        self._outbox_filled = trio.Event()
        self._progress = trio.Event()
        self._when_room: list[Callable[[], None]] = []
        self._scope = trio.CancelScope()

    async def serve(self) -> None:
        """Serve the client. Raises nothing that is the client's fault; cancellation cancels its runs."""
        self._clients.connected += 1
        number = self._principal.connection
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    async with trio.open_nursery() as tasks:
                        await self._read(tasks)
                        # After the last read, only this task notices that the client left.
                        nursery.start_soon(self._watch_gone)
                        while self._in_hand:
                            await self._wait_for_progress()
                    await self._drain()
                    nursery.cancel_scope.cancel()
        except* OSError as group:
            _log.debug("client %d is gone: %s", number, group.exceptions[0])
        finally:
            for sink in list(self._in_hand.values()):
                if self._clients.draining:
                    sink.refuse(_STOPPED)
                sink.abandon()
            self._clients.connected -= 1
            self._runs.admission.forget(self._principal.connection)
            self._clients.unsent.discard(number)
            self._clients.wake_if_idle()
            self._sock.close()
            # Megabytes, maybe, which would wait for the collector: this object is part of a cycle.
            self._session = ServerSession()
            self._outbox.clear()

    async def _read(self, tasks: trio.Nursery) -> None:
        """Read requests until the client closes its side, or sends what can't be followed."""
        settings = self._settings
        owed_since = math.inf
        while True:
            if not self._session.mid_frame:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                with trio.CancelScope(deadline=owed_since + settings.stall_s) as patience:
                    await trio.lowlevel.wait_readable(self._sock)
                if patience.cancelled_caught:
                    message = f"the rest of a frame did not come within {settings.stall_s:g} s"
                    self.send_error(None, "bad_request", message)
                    return
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                if self._session.mid_frame:
                    self.send_error(None, "bad_request", "the connection ended within a frame")
                return
            events = 0
            for start in range(0, len(data), _SLICE_BYTES):
                taken = self._session.receive(data[start : start + _SLICE_BYTES])
                for come in taken:
                    event = await self._decode(come) if isinstance(come, Unread) else come
                    if isinstance(event, ProtocolError):
                        self.send_error(None, event.code, event.message)
                        return
                    await self._begin(event, tasks)
                events += len(taken)
                if taken and start + _SLICE_BYTES < len(data):
                    await trio.lowlevel.checkpoint()
            if not self._session.mid_frame:
                owed_since = math.inf
            elif owed_since == math.inf or events:
                owed_since = trio.current_time()

    async def _decode(self, come: Unread) -> Request | BadMessage | ProtocolError:
        """Have a large frame decoded elsewhere. Meanwhile nothing of this client is read."""
        async with trio.open_nursery() as waiting:
            waiting.start_soon(self._watch_gone)
            try:
                event = await self._decoder.request(self._principal.uid, come.payload, come.encoding)
            except DecoderFailed as error:
                event = ProtocolError(str(error), code="internal")
            waiting.cancel_scope.cancel()
        return event

    async def _begin(self, request: Request | BadMessage, tasks: trio.Nursery) -> None:
        if self._must_wait(request):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(self._watch_gone)
                while self._must_wait(request):
                    await self._wait_for_progress()
                waiting.cancel_scope.cancel()
        if isinstance(request, BadMessage):
            detail: Detail | None = None if request.detail is None else {**request.detail}
            self.send_error(request.id, request.code, request.message, detail)
        elif request.id in self._in_hand:
            self.send_error(request.id, "bad_request", "a request with this id is in hand already")
        elif self._clients.draining and not isinstance(request, Cancel):
            self.send_error(request.id, "shutting_down", "the daemon is stopping")
        elif request.tenant is not None and not self._may_name_tenants:
            message = "a tenant is named by fronts alone: see `server.fronts` in the configuration"
            self.send_error(request.id, "forbidden", message)
        else:
            self._start(request, tasks)

    def _start(self, request: Request, tasks: trio.Nursery) -> None:
        principal = self._principal
        if request.tenant is not None:
            principal = msgspec.structs.replace(principal, tenant=request.tenant)
        sink = self._in_hand[request.id] = RequestSink(self, request, tasks)
        self._clients.unanswered += 1
        try:
            self._handlers[type(request)].start(principal, request, sink)
        except RequestError as error:
            sink.refuse(error)
        except Exception:
            sink.fail()

    def _must_wait(self, request: Request | BadMessage) -> bool:
        """Whether this client has enough in hand, or reads its replies too slowly."""
        many = len(self._in_hand) >= self._settings.max_pipelined
        return not self.has_room() or (many and not isinstance(request, Cancel | BadMessage))

    def has_room(self) -> bool:
        """Whether the client reads its replies fast enough."""
        return len(self._outbox) <= _OUTBOX_BYTES

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once it has read enough of them."""
        self._when_room.append(callback)

    @property
    def encoding(self) -> Encoding:
        """How replies are encoded."""
        return self._session.encoding

    def cancel(self, target: Id) -> bool:
        """Cancel the run that a request began; return whether there is one."""
        sink = self._in_hand.get(target)
        return sink is not None and sink.cancel()

    async def work(self, work: Callable[[], Awaitable[Reply | None]], sink: RequestSink) -> None:
        """Work on a request. The reply that comes of it, if any, is sent."""
        try:
            reply = await work()
        except RequestError as error:
            sink.refuse(error)
        except trio.Cancelled:
            if self._clients.draining:
                sink.refuse(_STOPPED)
            raise
        except Exception:
            sink.fail()
        else:
            if reply is not None:
                sink.reply(reply)

    def done(self, id: Id) -> None:
        """A request has its last reply."""
        if self._in_hand.pop(id, None) is not None:
            self._clients.unanswered -= 1
            self._clients.wake_if_idle()
            self._progress.set()

    async def _wait_for_progress(self) -> None:
        if self._progress.is_set():
            self._progress = trio.Event()
        await self._progress.wait()

    def send_error(self, id: Id | None, code: ErrorCode, message: str, detail: Detail | None = None) -> None:
        """Send an error, and count it."""
        self._clients.errors[code] += 1
        self.send(Error(id=id, code=code, message=message, detail=detail))

    def send(self, reply: Reply) -> None:
        """Send a reply, or keep what the socket does not take now for the writer."""
        data: bytes | bytearray | memoryview = self._session.send(reply)
        if not self._outbox:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._scope.cancel()
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._outbox += data
        self._clients.unsent.add(self._principal.connection)
        self._outbox_filled.set()

    async def _write(self) -> None:
        """Send what the socket did not take at once. A client that reads nothing for too long is sent away."""
        stall_s = self._settings.stall_s
        while True:
            await self._outbox_filled.wait()
            while self._outbox:
                with trio.move_on_after(stall_s) as patience:
                    await trio.lowlevel.wait_writable(self._sock)
                if patience.cancelled_caught:
                    _log.info("client %d does not read its replies; closed", self._principal.connection)
                    self._scope.cancel()
                    return
                try:
                    sent = self._sock.send(self._outbox[:_READ_BYTES])
                except BlockingIOError:
                    continue
                except OSError:
                    self._scope.cancel()
                    return
                del self._outbox[:sent]
                self._progress.set()
                if self._when_room and self.has_room():
                    waiting, self._when_room = self._when_room, []
                    for callback in waiting:
                        callback()
            self._clients.unsent.discard(self._principal.connection)
            self._clients.wake_if_idle()
            self._outbox_filled = trio.Event()

    async def _drain(self) -> None:
        while self._outbox:
            await self._wait_for_progress()

    async def _watch_gone(self) -> None:
        """Wait until the client has left, and cancel its runs. A client that only closed its writing side has not left.

        An epoll registration without events still reports EPOLLHUP and EPOLLERR, but no half-close (epoll_ctl(2)).
        """
        try:
            watch = select.epoll()
        except OSError as error:  # no descriptors: the client's runs end by their limits at the latest
            _log.warning("client %d is not watched: %s", self._principal.connection, error)
            await trio.sleep_forever()
        with watch:
            watch.register(self._sock, 0)
            await trio.lowlevel.wait_readable(watch.fileno())
        self._scope.cancel()
