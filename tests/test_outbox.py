"""The outbox: the order of its bytes, and how they are counted."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from promptlogd.budget import Account
from promptlogd.outbox import Outbox
from promptlogd.wire import Part

_KIB = 1024


class _Client:
    """An outbox, the account that it charges, and the other end of its socket."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.account = Account(1 << 20)
        self.ended = False
        clients: Any = SimpleNamespace(unsent=set(), wake_if_idle=lambda: None)
        self._tasks: trio.Nursery | None = None
        self._not_started: list[Callable[[], Awaitable[None]]] = []
        self.outbox = Outbox(
            self._ours,
            1,
            clients=clients,
            account=self.account,
            stall_s=10.0,
            end=lambda: setattr(self, "ended", True),
            spawn=self._spawn,
        )

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._tasks is None:
            self._not_started.append(work)
        else:
            self._tasks.start_soon(work)

    def start(self, tasks: trio.Nursery) -> None:
        """Start the outbox's tasks."""
        self._tasks = tasks
        for work in self._not_started:
            tasks.start_soon(work)

    async def read(self, size: int) -> bytes:
        """Read this number of bytes in small pieces."""
        theirs, data = trio.socket.from_stdlib_socket(self.theirs.dup()), bytearray()
        with theirs:
            while len(data) < size:
                data += await theirs.recv(min(50_000, size - len(data)))
        return bytes(data)

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.theirs.close()


@pytest.fixture
def client() -> Iterator[_Client]:
    """An outbox whose client does not read yet."""
    client = _Client()
    yield client
    client.close()


def _part(size: int, fill: int) -> bytes:
    return bytes((fill + at) % 251 for at in range(251)) * (size // 251) + bytes([fill]) * (size % 251)


_REPLIES: list[list[Part]] = [
    [b"head", memoryview(_part(900 * _KIB, 1)), b"\n"],
    [b"short"],
    [_part(20 * _KIB, 2), _part(300 * _KIB, 3)],
    *(list[Part]([_part(5000, number)]) for number in range(100)),
    [_part(16 * _KIB, 4), b"", b"tail"],
]


async def test_all_bytes_arrive_in_order(client: _Client) -> None:
    """Long and short parts arrive in the order in which they were sent, and none is counted afterwards."""
    expected = b"".join(part for parts in _REPLIES for part in parts)
    async with trio.open_nursery() as nursery:
        client.start(nursery)
        for parts in _REPLIES:
            client.outbox.send(parts)
        assert await client.read(len(expected)) == expected
        client.outbox.send([b"more"])
        assert await client.read(4) == b"more"
    assert client.account.held_bytes == 0


async def test_unsent_bytes_are_counted(client: _Client) -> None:
    """A long part counts until its last byte is sent, because its memory is held until then; nothing counts twice."""
    large = 1000 * _KIB
    client.outbox.send([b"head", bytes(large)])
    assert client.account.held_bytes == large
    client.outbox.send([bytes(100)])
    client.outbox.send([bytes(200)])
    assert client.account.held_bytes == large + 300
    async with trio.open_nursery() as nursery:
        client.start(nursery)
        await client.read(large // 2)
        assert client.account.held_bytes == large + 300
        await client.read(4 + large // 2 + 300)
    assert client.account.held_bytes == 0


async def test_bytes_that_the_socket_accepts_are_not_counted(client: _Client) -> None:
    """A reply that the socket accepts at once is not kept."""
    client.outbox.send([b"head", bytes(50 * _KIB), b"\n"])
    assert client.account.held_bytes == 0
    assert len(await client.read(5 + 50 * _KIB)) == 5 + 50 * _KIB


async def test_replies_sent_from_a_callback_keep_their_order(client: _Client) -> None:
    """A callback for room may send at once; its bytes follow those that were kept."""
    first, waiting = _part(1200 * _KIB, 7), deque[Callable[[], None]]()
    client.outbox.send([first])
    waiting.append(lambda: client.outbox.send([b"second"]))
    client.account.when_room(lambda: waiting.popleft()())
    assert waiting
    async with trio.open_nursery() as nursery:
        client.start(nursery)
        assert await client.read(len(first) + 6) == first + b"second"
    assert client.account.held_bytes == 0


async def test_a_closed_client_ends_its_connection(client: _Client) -> None:
    """Sending to a closed socket reports the end, and keeps no bytes."""
    client.theirs.close()
    client.outbox.send([b"x"])
    assert client.ended
    assert client.account.held_bytes == 0


async def test_only_one_task_sends(client: _Client) -> None:
    """A callback may send when the last kept byte has been sent: no second task then waits for the same socket."""
    large = _part(1500 * _KIB, 9)
    client.outbox.send([large])
    client.account.when_room(lambda: client.outbox.send([large]))
    async with trio.open_nursery() as nursery:
        client.start(nursery)
        assert await client.read(2 * len(large)) == bytes(large) * 2
    assert client.account.held_bytes == 0


def test_any_number_of_waiters_is_woken() -> None:
    """Each woken waiter passes on to the next one without recursion, and all accounts are released."""
    process = Account(1000)
    held = [Account(10_000, process) for _ in range(3000)]
    first, woken = held[0], list[Account]()
    first.charge(2000)

    def wake(account: Account) -> None:
        woken.append(account)
        account.pass_on()

    for account in held[1:]:
        account.when_room(partial(wake, account))
    first.release(2000)
    assert woken == held[1:]
    assert process.held_bytes == 0
