"""The daemon's side of the decoder: a queue of questions, and the process that answers them one at a time.

The process starts for the first question, and ends after a time without questions. If it dies or does not answer in
time, its current question fails, and the next question gets a new process.
"""

from __future__ import annotations

import codecs
import logging
import math
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
import trio
from msgspec import structs

import promptlogd
from promptlogd.decoder.messages import (
    ANSWER_BYTES,
    REQUEST,
    TEXTS_BYTES,
    Kind,
    Record,
    Refused,
    Right,
    Unreadable,
    Wrong,
    decode_record,
    question,
    read_answer,
    read_texts,
)
from promptlogd.wire import MAX_FRAME_BYTES, BadMessage, ProtocolError, ServerSession, TextBounds
from promptlogd.wire.messages import Request, Run, Submit
from sandbox.outcome import BadResult, Crashed, Ok

_log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("script.py")
_FOLDERS = sorted({str(Path(module.__file__ or "").resolve().parents[1]) for module in (promptlogd, msgspec)})

ANSWER_S = 10.0
"""Time limit for a process to start and answer. An idle host takes 0.2 s. `script.py` limits its CPU time."""

IDLE_S = 30.0
"""An idle process is kept for this time. It takes 20 MiB."""

_END_S = 5.0
"""Time limit for the end of a killed process."""

_READ_BYTES = 256 * 1024
_ANSWER_SLACK_BYTES = 64 * 1024
"""Bytes by which a re-encoded request may exceed the cap of a frame."""

_VALUE_BYTES = 32 << 20
"""Size of the results of one uid that may wait for the decoder. Creating a large result takes longer than decoding it,
so only an overloaded host reaches this limit."""


class DecoderFailed(Exception):
    """The question was not answered: the decoder failed, or too many results are waiting."""


class _Question:
    def __init__(self, kind: Kind, payload: bytes | memoryview) -> None:
        self.kind = kind
        self.payload = payload
        self.answer: Request | Record | DecoderFailed | None = None
        self.answered = trio.Event()


class Decoder:
    """Answers questions while `serve` runs, round robin over uids."""

    def __init__(
        self, bounds: TextBounds, *, answer_s: float = ANSWER_S, idle_s: float = IDLE_S, script: Path = _SCRIPT
    ) -> None:
        """`answer_s`: time limit of an answer. `idle_s`: time for which an idle process is kept."""
        self.bounds = bounds
        """Maximum sizes of the texts of requests."""
        self._answer_s = answer_s
        self._idle_s = idle_s
        self._script = script
        self._waiting: dict[int, deque[_Question]] = {}
        """Questions by uid. The uid that is served next is first."""
        self._came = trio.Event()

    async def request(self, uid: int, payload: bytes | memoryview, kind: Kind) -> Request | BadMessage | ProtocolError:
        """Return the request in the payload of a frame, or the error to answer with. Raises DecoderFailed.

        A long prompt is bytes of UTF-8.
        """
        match await self._ask(uid, _Question(kind, payload)):
            case Refused() as found:
                return BadMessage(found.id, found.message, code=found.code, detail=found.detail)
            case Unreadable() as found:
                return ProtocolError(found.message, code=found.code)
            case Right() | Wrong():
                raise DecoderFailed("the answer does not match the question")
            case request:
                return request

    async def value(self, uid: int, json: bytes | memoryview) -> Ok | BadResult | Crashed:
        """Return the outcome for the JSON text of a result. Raises DecoderFailed."""
        waiting_bytes = sum(len(other.payload) for other in self._waiting.get(uid, ()) if other.kind == "value")
        if waiting_bytes + len(json) > _VALUE_BYTES:
            raise DecoderFailed("too many large results are waiting for the decoder")
        match await self._ask(uid, _Question("value", json)):
            case Right():
                return Ok(value=msgspec.Raw(json))
            case Wrong(outcome=outcome):
                return outcome
            case _:
                raise DecoderFailed("the answer does not match the question")

    async def _ask(self, uid: int, asked: _Question) -> Request | Record:
        self._waiting.setdefault(uid, deque()).append(asked)
        self._came.set()
        try:
            await asked.answered.wait()
        finally:
            if uid in self._waiting and asked in self._waiting[uid]:
                self._waiting[uid].remove(asked)  # the task that asked was cancelled
        if isinstance(asked.answer, DecoderFailed):
            raise DecoderFailed(*asked.answer.args)
        assert asked.answer is not None
        return asked.answer

    def _next(self) -> _Question | None:
        """Return the oldest question of the next uid, and move that uid to the end of the round."""
        for uid in list(self._waiting):
            questions = self._waiting.pop(uid)
            if questions:
                first = questions.popleft()
                if questions:
                    self._waiting[uid] = questions
                return first
        return None

    async def serve(self) -> None:
        """Answer questions until cancelled."""
        process: _Process | None = None
        try:
            while True:
                asked = self._next()
                if asked is None:
                    self._came = trio.Event()
                    with trio.move_on_after(self._idle_s if process is not None else math.inf) as idle:
                        await self._came.wait()
                    if idle.cancelled_caught and process is not None:
                        await process.end()
                        process = None
                    continue
                try:
                    if process is not None and not process.is_alive:
                        await process.end()
                        process = None
                    with trio.fail_after(self._answer_s):
                        process = process or await _Process.start(self._script)
                        asked.answer = await process.ask(asked, self.bounds)
                except (OSError, RuntimeError, trio.TooSlowError, trio.BrokenResourceError, _Broken) as error:
                    _log.warning("the decoder failed: %s; the next question gets a new process", error or "too slow")
                    asked.answer = DecoderFailed("the daemon failed to decode this; its log has the details")
                    if process is not None:
                        await process.end()
                        process = None
                finally:
                    if asked.answer is None:  # the daemon is stopping
                        asked.answer = DecoderFailed("the daemon is stopping")
                    asked.answered.set()
        finally:
            if process is not None:
                await process.end()


