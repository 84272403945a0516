"""The asynchronous client, for trio and asyncio by way of anyio: one connection, any number of tasks."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar, Unpack

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from promptlogctl.client.endpoint import find_endpoint
from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.request import (
    OnLog,
    SourceOptions,
    SubmitOptions,
    check_options,
    encoded,
    run_request,
    submit_request,
)
from promptlogctl.client.result import RunResult, Submission, expect
from promptlogd.wire import ClientSession, ProtocolError, messages
from promptlogd.wire.messages import Id, Log, Reply, Request
from sandbox.outcome import LogLine

_R = TypeVar("_R")
_READ_BYTES = 256 * 1024


class AsyncClient:
    """A connection to promptlogd, open for the length of an `async with`. Tasks may use it side by side.

    Raises NoDaemon on entering, or UntrustedDaemon where a stranger answers on the default path; RequestRefused for an
    `error` reply; ConnectionLost. Cancelling a task that waits for a run cancels the run.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._endpoint = find_endpoint(socket)
        self._session = ClientSession()
        self._stack = AsyncExitStack()
        self._stream: ByteStream | None = None
        self._outgoing: MemoryObjectSendStream[bytes]
        self._next_id = 0
        self._waiting: dict[Id, MemoryObjectSendStream[Reply]] = {}
        self._lost = False

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._endpoint.path

    async def __aenter__(self) -> AsyncClient:
        try:
            stream = await anyio.connect_unix(os.fspath(self.socket_path))
        except OSError as error:
            raise self._endpoint.no_daemon(error) from None
        try:
            self._endpoint.check_peer(stream.extra(SocketAttribute.raw_socket))
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        self._stream = await self._stack.enter_async_context(stream)
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        self._outgoing, outgoing = anyio.create_memory_object_stream[bytes](math.inf)
        self._group.start_soon(self._read, self._stream)
        self._group.start_soon(self._write, self._stream, outgoing)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._group.cancel_scope.cancel()
        self._outgoing.close()
        await self._stack.__aexit__(None, None, None)

    async def submit(self, source: str | bytes, **options: Unpack[SubmitOptions]) -> Submission:
        """Keep a program, and put a name on it if one is given. Raises ValueError for bytes that are not UTF-8."""
        check_options("AsyncClient.submit", SubmitOptions, options)
        reply = await self._ask(lambda id: submit_request(id, source, options), messages.Submitted)
        return Submission(hash=reply.hash, created=reply.created, engine=reply.engine)

    async def run(
        self,
        reference: str | None,
        prompt: str = "",
        *,
        source: str | bytes | None = None,
        **options: Unpack[SourceOptions],
    ) -> RunResult:
        """Run a kept program (hash, prefix or @name), or a source, and wait for its end."""
        check_options("AsyncClient.run", SourceOptions, options)
        reply = await self._ask(
            lambda id: run_request(id, reference, source, prompt, options), messages.Finished, options.get("on_log")
        )
        return RunResult.of(reply)

    async def run_source(self, source: str | bytes, prompt: str = "", **options: Unpack[SourceOptions]) -> RunResult:
        """Run a program that is not kept, and wait for its end."""
        check_options("AsyncClient.run_source", SourceOptions, options)
        return await self.run(None, prompt, source=source, **options)

    async def show(self, reference: str, *, source: bool = False) -> messages.Shown:
        """Return what is known of a program, with its source if asked for."""
        return await self._ask(lambda id: messages.Show(id=id, hash=reference, source=source), messages.Shown)

    async def list(self) -> AsyncIterator[messages.Listing]:
        """Yield all programs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = await self._ask(lambda id, after=after: messages.List(id=id, after=after), messages.Listed)  # type: ignore[misc]
            for row in page.programs:
                yield row
            if page.next is None:
                return
            after = page.next

    async def remove(self, reference: str) -> messages.Removed:
        """Remove a program and the names on it."""
        return await self._ask(lambda id: messages.Remove(id=id, hash=reference), messages.Removed)

    async def label(self, name: str, reference: str | None = None) -> messages.Named:
        """Move a name to a program; without one, back to where the name was before."""
        return await self._ask(lambda id: messages.Label(id=id, name=name, hash=reference), messages.Named)

    async def stats(self) -> messages.StatsReply:
        """Return the daemon's counts."""
        return await self._ask(lambda id: messages.Stats(id=id), messages.StatsReply)

    async def ping(self) -> messages.Pong:
        """Return the daemon's versions."""
        return await self._ask(lambda id: messages.Ping(id=id), messages.Pong)

    async def _ask(self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None = None) -> _R:
        if self._stream is None:
            raise RuntimeError("the client is not open; use: async with AsyncClient() as client")
        if self._lost:
            raise ConnectionLost(f"the daemon at {self.socket_path} went away")
        self._next_id += 1
        id = self._next_id
        send, receive = anyio.create_memory_object_stream[Reply](math.inf)
        self._waiting[id] = send
        finished = False
        try:
            with send, receive:
                self._send(make(id))
                async for reply in receive:
                    if not isinstance(reply, Log):
                        finished = True
                        return expect(reply, kind)
                    if on_log is not None:
                        on_log(LogLine(level=reply.level, text=reply.text))
            raise ConnectionLost(f"the daemon at {self.socket_path} went away before it answered")
        finally:
            self._waiting.pop(id, None)
            if not finished and kind is messages.Finished and not self._lost:
                self._abandon(id)

    def _abandon(self, target: Id) -> None:
        self._next_id += 1
        try:
            self._send(messages.Cancel(id=self._next_id, target=target))
        except ConnectionLost:
            pass

    def _send(self, request: Request) -> None:
        # Written by a task of its own, since half a frame of a cancelled task would be the end of all others.
        try:
            self._outgoing.send_nowait(encoded(self._session, request))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ConnectionLost(f"the daemon at {self.socket_path} went away") from error

    async def _write(self, stream: ByteStream, outgoing: MemoryObjectReceiveStream[bytes]) -> None:
        with outgoing:
            try:
                async for data in outgoing:
                    await stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._lose()

    async def _read(self, stream: ByteStream) -> None:
        try:
            while True:
                for reply in self._session.receive(await stream.receive(_READ_BYTES)):
                    if reply.id is None:
                        return
                    if (waiting := self._waiting.get(reply.id)) is not None:
                        waiting.send_nowait(reply)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError):
            pass
        finally:
            self._lose()

    def _lose(self) -> None:
        self._lost = True
        for waiting in self._waiting.values():
            waiting.close()
