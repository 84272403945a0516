"""The asynchronous client, for trio and asyncio with anyio: one connection, any number of tasks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from msgspec import structs

from promptlogctl.client.async_connection import AsyncConnection
from promptlogctl.client.endpoint import find_endpoint
from promptlogctl.client.pending_reply import PendingReply
from promptlogctl.client.request import (
    JOURNAL_PAGE,
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
    """A connection to promptlogd. The first request opens it, and it reconnects after the daemon has restarted.

    The tasks of one event loop may use it concurrently. At most 100 requests are in flight; further ones wait.
    `socket`: the daemon's socket. Default: $PROMPTLOG_SOCKET, else the default path of this user's daemon.

    Raises NoDaemon if no daemon answers, UntrustedDaemon if another user's process answers on the default path,
    RequestRefused for an `error` reply, and ConnectionLost. Cancelling a task that waits for a run cancels the run.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._connection = AsyncConnection(find_endpoint(socket))

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._connection.endpoint.path

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return self._connection.in_flight

    @property
    def has_place(self) -> bool:
        """Whether a request would be sent at once."""
        return self._connection.has_place

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.socket_path}, {self.in_flight} requests in flight>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The daemon cancels runs that are in progress."""
        self._connection.close()

    async def submit(self, source: str | bytes, **options: Unpack[SubmitOptions]) -> Submission:
        """Store a program, optionally with a name. Raises ValueError for bytes that are not UTF-8."""
        check_options("AsyncClient.submit", SubmitOptions, options)
        reply = await self.ask(lambda id: submit_request(id, source, options), messages.Submitted)
        return Submission.of(reply)

    async def run(
        self,
        reference: str | None,
        prompt: str = "",
        *,
        source: str | bytes | None = None,
        **options: Unpack[SourceOptions],
    ) -> RunResult:
        """Run a stored program (hash, prefix or @name), or a source, and wait for the result."""
        check_options("AsyncClient.run", SourceOptions, options)
        reply = await self.ask(
            lambda id: run_request(id, reference, source, prompt, options),
            messages.Finished,
            options.get("on_log"),
            again=False,
        )
        return RunResult.of(reply)

    async def run_source(self, source: str | bytes, prompt: str = "", **options: Unpack[SourceOptions]) -> RunResult:
        """Run a program without storing it, and wait for the result."""
        check_options("AsyncClient.run_source", SourceOptions, options)
        return await self.run(None, prompt, source=source, **options)

    async def show(self, reference: str, *, source: bool = False, **options: Unpack[RequestOptions]) -> messages.Shown:
        """Describe a program, optionally with its source."""
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
        """Return one page of the list: at most `limit` programs, from the `next` of the previous page on."""
        return await self.ask(lambda id: messages.List(id=id, after=after, limit=limit, **options), messages.Listed)

    async def remove(self, reference: str, **options: Unpack[RequestOptions]) -> messages.Removed:
        """Remove a program and its names."""
        return await self.ask(
            lambda id: messages.Remove(id=id, hash=reference, **options), messages.Removed, again=False
        )

    async def label(
        self,
        name: str,
        reference: str | None = None,
        *,
        visibility: messages.Visibility | None = None,
        **options: Unpack[RequestOptions],
    ) -> messages.Named:
        """Move a name to a program. Without a program, undo the name's last move. `visibility`: who sees the name."""
        again = reference is not None
        return await self.ask(
            lambda id: messages.Label(id=id, name=name, hash=reference, visibility=visibility, **options),
            messages.Named,
            again=again,
        )

    async def journal(
        self,
        *,
        hash: str | None = None,
        failed: bool = False,
        since: float | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[messages.JournalEntry]:
        """Yield the entries of the journal, newest first, fetched page by page (docs/journal.md).

        `after`: later ones than this entry, oldest first. `since`: seconds since the epoch. `limit`: maximum number.
        """
        before: int | None = None
        left = limit
        while left is None or left > 0:
            most = JOURNAL_PAGE if left is None else min(left, JOURNAL_PAGE)
            request = messages.ReadJournal(
                id=0, limit=most, hash=hash, failed=failed, since=since, before=before, after=after
            )
            page = await self.ask(
                lambda id, request=request: structs.replace(request, id=id),  # type: ignore[misc]
                messages.Entries,
            )
            for entry in page.entries:
                yield entry
            if page.next is None:
                return
            left = None if left is None else left - len(page.entries)
            before, after = (page.next, None) if after is None else (None, page.next)

    async def journal_entry(self, number: int) -> messages.JournalEntry:
        """Return an entry of the journal, with the texts that were kept of it."""
        page = await self.ask(lambda id: messages.ReadJournal(id=id, entry=number), messages.Entries)
        return page.entries[0]

    async def journal_sums(
        self, *, hash: str | None = None, since: float | None = None
    ) -> Sequence[messages.JournalSum]:
        """Return what the runs in the journal took, by program and engine; the most CPU time first."""
        sums = await self.ask(lambda id: messages.JournalStats(id=id, hash=hash, since=since), messages.JournalSums)
        return sums.programs

    async def collect(
        self, *, unused_s: float | None = None, over_bytes: int | None = None, dry_run: bool = False
    ) -> AsyncIterator[messages.Collected]:
        """Remove programs without a name, page by page: those unused for so long, or until the store takes so little.

        Yields what was removed (docs/operations/store.md). With `dry_run` nothing is. For root and the daemon's user.
        """
        after: str | None = None
        while True:
            page = await self.ask(
                lambda id, after=after: messages.Collect(  # type: ignore[misc]
                    id=id, unused_s=unused_s, over_bytes=over_bytes, dry_run=dry_run, after=after
                ),
                messages.Collected,
                again=dry_run,
            )
            yield page
            if page.next is None:
                return
            after = page.next

    async def verify(self) -> AsyncIterator[messages.Verified]:
        """Have the daemon read and verify all programs and their artifacts, page by page. Yields what it found."""
        after: str | None = None
        while True:
            page = await self.ask(
                lambda id, after=after: messages.Verify(id=id, after=after),  # type: ignore[misc]
                messages.Verified,
            )
            yield page
            if page.next is None:
                return
            after = page.next

    async def back_up(self, folder: str | os.PathLike[str]) -> messages.BackedUp:
        """Have the daemon write a copy of its state folder to an empty folder. For root and the daemon's user."""
        return await self.ask(
            lambda id: messages.Backup(id=id, folder=os.fspath(folder)), messages.BackedUp, again=False
        )

    async def stats(self) -> messages.StatsReply:
        """Return the daemon's counters."""
        return await self.ask(lambda id: messages.Stats(id=id), messages.StatsReply)

    async def config(self) -> messages.ConfigReply:
        """Return the daemon's settings in force, and where each value came from."""
        return await self.ask(lambda id: messages.Config(id=id), messages.ConfigReply)

    async def ping(self, **options: Unpack[RequestOptions]) -> messages.Pong:
        """Return the versions of the daemon and its engines."""
        return await self.ask(lambda id: messages.Ping(id=id, **options), messages.Pong)

    async def ask(
        self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None = None, *, again: bool = True
    ) -> _R:
        """Send a request of the protocol (docs/protocol.md) and return its reply, which is of this kind.

        `make`: returns the request for an id. `again`: whether to send the request once more if the connection is lost.
        It is False for runs, because the first one may have started.
        """
        return await self._connection.ask(make, kind, on_log, again=again)

    def send(
        self, make: Callable[[Id], Request], on_log: OnLog | None = None, *, checked: bool = False
    ) -> Coroutine[Any, Any, PendingReply]:
        """Send a request of the protocol, and return a `PendingReply`. The caller must close it.

        Use it instead of `ask` to stop waiting without cancelling at once. `checked`: the types of the request's fields
        are known to be right, and need not be checked.
        """
        return self._connection.send(make, on_log, checked=checked)
