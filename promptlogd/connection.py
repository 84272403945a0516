"""One client connection: decodes requests from the socket, passes them to their handlers, and sends the replies.

Whatever a client does, the worst effect is the end of its connection. Requests are processed concurrently. Replies are
sent as soon as they are ready.

    socket -> session -> _take --+--> a handler, for at most `max_pipelined` requests -> sink -> outbox -> socket
                                 +--> _waiting: read ahead, in order

- **Reading ahead.** Requests beyond `max_pipelined` are read and wait. So a `cancel`, `ping` or `stats` after them is
  answered at once, with a short reply. A `stats` takes a task, so `_MORE_STATS` bounds their number; others wait. A
  `cancel` of a waiting run answers it without starting it.
- **Budgets** (budget.py). Requests are counted by their texts and a fixed size each until they are answered,
  replies until the socket has accepted them. The daemon does not read from a connection that exceeds either budget.
  While a connection exceeds its budget of replies, none of its requests starts, and the daemon does not read from the
  cells of its runs that stream console lines.
- **Turns.** The connections of one process share a limited loop time (share.py) for opening, reading, starting
  requests, and closing.
- **Stalls.** A connection is closed if its client does not read replies (outbox.py has the rule), or if the rest of a
  frame does not arrive within `stall_s` (inbox.py).

More than 300 lines, because the order of these steps is in one place.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import perf_counter

import msgspec
import trio

from promptlogd.clients import Clients
from promptlogd.config import Server
from promptlogd.decoder import Decoder, DecoderFailed
from promptlogd.handlers.table import Handlers
from promptlogd.inbox import AT_ONCE, CLOSE_S, Inbox
from promptlogd.log_fields import about
from promptlogd.outbox import Outbox
from promptlogd.peer import peer_of
from promptlogd.principal import Principal
from promptlogd.refusal import BUSY_MS, Detail, RequestError
from promptlogd.request_sink import RequestSink, bytes_of
from promptlogd.runs import Runs
from promptlogd.wire import INLINE_BYTES, BadMessage, Encoding, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Cancel, Error, ErrorCode, Id, Reply, Request, Run, Stats

_log = logging.getLogger(__name__)

_OPEN_S = 0.0003
"""Loop time that opening a connection takes."""

_MORE_STATS = 16
"""Requests of type `stats` that one connection may have in progress beyond `max_pipelined`."""

_STOPPED = RequestError("shutting_down", "the daemon was stopped before this request was done")


class Connection:
    """Owns one client's socket. `serve` runs until the connection ends."""

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        *,
        clients: Clients,
        handlers: Handlers,
        runs: Runs,
        settings: Server,
        fronts: frozenset[int],
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
        self._principal = Principal(connection=number, uid=peer.uid, gid=peer.gid, gids=peer.gids, process=peer.process)
        self._may_name_tenants = peer.uid == os.geteuid() or peer.uid in fronts
        self._budget = clients.budgets.open(self._principal)
        self._inbox = Inbox(
            sock,
            self._session,
            self._budget,
            clients.arrivals,
            stall_s=settings.stall_s,
            unless_gone=self._unless_gone,
            decode=self._decode,
        )
        self._in_hand: dict[Id, RequestSink] = {}
        self._waiting: dict[Id, Request] = {}
        """Requests that were read ahead and wait, in order."""
        self._starting = False
        """Whether a task is starting the waiting requests."""
        self._progress: trio.Event | None = None
        """Set when the next request starts or is answered. None while nobody waits for it."""
        self._when_room: list[Callable[[], None]] = []
        self._outbox = Outbox(
            sock,
            number,
            clients=clients,
            account=self._budget.replies,
            stall_s=settings.stall_s,
            end=self._end,
            spawn=self._spawn,
        )
        self._tasks: trio.Nursery | None = None
        """Tasks that end with the connection."""

    async def serve(self) -> None:
        """Serve the client. Errors of the client are not raised. Cancellation cancels its runs."""
        self._clients.connected += 1
        number = self._principal.connection
        try:
            await self._budget.share.turn()
            self._budget.share.spend(_OPEN_S)
            async with trio.open_nursery() as tasks:
                self._tasks = tasks
                await self._read(tasks)
                # Nothing reads from now on, so a watch reports a disconnect.
                self._clients.arrivals.watch(self._sock, self._budget.share, self._gone)
                while self._in_hand or self._waiting:
                    await self._wait_for_progress()
                # Leaving the block waits until the outbox's task has sent all replies.
        except* OSError as group:
            _log.debug("client %d has disconnected: %s", number, group.exceptions[0])
        finally:
            for sink in list(self._in_hand.values()):
                if self._clients.draining:
                    sink.refuse(_STOPPED)
                sink.abandon()
            if self._clients.draining:
                for id in self._waiting:
                    self.send_error(id, _STOPPED.code, _STOPPED.message)
            self._clients.unanswered -= len(self._waiting)  # the budget releases their bytes as a whole
            self._waiting.clear()
            self._budget.replies.forget(self._tell_room)
            self._clients.connected -= 1
            self._clients.budgets.close(self._budget, self._principal)
            self._runs.admission.forget(number)
            self._clients.arrivals.forget(self._sock)
            self._sock.close()
            self._outbox.clear()
            self._clients.wake_if_idle()
            # Break the reference cycles: otherwise the buffers stay until the next garbage collection.
            vars(self).clear()

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._tasks is not None:
            with suppress(RuntimeError):  # the nursery is closed: the connection ends
                self._tasks.start_soon(work)

    async def _read(self, tasks: trio.Nursery) -> None:
        """Read requests until the client closes its side, or sends a frame that cannot be decoded."""
        try:
            await self._inbox.read(lambda request: self._take(request, tasks))
        except ProtocolError as error:
            # Current requests may take long. Others wait for the place of the unfinished frame, so return it now.
            self._inbox.clear()
            detail: Detail | None = {"retry_after_ms": BUSY_MS} if error.code == "busy" else None
            self.send_error(None, error.code, error.message, detail)

    async def _decode(self, come: Unread) -> Request | BadMessage | ProtocolError:
        """Have the decoder process decode a large frame. Until then, nothing is read from this client."""
        decoded: list[Request | BadMessage | ProtocolError] = []

        async def decode() -> None:
            try:
                decoded.append(await self._decoder.request(self._principal.uid, come.payload, come.encoding))
            except DecoderFailed as error:
                decoded.append(ProtocolError(str(error), code="internal"))

        await self._unless_gone(decode)
        return decoded[0]

    async def _unless_gone(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for something other than the socket, but still notice a disconnect."""
        with self._clients.arrivals.watching(self._sock, self._budget.share, self._gone):
            await wait()

    def _gone(self) -> None:
        """End the connection after a disconnect. Its runs are cancelled."""
        self._budget.share.spend(CLOSE_S)
        self._end()

    def _end(self) -> None:
        """End the connection now."""
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    def _take(self, request: Request | BadMessage, tasks: trio.Nursery) -> None:
        """Start a request, queue it, or refuse it."""
        if isinstance(request, BadMessage):
            detail: Detail | None = None if request.detail is None else {**request.detail}
            self.send_error(request.id, request.code, request.message, detail)
        elif request.id in self._in_hand or request.id in self._waiting:
            self.send_error(request.id, "bad_request", "another request with this id is in progress")
        elif self._clients.draining and not isinstance(request, Cancel):
            self.send_error(request.id, "shutting_down", "the daemon is stopping")
        elif request.tenant is not None and not self._may_name_tenants:
            message = "only fronts may name a tenant: see `server.fronts` in the configuration"
            self.send_error(request.id, "forbidden", message, {"field": "tenant"})
        else:
            self._clients.unanswered += 1
            if (not self._waiting and self._may_start()) or self._is_at_once(request):
                self._start(request, tasks)
            else:
                self._waiting[request.id] = request
                self._budget.requests.charge(bytes_of(request))
                if not self._starting:
                    self._starting = True
                    tasks.start_soon(self._start_waiting, tasks)

    def _is_at_once(self, request: Request) -> bool:
        """Whether a request overtakes waiting requests. Each `stats` takes a task, so their number is bounded."""
        most = self._settings.max_pipelined + _MORE_STATS
        return isinstance(request, AT_ONCE) and not (isinstance(request, Stats) and len(self._in_hand) >= most)

    def _may_start(self) -> bool:
        return len(self._in_hand) < self._settings.max_pipelined and self.has_room()

    async def _start_waiting(self, tasks: trio.Nursery) -> None:
        """Start the waiting requests, each as soon as it may start."""
        while self._waiting:
            while not self._may_start():
                await self._budget.replies.room()
                while len(self._in_hand) >= self._settings.max_pipelined:
                    await self._wait_for_progress()
            began = perf_counter()
            if self._waiting:  # otherwise they were cancelled
                request = self._waiting.pop(next(iter(self._waiting)))
                if self._clients.draining:
                    self.send_error(request.id, _STOPPED.code, _STOPPED.message)
                    self._answered(bytes_of(request))
                else:
                    self._budget.requests.release(bytes_of(request))
                    self._start(request, tasks)
            self._budget.pass_on()
            self._budget.share.spend(perf_counter() - began)
            await trio.lowlevel.checkpoint()
            await self._budget.share.turn()
        self._starting = False
        self._note_progress()

    def _start(self, request: Request, tasks: trio.Nursery, *, cancelled: bool = False) -> None:
        principal = self._principal
        if request.tenant is not None:
            principal = msgspec.structs.replace(principal, tenant=request.tenant, manages=request.manage)
        sink = self._in_hand[request.id] = RequestSink(self, request, tasks, cancelled=cancelled)
        self._budget.requests.charge(sink.held_bytes)
        try:
            self._handlers[type(request)].start(principal, request, sink)
        except RequestError as error:
            sink.refuse(error)
        except Exception:
            sink.fail()

    def has_room(self) -> bool:
        """Whether this client, and those that share its memory budgets, read their replies fast enough."""
        return not self._budget.replies.is_over()

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once they have read enough replies."""
        self._when_room.append(callback)
        if len(self._when_room) == 1:
            self._budget.replies.when_room(self._tell_room)

    @property
    def encoding(self) -> Encoding:
        """Encoding of replies."""
        return self._session.encoding

    def _tell_room(self) -> None:
        if self.has_room():
            waiting, self._when_room = self._when_room, []
            for callback in waiting:
                callback()
            self._budget.pass_on()
        else:
            self._budget.replies.when_room(self._tell_room)

    def cancel(self, target: Id, tasks: trio.Nursery) -> bool:
        """Cancel the run of a request, started or waiting. Return whether there is one."""
        waiting = self._waiting.get(target)
        if isinstance(waiting, Run):
            del self._waiting[target]
            self._budget.requests.release(bytes_of(waiting))
            self._start(waiting, tasks, cancelled=True)
            return True
        sink = self._in_hand.get(target)
        return sink is not None and sink.cancel()

    async def work(self, work: Callable[[], Awaitable[Reply | None]], sink: RequestSink) -> None:
        """Run `work`, and send the reply that it returns, if any."""
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
        """Note that the last reply to a request was sent."""
        sink = self._in_hand.pop(id, None)
        if sink is not None:
            self._answered(sink.held_bytes)

    def _answered(self, held_bytes: int) -> None:
        self._budget.requests.release(held_bytes)
        self._clients.unanswered -= 1
        self._clients.wake_if_idle()
        if self._progress is not None:
            self._note_progress()

    def _note_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set()

    async def _wait_for_progress(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def send_error(
        self,
        id: Id | None,
        code: ErrorCode,
        message: str,
        detail: Detail | None = None,
        *,
        tenant: str | None = None,
        hash: str | None = None,
    ) -> None:
        """Send an error, count it, and log it."""
        self._clients.errors[code] += 1
        if code == "quota" and detail is not None:
            self._clients.quotas[str(detail["quota"])] += 1
        self._clients.on_refusal(self._principal.uid, tenant, code)
        uid, number = self._principal.uid, self._principal.connection
        fields = about("refuse", uid=uid, tenant=tenant, connection=number, code=code, hash=hash)
        of = f" (program {hash[:12]})" if hash else ""
        _log.info("uid %d, client %d: a request was refused: %s%s", uid, number, code, of, extra=fields)
        self.send(Error(id=id, code=code, message=message, detail=detail))

    def send(self, reply: Reply) -> None:
        """Send a reply."""
        self._outbox.send(self._session.send(reply))

    def send_together(self, replies: Sequence[Reply]) -> None:
        """Send several replies with one system call, if the socket takes them."""
        self._outbox.send([part for reply in replies for part in self._session.send(reply)])
