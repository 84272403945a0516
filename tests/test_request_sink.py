"""The sink of a request whose client is disconnecting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

from promptlogd.refusal import RequestError
from promptlogd.request_sink import Replies, RequestSink
from promptlogd.wire.messages import Pong, Run


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


async def test_a_delayed_refusal(autojump_clock: MockClock) -> None:
    """A delayed refusal is sent once, after the delay, and the request counts as in progress until then."""
    told: list[float] = []
    done: list[float] = []

    async def work(work: Any, sink: RequestSink) -> None:
        try:
            await work()
        except RequestError as error:
            sink.refuse(error)

    client = cast(
        Replies,
        cast(
            Any,
            SimpleNamespace(
                encoding="json",
                work=work,
                send_error=lambda *_, **__: told.append(trio.current_time()),
                done=lambda _: done.append(trio.current_time()),
            ),
        ),
    )
    begin = trio.current_time()
    async with trio.open_nursery() as tasks:
        sink = RequestSink(client, Run(id=1, source="return 1"), tasks)
        error = RequestError("quota", "used up")
        error.delay_s = 2.0
        sink.refuse(error)
        assert told == done == []
        assert not sink.cancel()
    assert told == done == [begin + 2.0]


async def test_a_reply_that_can_not_be_encoded() -> None:
    """If encoding a reply fails, the client gets an error in its place, and the request is done."""
    told: list[object] = []

    def send(reply: object) -> None:
        raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    client = SimpleNamespace(
        encoding="json", send=send, send_error=lambda id, code, *_, **__: told.append((id, code)), done=told.append
    )
    async with trio.open_nursery() as tasks:
        sink = RequestSink(cast(Replies, cast(Any, client)), Run(id=1, source="return 1"), tasks)
        try:
            sink.reply(Pong(id=1, version="", protocol=1, pid=1))
        except UnicodeEncodeError:
            sink.fail()
        sink.reply(Pong(id=1, version="", protocol=1, pid=1))
    assert told == [(1, "internal"), 1]