class _Broken(Exception):
    """The process has ended, or sent an invalid answer."""


class _Process:
    """A running decoder."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self._stream = stream

    @classmethod
    async def start(cls, script: Path) -> _Process:
        """Start one. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await trio.lowlevel.open_process(
                    # -I -B: no environment, no current folder, no bytecode files. The daemon itself was loaded from
                    # these folders, so they are as trusted as it is.
                    [sys.executable, "-I", "-B", str(script), *_FOLDERS],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={},
                    process_group=0,  # Ctrl-C at the daemon's terminal is for the daemon only
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    async def ask(self, asked: _Question, bounds: TextBounds) -> Request | Record:
        """Return the answer. Raises _Broken, or the socket's errors."""
        await self._stream.send_all(question(asked.kind, len(asked.payload), bounds))
        await self._stream.send_all(asked.payload)
        kind, size = read_answer(await self._read(ANSWER_BYTES))
        if size > MAX_FRAME_BYTES + _ANSWER_SLACK_BYTES:
            raise _Broken(f"an answer of {size} bytes")
        if kind != REQUEST:
            return decode_record.decode(await self._read(size))
        texts = read_texts(await self._read(TEXTS_BYTES))
        if size < TEXTS_BYTES + sum(texts):
            raise _Broken(f"an answer of {size} bytes with texts of {sum(texts)}")
        session = ServerSession(bounds=TextBounds(env_bytes=0))  # the decoder has checked the env
        (request,) = session.receive(await self._read(size - TEXTS_BYTES - sum(texts))) or (None,)
        source_bytes, prompt_bytes, env_bytes = texts
        if source_bytes and isinstance(request, Run | Submit):
            request = structs.replace(request, source=await self._text(source_bytes))
        if prompt_bytes and isinstance(request, Run):
            # Not decoded, because a job has it in UTF-8 as well.
            request = structs.replace(request, prompt=cast(str, await self._read(prompt_bytes)))
        if env_bytes and isinstance(request, Run):
            request = structs.replace(request, env=msgspec.Raw(await self._read(env_bytes)))
        if not isinstance(request, Request):
            raise _Broken("an answer that is not a request")
        return request

    async def _text(self, size: int) -> str:
        """Decode a text in slices: 0.5 ms each, and 2 ms to join 4 MiB of them. In one call it would take 10 ms."""
        decode = codecs.getincrementaldecoder("utf-8")().decode
        try:
            return "".join([decode(part) async for part in self._parts(size)])
        except UnicodeDecodeError as error:
            raise _Broken(f"a text that is not UTF-8: {error.reason}") from None

    async def _read(self, size: int) -> bytes:
        return b"".join([part async for part in self._parts(size)])

    async def _parts(self, size: int) -> AsyncIterator[bytes]:
        """Yield this number of bytes, in parts as they arrive."""
        while size:
            part = await self._stream.receive_some(min(_READ_BYTES, size))
            if not part:
                raise _Broken("its process has ended")
            size -= len(part)
            yield part

    async def end(self) -> None:
        """End the process, and reap it."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_S):
            await self._stream.aclose()
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
