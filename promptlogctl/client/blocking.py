"""The synchronous client: one connection, any number of threads, any number of requests in flight."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from msgspec import structs

from promptlogctl.client.connection import Connection
from promptlogctl.client.endpoint import find_endpoint
from promptlogctl.client.errors import ConnectionLost, NoDaemon, RequestRefused
from promptlogctl.client.request import (
    JOURNAL_PAGE,
    OnLog,
    RunOptions,
    SourceOptions,
    SubmitOptions,
    check_options,
    run_request,
    submit_request,
)
from promptlogctl.client.result import RunResult, Submission, expect
from promptlogd.wire import messages
from promptlogd.wire.messages import Id, Log
from sandbox.outcome import LogLine

_CANCEL_S = 2.0


class Client:
    """A connection to promptlogd. The first request opens it, and it reconnects after the daemon has restarted.

    `socket`: the daemon's socket. Default: $PROMPTLOG_SOCKET, else the default path of this user's daemon.
    Raises NoDaemon if no daemon answers, UntrustedDaemon if another user's process answers on the default path,
    RequestRefused for an `error` reply, and ConnectionLost.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._connection = Connection(find_endpoint(socket))

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._connection.endpoint.path

    def __repr__(self) -> str:
        return f"<Client of {self.socket_path}, {'connected' if self._connection.is_open else 'not connected'}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The daemon cancels runs that are in progress."""
        self._connection.close()

    def submit(self, source: str | bytes, **options: Unpack[SubmitOptions]) -> Submission:
        """Store a program, optionally with a name. Raises ValueError for bytes that are not UTF-8."""
        check_options("Client.submit", SubmitOptions, options)
        reply = self._connection.ask(lambda id: submit_request(id, source, options), messages.Submitted)
        return Submission.of(reply)

    def run(self, reference: str, prompt: str = "", **options: Unpack[RunOptions]) -> RunResult:
        """Run a stored program (hash, prefix or @name), and wait for the result."""
        check_options("Client.run", RunOptions, options)
        return self._start(reference, None, prompt, {**options, "language": None}).result()

    def run_source(self, source: str | bytes, prompt: str = "", **options: Unpack[SourceOptions]) -> RunResult:
        """Run a program without storing it, and wait for the result."""
        check_options("Client.run_source", SourceOptions, options)
        return self._start(None, source, prompt, options).result()

    def start(
        self,
        reference: str | None,
        prompt: str = "",
        *,
        source: str | bytes | None = None,
        **options: Unpack[SourceOptions],
    ) -> PendingRun:
        """Start a run of a stored program, or of a source, and return at once. Runs in flight end in any order.

        From the first `start` on, a thread of the client receives replies, even if nobody waits for them.
        """
        check_options("Client.start", SourceOptions, options)
        return self._start(reference, source, prompt, options, in_background=True)

    def _start(
        self,
        reference: str | None,
        source: str | bytes | None,
        prompt: str,
        options: SourceOptions,
        *,
        in_background: bool = False,
    ) -> PendingRun:
        id = self._connection.send(
            lambda id: run_request(id, reference, source, prompt, options), in_background=in_background
        )
        return PendingRun(self._connection, id, options.get("on_log"))

    def show(self, reference: str, *, source: bool = False) -> messages.Shown:
        """Describe a program, optionally with its source."""
        return self._connection.ask(lambda id: messages.Show(id=id, hash=reference, source=source), messages.Shown)

    def list(self) -> Iterator[messages.Listing]:
        """Yield all programs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = self._connection.ask(lambda id, after=after: messages.List(id=id, after=after), messages.Listed)  # type: ignore[misc]
            yield from page.programs
            if page.next is None:
                return
            after = page.next

    def remove(self, reference: str) -> messages.Removed:
        """Remove a program and its names."""
        return self._connection.ask(lambda id: messages.Remove(id=id, hash=reference), messages.Removed, again=False)

    def label(
        self, name: str, reference: str | None = None, *, visibility: messages.Visibility | None = None
    ) -> messages.Named:
        """Move a name to a program. Without a program, undo the name's last move. `visibility`: who sees the name."""
        again = reference is not None
        return self._connection.ask(
            lambda id: messages.Label(id=id, name=name, hash=reference, visibility=visibility),
            messages.Named,
            again=again,
        )

    def journal(
        self,
        *,
        hash: str | None = None,
        failed: bool = False,
        since: float | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Iterator[messages.JournalEntry]:
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
            page = self._connection.ask(
                lambda id, request=request: structs.replace(request, id=id),  # type: ignore[misc]
                messages.Entries,
            )
            yield from page.entries
            if page.next is None:
                return
            left = None if left is None else left - len(page.entries)
            before, after = (page.next, None) if after is None else (None, page.next)

    def journal_entry(self, number: int) -> messages.JournalEntry:
        """Return an entry of the journal, with the texts that were kept of it."""
        page = self._connection.ask(lambda id: messages.ReadJournal(id=id, entry=number), messages.Entries)
        return page.entries[0]

    def journal_sums(self, *, hash: str | None = None, since: float | None = None) -> Sequence[messages.JournalSum]:
        """Return what the runs in the journal took, by program and engine; the most CPU time first."""
        return self._connection.ask(
            lambda id: messages.JournalStats(id=id, hash=hash, since=since), messages.JournalSums
        ).programs

    def collect(
        self, *, unused_s: float | None = None, over_bytes: int | None = None, dry_run: bool = False
    ) -> Iterator[messages.Collected]:
        """Remove programs without a name, page by page: those unused for so long, or until the store takes so little.

        Yields what was removed (docs/operations/store.md). With `dry_run` nothing is. For root and the daemon's user.
        """
        after: str | None = None
        while True:
            page = self._connection.ask(
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

    def verify(self) -> Iterator[messages.Verified]:
        """Have the daemon read and verify all programs and their artifacts, page by page. Yields what it found."""
        after: str | None = None
        while True:
            page = self._connection.ask(
                lambda id, after=after: messages.Verify(id=id, after=after),  # type: ignore[misc]
                messages.Verified,
            )
            yield page
            if page.next is None:
                return
            after = page.next

    def back_up(self, folder: str | os.PathLike[str]) -> messages.BackedUp:
        """Have the daemon write a copy of its state folder to an empty folder. For root and the daemon's user."""
        return self._connection.ask(
            lambda id: messages.Backup(id=id, folder=os.fspath(folder)), messages.BackedUp, again=False
        )

    def stats(self) -> messages.StatsReply:
        """Return the daemon's counters."""
        return self._connection.ask(lambda id: messages.Stats(id=id), messages.StatsReply)

    def config(self) -> messages.ConfigReply:
        """Return the daemon's settings in force, and where each value came from."""
        return self._connection.ask(lambda id: messages.Config(id=id), messages.ConfigReply)

    def ping(self) -> messages.Pong:
        """Return the versions of the daemon and its engines."""
        return self._connection.ask(lambda id: messages.Ping(id=id), messages.Pong)


class PendingRun:
    """A run in flight. `Client.start` makes it."""

    def __init__(self, connection: Connection, id: Id, on_log: OnLog | None) -> None:
        self._connection = connection
        self._id = id
        self._on_log = on_log
        self._result: RunResult | None = None

    def __repr__(self) -> str:
        return f"<PendingRun {self._id} of {self._connection.endpoint.path}: {self._result or 'no result yet'}>"

    def result(self, timeout: float | None = None) -> RunResult:
        """Wait for the result, at most `timeout` seconds (then TimeoutError; the run continues).

        After any other exception, such as KeyboardInterrupt, the run is cancelled.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while self._result is None:
                reply = self._connection.receive(self._id, deadline)
                if isinstance(reply, Log):
                    if self._on_log is not None:
                        self._on_log(LogLine(level=reply.level, text=reply.text))
                else:
                    self._result = RunResult.of(expect(reply, messages.Finished))
        except (TimeoutError, RequestRefused, ConnectionLost):
            raise
        except BaseException:
            self._abandon()
            raise
        return self._result

    def cancel(self) -> bool:
        """Ask the daemon to cancel the run. Return whether it was in progress. `result` still returns the outcome."""
        return self._connection.ask(lambda id: messages.Cancel(id=id, target=self._id), messages.Cancelling).found

    def _abandon(self) -> None:
        cancelling: Id | None = None
        try:
            cancelling = self._connection.send(lambda id: messages.Cancel(id=id, target=self._id))
            deadline = time.monotonic() + _CANCEL_S
            while isinstance(self._connection.receive(self._id, deadline), Log):
                pass
        except (ConnectionLost, NoDaemon, TimeoutError):
            pass
        finally:
            for id in (self._id, cancelling):
                if id is not None:
                    self._connection.forget(id)
