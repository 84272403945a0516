"""The decoder: its answers, the order in which it serves uids, and processes that fail."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import Raw, structs

from promptlogd.decoder import Decoder, DecoderFailed
from promptlogd.decoder.answers import answer_to
from promptlogd.decoder.messages import ANSWER_BYTES, QUESTION_BYTES, question, read_answer, read_question
from promptlogd.wire import BadMessage, ClientSession, ProtocolError, ServerSession, TextBounds
from promptlogd.wire.messages import Ping, Run, Submit
from sandbox.outcome import BadResult, Crashed, Ok
from tests.daemon.processes import children
from tests.wire.test_wire import ENCODINGS, REQUESTS, _plain

_BOUNDS = TextBounds(source_bytes=3000, prompt_bytes=2000, env_bytes=1000)
_FAULTY = Path(__file__).with_name("faulty.py")


@asynccontextmanager
async def _a_decoder(bounds: TextBounds = _BOUNDS, **options: Any) -> AsyncIterator[Decoder]:
    decoder = Decoder(bounds, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoder.serve)  # noqa: ASYNC113  # questions wait for it
        yield decoder
        nursery.cancel_scope.cancel()


def _payload(request: Any, encoding: Any) -> bytes:
    frame = ClientSession(encoding=encoding).send(request)
    return frame[:-1] if encoding == "json" else frame[4:]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_request_is_decoded_as_on_the_loop(encoding: Any) -> None:
    """Each request is decoded with the same fields as it was sent."""
    async with _a_decoder() as decoder:
        for request in REQUESTS:
            found = await decoder.request(0, _payload(request, encoding), encoding)
            assert _plain(found) == _plain(request)


_LONG_TEXTS = [
    Run(id=1, source="é" * 300_000, prompt="x" + "😀" * 200_000, env=Raw(b'{"a":"%s"}' % (b"x" * 90_000))),
    Run(id=2, hash="@a", prompt="語" * 300_001, stream_logs=True),
    Run(id=3, source="return 1", env=Raw(b'{"a":"%s"}' % (b"x" * 70_000))),
    Submit(id=4, source="/*" + "\u2028" * 100_000 + "*/", name="a"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_long_texts_are_complete(encoding: Any) -> None:
    """Texts that the decoder returns separately and decodes in slices are the texts that were sent."""
    async with _a_decoder(TextBounds()) as decoder:
        for request in _LONG_TEXTS:
            found = await decoder.request(0, _payload(request, encoding), encoding)
            if isinstance(found, Run) and isinstance(found.prompt, bytes):
                found = structs.replace(found, prompt=found.prompt.decode())
            assert _plain(found) == _plain(request)
            assert await decoder.request(0, _payload(Ping(id=1), "json"), "json") == Ping(id=1)


async def test_errors_are_the_same_as_on_the_loop() -> None:
    """Decoder and loop give the same error with the same id; an error without an id is a ProtocolError."""
    async with _a_decoder() as decoder:
        for payload in (
            b'{"type":"ping","id":1,"x":2}',
            b'{"type":"zap","id":"a"}',
            b'{"type":"run","id":1,"env":[1]}',
            b'{"type":"run","id":1,"env":{"a":"\xff"}}',
            b'{"type":"run","id":1,"prompt":"\\ud800"}',
            b'{"type":"ping"}',
            b'{"id":' + b"[" * 100_000,
            b"",
        ):
            (expected,) = ServerSession().receive(payload + b"\n") if payload else [ProtocolError("not a request")]
            found = await decoder.request(0, payload, "json")
            assert type(found) is type(expected), payload
            if isinstance(expected, BadMessage):
                assert isinstance(found, BadMessage)
                assert (found.id, found.message, found.code) == (expected.id, expected.message, expected.code)
            elif payload:
                assert isinstance(found, ProtocolError)
                assert isinstance(expected, ProtocolError)
                assert found.message == expected.message


async def test_texts_over_their_limits_are_not_sent_to_the_loop() -> None:
    """A text over its limit stays in the decoder's process: the error has the size and the limit."""
    async with _a_decoder() as decoder:
        for right, wrong in (
            (Run(id=1, source="é" * 1500), Run(id=1, source="é" * 1500 + "x")),
            (Submit(id=1, source="x" * 3000), Submit(id=1, source="x" * 3001)),
            (Run(id=1, prompt="x" * 2000), Run(id=1, prompt="x" * 2001)),
            (Run(id=1, env=Raw(b'{"a":"%s"}' % (b"x" * 992))), Run(id=1, env=Raw(b'{"a":"%s"}' % (b"x" * 993)))),
        ):
            assert _plain(await decoder.request(0, _payload(right, "json"), "json")) == _plain(right)
            found = await decoder.request(0, _payload(wrong, "json"), "json")
            assert isinstance(found, BadMessage)
            assert (found.id, found.code) == (1, "too_large")
            assert found.detail is not None
            assert found.detail["size"] == found.detail["limit"] + 1


