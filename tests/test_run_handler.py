"""The run handler beside the check that a program needs first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import trio

from promptlogd.handlers.run import RunHandler, _Run
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.wire.messages import Finished, Id, Log, Reply, Run
from sandbox.cells.job import Job
from sandbox.limits import Limits
from sandbox.outcome import Cancelled
from sandbox.protocol.frames import Task


class _Sink(Sink):
    """Notes the replies; the test cancels and works."""

    def __init__(self) -> None:
        self.replies: list[Reply | RequestError] = []
        self.on_cancel: Callable[[], None] = lambda: None
        self.works: list[Callable[[], Awaitable[Reply | None]]] = []

    def reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def refuse(self, error: RequestError) -> None:
        self.replies.append(error)

    def log(self, line: Log) -> None:
        raise AssertionError("nothing runs")

    def spawn(self, work: Callable[[], Awaitable[Reply | None]]) -> None:
        self.works.append(work)

    def when_cancelled(self, callback: Callable[[], None]) -> None:
        self.on_cancel = callback

    def cancel_other(self, target: Id) -> bool:
        return False

    def has_room(self) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        raise AssertionError("there is room")


async def test_a_cancel_that_comes_as_the_check_ends_is_not_lost() -> None:
    """The check has its result already, and the run has not begun: it ends as `cancelled`, and never begins."""
    started: list[Job] = []
    runs = SimpleNamespace(start=lambda job, *rest, **options: started.append(job))
    handler = SimpleNamespace(runs=runs, isolation="cell", outcomes=Counter(), record_run=None)
    sink = _Sink()
    request = Run(id=1, source="return 1")
    principal = Principal(connection=1, uid=0, process=None)
    run = _Run(cast(RunHandler, cast(Any, handler)), principal, request, sink, "0" * 64, stored=False)
    job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits())

    async def check() -> Job:
        sink.on_cancel()
        return job

    run.begin_later(check)
    await sink.works[0]()
    await trio.lowlevel.checkpoint()
    assert started == []
    (reply,) = sink.replies
    assert isinstance(reply, Finished)
    assert reply.outcome == Cancelled()
