"""Replies of `show`, `list` and `remove`, for any stored program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from promptlogd.config import Config, JournalSettings
from promptlogd.handlers.list import ListHandler
from promptlogd.handlers.remove import RemoveHandler
from promptlogd.handlers.rights import Rights
from promptlogd.handlers.show import ShowHandler
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.table import Handler
from promptlogd.journal import Journal
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.settings import Settings
from promptlogd.store import Store
from promptlogd.store.journal import Move
from promptlogd.store.seal import seal
from promptlogd.wire import MAX_FRAME_BYTES, ClientSession, Encoding, ServerSession, encode_text
from promptlogd.wire.messages import List, Ping, Remove, Reply, Request, Show, Shown
from tests.sinks import NotingSink
from tests.store.programs import submit
from tests.store.reopened import reopened

_MIB = 1 << 20
_RIGHTS = Rights(Settings(Config()))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with reopened(tmp_path / "state") as store:
        yield store


async def _handled(handler: Handler, request: Request, encoding: Encoding = "msgpack") -> Reply:
    sink = NotingSink(encoding)
    handler.start(Principal(connection=1, uid=0, process=None), request, sink)
    (work,) = sink.works
    reply = await work()
    assert reply is not None
    return reply


def _received(reply: Reply, encoding: Encoding) -> Reply:
    """Return what the client receives, which must be less than a frame."""
    client, server = ClientSession(encoding=encoding), ServerSession()
    server.receive(client.send(Ping(id=1)))
    frame = b"".join(server.send(reply))
    assert len(frame) < MAX_FRAME_BYTES
    (received,) = client.receive(frame)
    return received


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("text", ["", "x", "\x01" * _MIB, 'é"\\\n\u2028😀' * 100_000])
async def test_a_source_is_sent_completely(store: Store, text: str, encoding: Encoding) -> None:
    """A text that is encoded in slices arrives unchanged, in JSON and in MessagePack."""
    hash, _ = submit(store, text.encode())
    reply = await _handled(ShowHandler(store, StoreThreads(), _RIGHTS), Show(id=1, hash=hash, source=True), encoding)
    received = _received(reply, encoding)
    assert isinstance(received, Shown)
    assert received.source == text


async def test_a_source_that_does_not_fit_into_a_frame(store: Store) -> None:
    """A source whose JSON exceeds a frame is refused with advice, and MessagePack can send it."""
    hash, _ = submit(store, b"\x01" * 2 * _MIB)
    handler = ShowHandler(store, StoreThreads(), _RIGHTS)
    with pytest.raises(RequestError, match="use MessagePack") as refused:
        await _handled(handler, Show(id=1, hash=hash, source=True), "json")
    assert refused.value.code == "too_large"
    received = _received(await _handled(handler, Show(id=1, hash=hash, source=True), "msgpack"), "msgpack")
    assert isinstance(received, Shown)
    assert received.source == "\x01" * 2 * _MIB


def test_slices_of_a_text() -> None:
    """Encoding in slices gives the same text, wherever the slices begin."""
    for size in (32767, 32768, 32769, 65537):
        text = "x" * (size - 1) + '"😀'
        assert msgspec.json.decode(b"".join(encode_text(text.encode(), "json").parts)) == text


async def test_replies_for_programs_with_very_many_names(tmp_path: Path) -> None:
    """For a program with 12,000 names, as in older folders, replies are short and give the number of further names."""
    with reopened(tmp_path / "state") as store:
        hash, _ = submit(store, b"return 1")
    names = [f"{number:05}".ljust(64, "x") for number in range(12_000)]
    moves = [Move(name=name, hash=hash, at=float(turn)) for name in names for turn in range(2)]
    with (tmp_path / "state/names.jsonl").open("ab") as journal:
        journal.write(b"".join(b"\n" + seal(move) + b"\n" for move in moves))
    with reopened(tmp_path / "state") as store:
        threads = StoreThreads()
        no_journal = Journal(store.folder, JournalSettings(enabled=False), b"")
        shown = msgspec.to_builtins(await _handled(ShowHandler(store, threads, _RIGHTS), Show(id=1, hash=hash)))
        assert (shown["names"], shown["more_names"], len(shown["history"])) == (names[:1000], 11_000, 64)
        listed = msgspec.to_builtins(await _handled(ListHandler(store, threads, _RIGHTS), List(id=1)))
        (row,) = listed["programs"]
        assert (row["names"], row["more_names"]) == (names[:64], 11_936)
        removed = msgspec.to_builtins(
            await _handled(RemoveHandler(store, no_journal, threads, _RIGHTS), Remove(id=1, hash=hash))
        )
        assert (removed["names"], removed["more_names"]) == (names[:1000], 11_000)
