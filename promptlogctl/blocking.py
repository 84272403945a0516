"""The synchronous client: one connection, any number of threads, any number of requests in flight."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from promptlogctl.endpoint import find_endpoint
from promptlogctl.errors import ConnectionLost, NoDaemon, RequestRefused
from promptlogctl.result import Isolation, RunResult, Submission, encoded, run_request, submit_request
from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import (
    Cancel,
    Cancelling,
    Engine,
    Error,
    Finished,
    Id,
    Label,
    Language,
    LimitsAsked,
    List,
    Listed,
    Listing,
    Log,
    Named,
    Ping,
    Pong,
    Remove,
    Removed,
    Reply,
    Request,
    Show,
    Shown,
    Stats,
    StatsReply,
    Submitted,
)
from sandbox.outcome import LogLine

_R = TypeVar("_R")
_READ_BYTES = 256 * 1024
_CANCEL_S = 2.0

OnLog = Callable[[LogLine], None]


class Client:
    """A connection to promptlogd, opened at the first request and used again for the next ones.

    `socket`: the daemon's socket; default $PROMPTLOG_SOCKET, else the default path of this user's daemon.
    Raises NoDaemon where nobody answers, UntrustedDaemon where a stranger answers on the default path, RequestRefused
    for an `error` reply, ConnectionLost.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._endpoint = find_endpoint(socket)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._sock: socket_type | None = None
        self._session = ClientSession()
        self._next_id = 0
        self._waiting: dict[Id, deque[Reply]] = {}
        self._reading = False
        self._reader: threading.Thread | None = None

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._endpoint.path

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon cancels what is still running."""
        with self._changed:
            self._lose()

    # --- requests -----------------------------------------------------------------------------------------

    def submit(
        self,
        source: str | bytes,
        *,
        name: str | None = None,
        engine: Engine | None = None,
        language: Language | None = None,
    ) -> Submission:
        """Keep a program, and put a name on it if one is given. Raises ValueError for bytes that are not UTF-8.

        `engine`: what runs it where a run does not say; TypeScript needs deno, and has it by default.
        """
        reply = self._ask(lambda id: submit_request(id, source, name, engine, language), Submitted)
        return Submission(hash=reply.hash, created=reply.created, engine=reply.engine)

    def run(
        self,
        reference: str,
        prompt: str = "",
        *,
        env: Mapping[str, Any] | None = None,
        limits: LimitsAsked | None = None,
        isolation: Isolation | None = None,
        engine: Engine | None = None,
        on_log: OnLog | None = None,
    ) -> RunResult:
        """Run a kept program (hash, prefix or @name) and wait for its end. `on_log` gets its lines as they come."""
        return self._start(
            reference, prompt, env=env, limits=limits, isolation=isolation, engine=engine, on_log=on_log
        ).result()

    def run_source(
        self,
        source: str | bytes,
        prompt: str = "",
        *,
        env: Mapping[str, Any] | None = None,
        limits: LimitsAsked | None = None,
        isolation: Isolation | None = None,
        engine: Engine | None = None,
        language: Language | None = None,
        on_log: OnLog | None = None,
    ) -> RunResult:
        """Run a program that is not kept, and wait for its end."""
        return self._start(
            None,
            prompt,
            source=source,
            env=env,
            limits=limits,
            isolation=isolation,
            engine=engine,
            language=language,
            on_log=on_log,
        ).result()

    def start(
        self,
        reference: str | None,
        prompt: str = "",
        *,
        source: str | bytes | None = None,
        env: Mapping[str, Any] | None = None,
        limits: LimitsAsked | None = None,
        isolation: Isolation | None = None,
        engine: Engine | None = None,
        language: Language | None = None,
        on_log: OnLog | None = None,
    ) -> PendingRun:
        """Start a run and return at once. Any number may be in flight; their ends come in any order.

        From the first `start` on a thread of the client's own reads what comes, whether somebody waits for it or not.
        """
        return self._start(
            reference,
            prompt,
            source=source,
            env=env,
            limits=limits,
            isolation=isolation,
            engine=engine,
            language=language,
            on_log=on_log,
            in_background=True,
        )

    def _start(
        self,
        reference: str | None,
        prompt: str = "",
        *,
        source: str | bytes | None = None,
        env: Mapping[str, Any] | None = None,
        limits: LimitsAsked | None = None,
        isolation: Isolation | None = None,
        engine: Engine | None = None,
        language: Language | None = None,
        on_log: OnLog | None = None,
        in_background: bool = False,
    ) -> PendingRun:
        id = self._send(
            lambda id: run_request(
                id,
                reference=reference,
                source=source,
                prompt=prompt,
                env=env,
                limits=limits,
                isolation=isolation,
                engine=engine,
                language=language,
                stream_logs=on_log is not None,
            ),
            in_background=in_background,
        )
        return PendingRun(self, id, on_log)

    def show(self, reference: str, *, source: bool = False) -> Shown:
        """Return what is known of a program, with its source if asked for."""
        return self._ask(lambda id: Show(id=id, hash=reference, source=source), Shown)

    def list(self) -> Iterator[Listing]:
        """Yield all programs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = self._ask(lambda id, after=after: List(id=id, after=after), Listed)  # type: ignore[misc]
            yield from page.programs
            if page.next is None:
                return
            after = page.next

    def remove(self, reference: str) -> Removed:
        """Remove a program and the names on it."""
        return self._ask(lambda id: Remove(id=id, hash=reference), Removed, again=False)

    def label(self, name: str, reference: str | None = None) -> Named:
        """Move a name to a program; without one, back to where the name was before."""
        return self._ask(lambda id: Label(id=id, name=name, hash=reference), Named, again=reference is not None)

    def stats(self) -> StatsReply:
        """Return the daemon's counts."""
        return self._ask(lambda id: Stats(id=id), StatsReply)

    def ping(self) -> Pong:
        """Return the daemon's versions."""
        return self._ask(lambda id: Ping(id=id), Pong)

    # --- the connection -----------------------------------------------------------------------------------

    def _ask(self, make: Callable[[Id], Request], kind: type[_R], *, again: bool = True) -> _R:
        """Send a request and wait for its answer. `again`: it may be done twice, should the connection be lost."""
        try:
            reply = self._receive(self._send(make))
        except ConnectionLost:
            if not again:
                raise
            reply = self._receive(self._send(make))
        return self._expect(reply, kind)

    @staticmethod
    def _expect(reply: Reply, kind: type[_R]) -> _R:
        if isinstance(reply, Error):
            raise RequestRefused(reply)
        if not isinstance(reply, kind):
            raise ConnectionLost(f"the daemon answered with {type(reply).__name__}")
        return reply

    def _send(self, make: Callable[[Id], Request], *, in_background: bool = False) -> Id:
        with self._sending:
            with self._changed:
                if self._sock is not None and not self._waiting and self._is_gone(self._sock):
                    self._lose()  # the daemon was restarted since the last request
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
                # Whoever waits for a reply, or the reader, goes on reading meanwhile.
                sock.sendall(data)
            except OSError as error:
                with self._changed:
                    if self._sock is sock:
                        self._lose()
                raise ConnectionLost(f"the daemon at {self.socket_path} went away: {error.strerror}") from error
            return id

    @staticmethod
    def _is_gone(sock: socket_type) -> bool:
        try:
            return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _read_on(self, sock: socket_type) -> None:
        """Read until this connection is lost: the reader thread."""
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

    def _connect(self) -> socket_type:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(os.fspath(self.socket_path))
        except OSError as error:
            sock.close()
            raise NoDaemon(str(self.socket_path), error.strerror or str(error)) from None
        try:
            self._endpoint.check_peer(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _receive(self, id: Id, deadline: float | None = None) -> Reply:
        """Return the next reply to this request. Whoever waits first reads for all."""
        with self._changed:
            while True:
                if id not in self._waiting:
                    raise ConnectionLost(f"the daemon at {self.socket_path} went away before it answered")
                if self._waiting[id]:
                    reply = self._waiting[id].popleft()
                    if not isinstance(reply, Log):
                        del self._waiting[id]
                    return reply
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError("the run goes on: no reply yet")
                if self._reading or self._reader is not None:
                    self._changed.wait(remaining)
                else:
                    self._read(remaining)

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
        """Give what came to those who wait for it. Raises ConnectionLost for what is no reply."""
        if not data:
            self._lose()
            return
        try:
            replies = self._session.receive(data)
        except ProtocolError as error:
            self._lose()
            raise ConnectionLost(f"the daemon wrote what is no reply: {error}") from error
        for reply in replies:
            if reply.id is None:
                self._lose()
            elif reply.id in self._waiting:
                self._waiting[reply.id].append(reply)

    def _lose(self) -> None:
        if self._sock is not None:
            # Wakes who reads from it, too; to close alone would not.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
            self._sock = None
        self._reader = None
        # What has come is still there for who waits for it.
        self._waiting = {id: replies for id, replies in self._waiting.items() if replies}
        self._changed.notify_all()


socket_type = socket.socket


class PendingRun:
    """A run in flight."""

    def __init__(self, client: Client, id: Id, on_log: OnLog | None) -> None:
        self._client = client
        self._id = id
        self._on_log = on_log
        self._result: RunResult | None = None

    def result(self, timeout: float | None = None) -> RunResult:
        """Wait for the end, `timeout` seconds at the most (then TimeoutError; the run goes on).

        Left by another exception, a KeyboardInterrupt say, the run is cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while self._result is None:
                reply = self._client._receive(self._id, deadline)
                if isinstance(reply, Log):
                    if self._on_log is not None:
                        self._on_log(LogLine(level=reply.level, text=reply.text))
                else:
                    self._result = RunResult.of(self._client._expect(reply, Finished))
        except (TimeoutError, RequestRefused, ConnectionLost):
            raise
        except BaseException:
            self._abandon()
            raise
        return self._result

    def cancel(self) -> bool:
        """Ask the daemon to cancel; return whether there was something to cancel. `result` tells the end."""
        return self._client._ask(lambda id: Cancel(id=id, target=self._id), Cancelling).found

    def _abandon(self) -> None:
        try:
            self._client._send(lambda id: Cancel(id=id, target=self._id))
            deadline = time.monotonic() + _CANCEL_S
            while isinstance(self._client._receive(self._id, deadline), Log):
                pass
        except (ConnectionLost, NoDaemon, TimeoutError):
            pass
