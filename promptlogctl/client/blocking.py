"""The synchronous client: one connection, any number of threads, any number of requests in flight."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from promptlogctl.client.connection import Connection
from promptlogctl.client.endpoint import find_endpoint
from promptlogctl.client.errors import ConnectionLost, NoDaemon, RequestRefused
from promptlogctl.client.request import (
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
    """A connection to promptlogd, opened at the first request and used again for the next ones.

    `socket`: the daemon's socket; default $PROMPTLOG_SOCKET, else the default path of this user's daemon.
    Raises NoDaemon where nobody answers, UntrustedDaemon where a stranger answers on the default path, RequestRefused
    for an `error` reply, ConnectionLost.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._connection = Connection(find_endpoint(socket))

    @property
    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        return self._connection.endpoint.path

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon cancels what is still running."""
        self._connection.close()

    def submit(self, source: str | bytes, **options: Unpack[SubmitOptions]) -> Submission:
        """Keep a program, and put a name on it if one is given. Raises ValueError for bytes that are not UTF-8."""
        check_options("Client.submit", SubmitOptions, options)
        reply = self._connection.ask(lambda id: submit_request(id, source, options), messages.Submitted)
        return Submission(hash=reply.hash, created=reply.created, engine=reply.engine)

    def run(self, reference: str, prompt: str = "", **options: Unpack[RunOptions]) -> RunResult:
        """Run a kept program (hash, prefix or @name) and wait for its end."""
        check_options("Client.run", RunOptions, options)
        return self._start(reference, None, prompt, {**options, "language": None}).result()

    def run_source(self, source: str | bytes, prompt: str = "", **options: Unpack[SourceOptions]) -> RunResult:
        """Run a program that is not kept, and wait for its end."""
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
        """Start a run of a kept program, or of a source, and return at once. Runs in flight end in any order.

        From the first `start` on a thread of the client's own reads what comes, whether somebody waits for it or not.
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
        """Return what is known of a program, with its source if asked for."""
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
        """Remove a program and the names on it."""
        return self._connection.ask(lambda id: messages.Remove(id=id, hash=reference), messages.Removed, again=False)

    def label(self, name: str, reference: str | None = None) -> messages.Named:
        """Move a name to a program; without one, back to where the name was before."""
        again = reference is not None
        return self._connection.ask(
            lambda id: messages.Label(id=id, name=name, hash=reference), messages.Named, again=again
        )

    def stats(self) -> messages.StatsReply:
        """Return the daemon's counts."""
        return self._connection.ask(lambda id: messages.Stats(id=id), messages.StatsReply)

    def config(self) -> messages.ConfigReply:
        """Return the daemon's settings in force, and where each value came from."""
        return self._connection.ask(lambda id: messages.Config(id=id), messages.ConfigReply)

    def ping(self) -> messages.Pong:
        """Return the daemon's versions."""
        return self._connection.ask(lambda id: messages.Ping(id=id), messages.Pong)


class PendingRun:
    """A run in flight. `Client.start` makes it."""

    def __init__(self, connection: Connection, id: Id, on_log: OnLog | None) -> None:
        self._connection = connection
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
        """Ask the daemon to cancel; return whether there was something to cancel. `result` tells the end."""
        return self._connection.ask(lambda id: messages.Cancel(id=id, target=self._id), messages.Cancelling).found

    def _abandon(self) -> None:
        try:
            self._connection.send(lambda id: messages.Cancel(id=id, target=self._id))
            deadline = time.monotonic() + _CANCEL_S
            while isinstance(self._connection.receive(self._id, deadline), Log):
                pass
        except (ConnectionLost, NoDaemon, TimeoutError):
            pass
