"""The asynchronous client, for trio and asyncio by way of anyio: one connection, any number of tasks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar, Unpack

from promptlogctl.client.async_connection import AsyncConnection
from promptlogctl.client.endpoint import find_endpoint
from promptlogctl.client.pending_reply import PendingReply
from promptlogctl.client.request import (
    OnLog,
    RequestOptions,
    SourceOptions,
    SubmitOptions,
    check_options,
    run_request,
    submit_request,
)
from promptlogctl.client.result import RunResult, Submission
from promptlogd.wire import messages
from promptlogd.wire.messages import Id, Request

_R = TypeVar("_R")


class AsyncClient:
    """A connection to promptlogd, opened at the first request, and again after the daemon was restarted.

    The tasks of one event loop may use it side by side. At most 100 requests are in flight; further ones wait.
    `socket`: the daemon's socket; default $PROMPTLOG_SOCKET, else the default path of this user's daemon.

    Raises NoDaemon where nobody answers, UntrustedDaemon where a stranger answers on the default path, RequestRefused
    for an `error` reply, ConnectionLost. Cancelling a task that waits for a run cancels the run.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._connection = AsyncConnection(find_endpoint(socket))

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._connection.endpoint.path

    @property
    def in_flight(self) -> int:
        """Number of requests that the daemon has."""
        return self._connection.in_flight

    @property
    def has_place(self) -> bool:
        """Whether a request would begin at once, and not wait for others."""
        return self._connection.has_place

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon cancels what is still running."""
        self._connection.close()

    async def submit(self, source: str | bytes, **options: Unpack[SubmitOptions]) -> Submission:
        """Keep a program, and put a name on it if one is given. Raises ValueError for bytes that are not UTF-8."""
        check_options("AsyncClient.submit", SubmitOptions, options)
        reply = await self.ask(lambda id: submit_request(id, source, options), messages.Submitted)
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
        reply = await self.ask(
            lambda id: run_request(id, reference, source, prompt, options),
            messages.Finished,
            options.get("on_log"),
            again=False,
        )
        return RunResult.of(reply)

    async def run_source(self, source: str | bytes, prompt: str = "", **options: Unpack[SourceOptions]) -> RunResult:
        """Run a program that is not kept, and wait for its end."""
        check_options("AsyncClient.run_source", SourceOptions, options)
        return await self.run(None, prompt, source=source, **options)

    async def show(self, reference: str, *, source: bool = False, **options: Unpack[RequestOptions]) -> messages.Shown:
        """Return what is known of a program, with its source if asked for."""
        return await self.ask(lambda id: messages.Show(id=id, hash=reference, source=source, **options), messages.Shown)

    async def list(self, **options: Unpack[RequestOptions]) -> AsyncIterator[messages.Listing]:
        """Yield all programs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = await self.page(after, **options)
            for row in page.programs:
                yield row
            if page.next is None:
                return
            after = page.next

    async def page(
        self, after: str | None = None, limit: int = 100, **options: Unpack[RequestOptions]
    ) -> messages.Listed:
        """Return one page of the list: at most `limit` programs, those behind the `next` of the page before."""
        return await self.ask(lambda id: messages.List(id=id, after=after, limit=limit, **options), messages.Listed)

    async def remove(self, reference: str, **options: Unpack[RequestOptions]) -> messages.Removed:
        """Remove a program and the names on it."""
        return await self.ask(
            lambda id: messages.Remove(id=id, hash=reference, **options), messages.Removed, again=False
        )

    async def label(self, name: str, reference: str | None = None, **options: Unpack[RequestOptions]) -> messages.Named:
        """Move a name to a program; without one, back to where the name was before."""
        again = reference is not None
        return await self.ask(
            lambda id: messages.Label(id=id, name=name, hash=reference, **options), messages.Named, again=again
        )

    async def stats(self) -> messages.StatsReply:
        """Return the daemon's counts."""
        return await self.ask(lambda id: messages.Stats(id=id), messages.StatsReply)

    async def config(self) -> messages.ConfigReply:
        """Return the daemon's settings in force, and where each value came from."""
        return await self.ask(lambda id: messages.Config(id=id), messages.ConfigReply)

    async def ping(self, **options: Unpack[RequestOptions]) -> messages.Pong:
        """Return the daemon's versions."""
        return await self.ask(lambda id: messages.Ping(id=id, **options), messages.Pong)

    async def ask(
        self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None = None, *, again: bool = True
    ) -> _R:
        """Send a request of the protocol (docs/protocol.md) and return its reply, which is of this kind.

        `make`: returns the request, given its id. `again`: whether the request is sent once more if the connection is
        lost; False for runs, since the first one may have begun.
        """
        return await self._connection.ask(make, kind, on_log, again=again)

    async def send(self, make: Callable[[Id], Request], on_log: OnLog | None = None) -> PendingReply:
        """Send a request of the protocol, and return a `PendingReply`. The caller must close it.

        Use it instead of `ask` to stop waiting without cancelling at once.
        """
        return await self._connection.send(make, on_log)
