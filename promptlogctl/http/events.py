"""A run as server-sent events: `log` for each console line as it arrives, then `finished` or `problem`.

The response starts with the first event, or after 15 s with a comment. If the run is refused before that, the response
has the status of the error. A later refusal is the event `problem`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from promptlogctl.client import LogLine, OnLog, PromptlogError, RunResult
from promptlogctl.http.backend import ClientGone
from promptlogctl.http.problems import Problem, of_error
from promptlogd.wire.messages import Finished

_BEAT_S = 15.0
"""Interval of comments while there are no events, so that proxies keep the connection."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """The response to a run with `Accept: text/event-stream`."""

    def __init__(self, run: Callable[[OnLog], Awaitable[Finished]]) -> None:
        self._run = run
        self._events: list[bytes] = []
        """Unsent events. The run's log limit bounds them."""
        self._changed = anyio.Event()
        self._ended = False
        self._refusal: Problem | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the program, and send events as they arrive."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._produce)
            await self._wait()
            if self._refusal is not None and not self._events:
                await self._refusal(scope, receive, send)
            else:
                await self._send(send)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        while not self._ended or self._events:
            events, self._events = self._events, []
            await send({"type": "http.response.body", "body": b"".join(events) or b":\n\n", "more_body": True})
            await self._wait()
        last = b"" if self._refusal is None else _event("problem", self._refusal.body())
        await send({"type": "http.response.body", "body": last})

    async def _produce(self) -> None:
        try:
            reply = await self._run(self._log)
        except Problem as problem:
            self._refusal = problem
        except PromptlogError as error:
            self._refusal = of_error(error)
        except ClientGone:
            pass
        else:
            self._add(_event("finished", msgspec.json.encode(RunResult.of(reply))))
        self._ended = True
        self._changed.set()

    def _log(self, line: LogLine) -> None:
        self._add(_event("log", msgspec.json.encode(line)))

    def _add(self, event: bytes) -> None:
        self._events.append(event)
        self._changed.set()

    async def _wait(self) -> None:
        """Wait for events, for the end of the run, or for the time of the next comment."""
        if not self._events and not self._ended:
            with anyio.move_on_after(_BEAT_S):
                await self._changed.wait()
        self._changed = anyio.Event()


def _event(name: str, data: bytes) -> bytes:
    """Return an event. JSON has line breaks only if the program put them between values."""
    lines = data.replace(b"\r", b"\n").split(b"\n")
    return b"event: %s\n" % name.encode() + b"".join(b"data: %s\n" % line for line in lines) + b"\n"