async def test_results_are_checked() -> None:
    """JSON is ok and keeps its bytes; a lone surrogate is a bad result; anything else is a crash."""
    async with _a_decoder() as decoder:
        ok = await decoder.value(0, b'{"a": [1]}')
        assert isinstance(ok, Ok)
        assert bytes(ok.value) == b'{"a": [1]}'
        assert isinstance(await decoder.value(0, b'["\\ud800"]'), BadResult)
        assert isinstance(await decoder.value(0, b'["a"'), Crashed)
        assert isinstance(await decoder.value(0, b"[" * 100_000), BadResult)


async def test_uids_are_served_round_robin() -> None:
    """A uid waits for at most one question of another uid, however many that one asks; each uid's stay in order."""
    answered: list[tuple[int, int]] = []

    async def ask(decoder: Decoder, uid: int, number: int) -> None:
        await decoder.value(uid, b"%d" % number)
        answered.append((uid, number))

    decoder = Decoder(_BOUNDS)
    async with trio.open_nursery() as nursery:
        for uid, number in [(1, 1), (1, 2), (1, 3), (2, 4), (1, 5), (3, 6)]:
            nursery.start_soon(ask, decoder, uid, number)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(decoder.serve)
        while len(answered) < 6:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert answered == [(1, 1), (2, 4), (3, 6), (1, 2), (1, 3), (1, 5)]


async def test_a_cancelled_question_is_not_sent() -> None:
    """If a question is cancelled while it waits, the process never receives it."""
    decoder = Decoder(_BOUNDS, script=_FAULTY)
    with trio.move_on_after(0.01):
        await decoder.value(1, b"die  ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoder.serve)
        assert isinstance(await decoder.value(2, b"1"), Ok)
        nursery.cancel_scope.cancel()


async def test_waiting_results_are_bounded() -> None:
    """If the waiting results of a uid are too large, it is refused another; other uids are not."""
    decoder = Decoder(_BOUNDS)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(decoder.value, 1, bytes(4 << 20))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DecoderFailed, match="too many"):
            await decoder.value(1, b"1")
        nursery.start_soon(decoder.value, 2, b"1")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", [b"die  ", b"hang ", b"spin ", b"talk ", b"junk "])
async def test_a_process_that_fails_is_replaced(fault: bytes) -> None:
    """The question of a failing process fails, at once or after the time limit; the next ones are answered."""
    async with _a_decoder(script=_FAULTY, answer_s=2.0) as decoder:
        assert await decoder.request(0, _payload(Ping(id=1), "json"), "json") == Ping(id=1)
        with pytest.raises(DecoderFailed):
            await decoder.request(0, fault, "json")
        assert await decoder.request(0, _payload(Ping(id=2), "json"), "json") == Ping(id=2)


async def test_a_missing_script_fails_only_its_question() -> None:
    """If the process cannot be started, only its question fails."""
    async with _a_decoder(script=Path("/nonexistent")) as decoder:
        for _ in range(2):
            with pytest.raises(DecoderFailed):
                await decoder.value(0, b"1")


async def test_an_idle_process_ends() -> None:
    """An idle process ends to free its memory; the next question starts another."""
    others = set(children(os.getpid()))
    async with _a_decoder(idle_s=0.05) as decoder:
        for _ in range(2):
            assert isinstance(await decoder.value(0, b"1"), Ok)
            with trio.fail_after(10):
                while set(children(os.getpid())) - others:
                    await trio.sleep(0.01)


def test_questions_and_answers_have_one_format() -> None:
    """Each header is decoded as it was encoded."""
    for kind in ("json", "msgpack", "value"):
        header = question(kind, 5, _BOUNDS)
        assert len(header) == QUESTION_BYTES
        assert read_question(header) == (kind, 5, _BOUNDS)
    answer = answer_to("value", b"1", _BOUNDS)
    assert read_answer(answer[:ANSWER_BYTES]) == (b"a", len(answer) - ANSWER_BYTES)


async def test_a_process_killed_while_idle_is_replaced() -> None:
    """A process killed between two questions, for example for lack of memory, is replaced before the second."""
    async with _a_decoder() as decoder:
        before = set(children(os.getpid()))
        await decoder.request(0, _payload(Ping(id=1), "json"), "json")
        (pid,) = set(children(os.getpid())) - before
        os.kill(pid, signal.SIGKILL)
        await trio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert isinstance(await decoder.request(0, _payload(Ping(id=2), "json"), "json"), Ping)
