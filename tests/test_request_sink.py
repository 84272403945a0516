"""The sink of a request whose client is disconnecting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from promptlogd.request_sink import Replies, RequestSink
from promptlogd.wire.messages import Run


async def test_no_work_is_started_for_a_disconnecting_client() -> None:
    """If a run ends after its connection's tasks and before its requests are abandoned, its work is not started."""
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
