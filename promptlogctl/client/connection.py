"""The connection of the blocking client: shared by threads, reconnects after the daemon has restarted."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from promptlogctl.client.endpoint import Endpoint
from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.request import encoded
from promptlogctl.client.result import expect
from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import Id, Log, Reply, Request

_R = TypeVar("_R")
_READ_BYTES = 256 * 1024

_MOST_WAIT_S = 86_400.0
"""Maximum time of one poll(2), which accepts at most 24 days. A longer wait consists of several polls."""


class Connection:
    """A connection for any number of threads. The first request opens it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._sock: socket.socket | None = None
        self._session = ClientSession()
        self._next_id = 0
        self._waiting: dict[Id, deque[Reply]] = {}
        self._reading = False
        self._reader: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as known."""
        return self._sock is not None

    def close(self) -> None:
        """Close the socket. Threads that wait for a reply get ConnectionLost."""
        with self._changed:
            self._lose()

    def ask(self, make: Callable[[Id], Request], kind: type[_R], *, again: bool = True) -> _R:
        """Send a request and wait for its reply. `again`: send it once more if the connection is lost."""
        try:
            reply = self.receive(self.send(make))
        except ConnectionLost:
            if not again:
                raise
            reply = self.receive(self.send(make))
        return expect(reply, kind)

    def send(self, make: Callable[[Id], Request], *, in_background: bool = False) -> Id:
        """Send a request and return its id. `in_background`: from now on, a thread receives even if nobody waits."""
        with self._sending:
            with self._changed:
                if self._sock is not None and not self._waiting:
                    self._find_loss(self._sock)
                if self._sock is None:
                    self._sock = self._connect()
                    self._session = ClientSession()
                    self._reader = None
                if in_background and self._reader is None:
                    self._reader = threading.Thread(target=self._read_on, args=(self._sock,), daemon=True)
                    self._reader.start()
                self._next_id += 1
                id = self._next_id
                data = encoded(self._session, make(id))
                self._waiting[id] = deque()
                sock = self._sock
            try:
                # A waiting thread, or the reader thread, continues to receive.
                sock.sendall(data)
            except OSError as error:
                with self._changed:
                    if self._sock is sock:
                        self._lose()
                raise ConnectionLost(
                    f"the connection to the daemon at {self.endpoint.path} was lost: {error.strerror}"
                ) from error
            return id

    def receive(self, id: Id, deadline: float | None = None) -> Reply:
        """Return the next reply to this request. The first waiting thread receives for all.

        Raises ConnectionLost, and TimeoutError at the deadline (time.monotonic).
        """
        with self._changed:
            while True:
                if id not in self._waiting:
                    raise ConnectionLost(
                        f"the connection to the daemon at {self.endpoint.path} was lost before it answered"
                    )
                if self._waiting[id]:
                    reply = self._waiting[id].popleft()
                    if not isinstance(reply, Log):
                        del self._waiting[id]
                    return reply
                remaining = None if deadline is None else min(deadline - time.monotonic(), _MOST_WAIT_S)
                if remaining is not None and remaining <= 0:
                    raise TimeoutError("no reply yet; the run continues")
                if self._reading or self._reader is not None:
                    self._changed.wait(remaining)
                else:
                    self._read(remaining)

    def forget(self, id: Id) -> None:
        """Ignore further replies to this request."""
        with self._changed:
            self._waiting.pop(id, None)

    def _connect(self) -> socket.socket:
        path = os.fspath(self.endpoint.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            self.endpoint.check_peer(sock)
        except OSError as error:
            sock.close()
            raise self.endpoint.no_daemon(error) from None
        except BaseException:
            sock.close()
            raise
        return sock

    def _read_on(self, sock: socket.socket) -> None:
        """The reader thread: receive until this connection is lost."""
        while True:
            try:
                data = sock.recv(_READ_BYTES)
            except OSError:
                data = b""
            with self._changed:
                if self._sock is not sock:
                    return
                try:
                    self._take(data)
                except ConnectionLost:
                    return
                finally:
                    self._changed.notify_all()

    def _read(self, timeout: float | None) -> None:
        sock = self._sock
        if sock is None:
            self._lose()
            return
        self._reading = True
        self._changed.release()
        data: bytes | None = None
        try:
            ready = select.poll()
            ready.register(sock, select.POLLIN)
            if timeout is None or ready.poll(timeout * 1000):
                data = sock.recv(_READ_BYTES)
        except (OSError, ValueError):
            data = b""
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        if data is not None and self._sock is sock:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Pass replies to the threads that wait for them. Raises ConnectionLost for invalid data."""
        if not data:
            self._lose()
            return
        try:
            replies = self._session.receive(data)
        except ProtocolError as error:
            self._lose()
            raise ConnectionLost(f"the daemon sent an invalid reply: {error}") from error
        for reply in replies:
            if reply.id is None:
                self._lose()
            elif reply.id in self._waiting:
                self._waiting[reply.id].append(reply)

    def _find_loss(self, sock: socket.socket) -> None:
        """Close the connection if the daemon has closed it since the last request. Drops replies that came late."""
        while self._sock is sock and self._reader is None:  # a reader thread detects the loss itself
            try:
                data = sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            with suppress(ConnectionLost):  # `_take` has closed it
                self._take(data)

    def _lose(self) -> None:
        if self._sock is not None:
            # shutdown(2) wakes a thread that reads from the socket; close(2) alone does not.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
            self._sock = None
        self._reader = None
        # Received replies stay available to the threads that wait for them.
        self._waiting = {id: replies for id, replies in self._waiting.items() if replies}
        self._changed.notify_all()
