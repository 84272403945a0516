"""The way back of a request whose client is leaving."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from promptlogd.request_sink import Replies, RequestSink
from promptlogd.wire.messages import Run


async def test_work_for_a_client_that_is_leaving_is_not_begun() -> None:
    """The tasks of its connection have ended, and its requests are about to: a run that ends just then is no fault."""
    worked: list[object] = []

    async def work(*given: object) -> None:
        worked.append(given)

    client = cast(Replies, cast(Any, SimpleNamespace(encoding="json", work=work, done=worked.append)))
    async with trio.open_nursery() as tasks:
        sink = RequestSink(client, Run(id=1, source="return 1"), tasks)
    sink.spawn(cast(Any, work))
    assert worked == []
    sink.abandon()
    assert worked == [1]
