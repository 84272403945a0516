"""One client connection: drive the wire session over a socket, hand requests to their handlers, send the replies.

Whatever a client does, it ends this connection at the most. Requests run side by side; replies leave when ready.
"""

from __future__ import annotations

import logging
import math
import select
import socket

import trio

from promptlogd.client import Client
from promptlogd.handlers import HANDLERS
from promptlogd.peer import peer_of
from promptlogd.services import RequestError, Services
from promptlogd.wire import BadMessage, ProtocolError, ServerSession
from promptlogd.wire.messages import Cancel, Error, Id, Reply, Request, Run

_log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_OUTBOX_BYTES = 1024 * 1024
"""With so much unsent, nothing more of this client is begun: no request is read, and no run that waits is run."""


class Connection:
    """Owner of one client's socket. `serve` runs until the client is gone or is sent away."""

    def __init__(self, sock: socket.socket, services: Services, number: int) -> None:
        self._sock = sock
        self._services = services
        self._session = ServerSession()
        peer = peer_of(sock)
        self._client = Client(
            number=number,
            uid=peer.uid,
            process=peer.process,
            send=self._send,
            has_room=self._has_room,
            wait_for_room=self._wait_for_room,
        )
        self._in_hand: set[Id] = set()
        self._outbox = bytearray()
        self._outbox_filled = trio.Event()
        self._progress = trio.Event()
        self._scope = trio.CancelScope()

    async def serve(self) -> None:
        """Serve the client. Raises nothing that is the client's fault; cancellation cancels its runs."""
        self._services.clients += 1
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    async with trio.open_nursery() as requests:
                        await self._read(requests)
                        # After the last read, only this task notices that the client left.
                        nursery.start_soon(self._watch_gone)
                    await self._drain()
                    nursery.cancel_scope.cancel()
        except* OSError as group:
            _log.debug("client %d is gone: %s", self._client.number, group.exceptions[0])
        finally:
            self._services.clients -= 1
            self._client.gone = True
            self._services.scheduler.forget(self._client.number, self._client.process)
            self._services.unsent.discard(self._client.number)
            self._services.wake_if_idle()
            self._sock.close()
            # Megabytes, maybe, which would wait for the collector: this object is part of a cycle.
            self._session = ServerSession()
            self._outbox.clear()

    async def _read(self, nursery: trio.Nursery) -> None:
        """Read requests until the client closes its side, or sends what can't be followed."""
        settings = self._services.config.server
        owed_since = math.inf
        while True:
            if not self._session.mid_frame:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                with trio.CancelScope(deadline=owed_since + settings.stall_s) as patience:
                    await trio.lowlevel.wait_readable(self._sock)
                if patience.cancelled_caught:
                    message = f"the rest of a frame did not come within {settings.stall_s:g} s"
                    self._send_error(None, "bad_request", message)
                    return
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                if self._session.mid_frame:
                    self._send_error(None, "bad_request", "the connection ended within a frame")
                return
            events = self._session.receive(data)
            for event in events:
                match event:
                    case ProtocolError():
                        code = "too_large" if event.code == "too_large" else "bad_request"
                        self._send_error(None, code, event.message)
                        return
                    case BadMessage():
                        self._send_error(event.id, "bad_request", event.message)
                    case _:
                        await self._begin(event, nursery)
            if not self._session.mid_frame:
                owed_since = math.inf
            elif owed_since == math.inf or events:
                owed_since = trio.current_time()

    async def _begin(self, request: Request, nursery: trio.Nursery) -> None:
        if not isinstance(request, Cancel) and self._has_enough():
            async with trio.open_nursery() as waiting:
                waiting.start_soon(self._watch_gone)
                while self._has_enough():
                    await self._wait_for_progress()
                waiting.cancel_scope.cancel()
        if request.id in self._in_hand:
            self._send_error(request.id, "bad_request", "a request with this id is in hand already")
        elif self._services.draining and not isinstance(request, Cancel):
            self._send_error(request.id, "shutting_down", "the daemon is stopping")
        else:
            self._in_hand.add(request.id)
            self._services.unanswered += 1
            if isinstance(request, Run):
                # Made here, so that a cancel that comes right behind finds it.
                self._client.runs[request.id] = trio.CancelScope()
            nursery.start_soon(self._handle, request)

    def _has_enough(self) -> bool:
        return len(self._in_hand) >= self._services.config.server.max_pipelined or not self._has_room()

    def _has_room(self) -> bool:
        return len(self._outbox) <= _OUTBOX_BYTES

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            await self._wait_for_progress()

    async def _wait_for_progress(self) -> None:
        if self._progress.is_set():
            self._progress = trio.Event()
        await self._progress.wait()

    async def _handle(self, request: Request) -> None:
        try:
            reply = await HANDLERS[type(request)](request, self._services, self._client)
        except RequestError as error:
            self._send_error(request.id, error.code, error.message, error.detail)
        except trio.Cancelled:
            if self._services.draining:
                self._send_error(request.id, "shutting_down", "the daemon was stopped before this was done")
            raise
        except Exception:
            _log.exception("request %r failed", type(request).__name__)
            self._send_error(request.id, "internal", "the daemon failed at this request; its log says how")
        else:
            self._send(reply)
        finally:
            self._in_hand.discard(request.id)
            self._services.unanswered -= 1
            self._services.wake_if_idle()
            self._client.runs.pop(request.id, None)
            self._progress.set()

    def _send_error(
        self,
        id: Id | None,
        code: str,
        message: str,
        detail: dict[str, str | int | float | list[str] | None] | None = None,
    ) -> None:
        self._services.errors[code] += 1
        self._send(Error(id=id, code=code, message=message, detail=detail))  # type: ignore[arg-type]

    def _send(self, reply: Reply) -> None:
        """Send a reply, or keep what the socket does not take now for the writer."""
        data: bytes | memoryview = self._session.send(reply)
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
        self._services.unsent.add(self._client.number)
        self._outbox_filled.set()

    async def _write(self) -> None:
        """Send what the socket did not take at once. A client that reads nothing for too long is sent away."""
        stall_s = self._services.config.server.stall_s
        while True:
            await self._outbox_filled.wait()
            while self._outbox:
                with trio.move_on_after(stall_s) as patience:
                    await trio.lowlevel.wait_writable(self._sock)
                if patience.cancelled_caught:
                    _log.info("client %d does not read its replies; closed", self._client.number)
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
            self._services.unsent.discard(self._client.number)
            self._services.wake_if_idle()
            self._outbox_filled = trio.Event()

    async def _drain(self) -> None:
        while self._outbox:
            await self._wait_for_progress()

    async def _watch_gone(self) -> None:
        """Wait until the client has left, and cancel its runs. A client that only closed its writing side has not left.

        An epoll registration without events still reports EPOLLHUP and EPOLLERR, but no half-close (epoll_ctl(2)).
        """
        with select.epoll() as watch:
            watch.register(self._sock, 0)
            await trio.lowlevel.wait_readable(watch.fileno())
        self._scope.cancel()
