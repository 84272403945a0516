"""The blocking and the asynchronous client with a real daemon."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from promptlogctl.client import (
    AsyncClient,
    Client,
    ConnectionLost,
    CpuLimit,
    Limits,
    LimitsAsked,
    LogLine,
    NoDaemon,
    ProgramFailed,
    RequestRefused,
)
from promptlogd.wire.messages import Finished, Run
from tests.daemon.processes import a_daemon, until

BACKENDS = ["trio", "asyncio"]
LONG = LimitsAsked(cpu_ms=9000, wall_ms=9000)


def test_the_readme_example(socket_path: Path) -> None:
    """The example in the README works."""
    with Client(socket_path) as c:
        hash = c.submit("const result = [prompt, env]").hash
        assert c.run(hash, "hello", env={"a": [1]}).value == ["hello", {"a": [1]}]


def test_a_failure_holds_its_outcome(client: Client) -> None:
    """The exception that `.value` raises holds the outcome, whose class promptlogctl.client exports."""
    with pytest.raises(ProgramFailed, match="stopped at the CPU limit of 50 ms") as failed:
        _ = client.run_source("for (;;) {}").value
    assert isinstance(failed.value.outcome, CpuLimit)
    assert failed.value.outcome.used >= 50


def test_pipelining_from_threads(client: Client) -> None:
    """Several threads can wait for many concurrent runs in any order, and each gets the result of its own run."""
    hash = client.submit("const result = prompt").hash
    runs = [client.start(hash, str(i)) for i in range(40)]
    got: dict[int, str] = {}

    def collect(part: range) -> None:
        for i in part:
            got[i] = runs[i].result().value

    threads = [threading.Thread(target=collect, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: str(i) for i in range(40)}


@pytest.mark.parametrize(
    ("right", "wrong", "kind", "says"),
    [
        ({"source": "return '\U0001f600'"}, {"source": "return '\ud800'"}, ValueError, "a lone surrogate at"),
        ({"prompt": "a\U0001f600"}, {"prompt": "a\ud800"}, ValueError, "a lone surrogate at"),
        ({"env": {"a": "\U0001f600"}}, {"env": {"a": "\udfff"}}, ValueError, "a lone surrogate at"),
        ({"env": {"a": 1.5}}, {"env": {"a": float("nan")}}, ValueError, "`env` must be a JSON object"),
        ({"env": {"a": [1, 2]}}, {"env": {"a": {1, 2}}}, TypeError, "`env` must be a JSON object"),
        ({"env": {"a": 1}}, {"env": [1]}, TypeError, "`env` must be a mapping .*, not list"),
        ({"limits": LimitsAsked(cpu_ms=50)}, {"limits": {"cpu_ms": 50}}, TypeError, "must be LimitsAsked, not dict"),
        ({"prompt": "a"}, {"prompt": b"a"}, TypeError, "the prompt is str, not bytes"),
        ({"source": b"return 1"}, {"source": 5}, TypeError, "str or bytes"),
        ({"source": b"return '\xc3\xbf'"}, {"source": b"return '\xff'"}, ValueError, "byte 8 "),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_invalid_arguments_are_not_sent(
    client: Client, right: dict[str, Any], wrong: dict[str, Any], kind: type[Exception], says: str
) -> None:
    """An invalid argument raises ValueError or TypeError with the reason, and the connection stays usable."""
    assert client.run_source(**{"source": "return 1", **right}).ok
    with pytest.raises(kind, match=says):
        client.run_source(**{"source": "return 1", **wrong})
    assert client.run_source("return 1").value == 1


def test_a_request_that_is_too_large(client: Client) -> None:
    """A request that is too large is refused before it is sent, and other runs on the connection end normally."""
    hash = client.submit("return prompt.length").hash
    runs = [client.start(hash, "x" * number) for number in range(10)]
    with pytest.raises(RequestRefused, match="the maximum for a message is") as refused:
        client.run(hash, "x" * 9_000_000)
    assert refused.value.code == "too_large"
    assert [run.result().value for run in runs] == list(range(10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_request_that_is_too_large_async(socket_path: Path, backend: str) -> None:
    """AsyncClient refuses a request that is too large, and its connection stays usable."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client:
            with pytest.raises(RequestRefused, match="the maximum for a message is"):
                await client.run_source("return 1", "x" * 9_000_000)
            assert (await client.run_source("return 1")).value == 1

    anyio.run(main, backend=backend)


def test_numbers_beyond_the_range_of_python(client: Client) -> None:
    """A number that JavaScript reads as infinite has the value infinity, and its JSON text is unchanged."""
    result = client.run_source("return JSON.rawJSON('1' + '0'.repeat(5000))", engine="deno")
    assert result.value == float("inf")
    assert result.json == "1" + "0" * 5000


def test_failed_programs_and_refused_requests(client: Client) -> None:
    """A failed program raises only when its value is read; a refused request raises at once."""
    result = client.run_source("throw new RangeError('x')")
    assert not result.ok
    with pytest.raises(ProgramFailed, match="RangeError: x"):
        _ = result.value
    with pytest.raises(RequestRefused) as refused:
        client.run("0" * 64)
    assert refused.value.code == "not_found"
    with pytest.raises(ValueError, match="byte 1 "):
        client.submit(b"a\xff")


def test_logs_are_streamed(client: Client) -> None:
    """`on_log` receives each log line."""
    lines: list[LogLine] = []
    result = client.run_source("console.log('a'); console.error('b'); return 1", on_log=lines.append)
    assert [(line.level, line.text) for line in lines] == [("log", "a"), ("error", "b")]
    assert (result.value, result.logs) == (1, [])


def test_a_timeout_does_not_cancel_the_run(client: Client) -> None:
    """After `result(timeout)` raises TimeoutError, `result` can be called again and returns the result."""
    run = client.start(None, source="const t = Date.now(); while (Date.now() - t < 300); return 1", limits=LONG)
    with pytest.raises(TimeoutError):
        run.result(0.05)
    assert run.result().value == 1


def test_no_daemon_and_lost_connections(tmp_path: Path) -> None:
    """A missing daemon raises NoDaemon; a daemon that disconnects or sends invalid data raises ConnectionLost."""
    with pytest.raises(NoDaemon), Client(tmp_path / "none") as client:
        client.ping()
    for says in (b"", b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1"):
        path = tmp_path / "fake"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()

            def answer(listener: socket.socket = listener, says: bytes = says) -> None:
                for _ in range(2):
                    peer, _ = listener.accept()
                    peer.recv(1000)
                    peer.sendall(says)
                    peer.close()

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            with pytest.raises(ConnectionLost), Client(path) as client:
                client.ping()
            thread.join(5)
        path.unlink()


@pytest.mark.parametrize("backend", BACKENDS)
def test_async(socket_path: Path, backend: str) -> None:
    """Tasks share one connection under trio and asyncio, and cancelling a task cancels its run at the daemon."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client:
            hash = (await client.submit("const result = prompt.length")).hash
            lengths = []

            async def one(i: int) -> None:
                lengths.append((await client.run(hash, "x" * i)).value)

            async with anyio.create_task_group() as tasks:
                for i in range(20):
                    tasks.start_soon(one, i)
            assert sorted(lengths) == list(range(20))
            before = (await client.stats()).runs.get("cancelled", 0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: client.run_source("for(;;){}", limits=LONG))
                with anyio.fail_after(5):
                    while (await client.stats()).running == 0:
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(3):
                while (await client.stats()).runs.get("cancelled", 0) == before:
                    await anyio.sleep(0.01)
            with pytest.raises(RequestRefused):
                await client.show("0" * 64)
            assert hash in [row.hash async for row in client.list()]

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_async_without_daemon(tmp_path: Path, backend: str) -> None:
    """Without a daemon, the first request raises NoDaemon."""

    async def main() -> None:
        with pytest.raises(NoDaemon):
            async with AsyncClient(tmp_path / "none") as client:
                await client.ping()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_async_client_reconnects_after_a_restart(backend: str, tmp_path: Path) -> None:
    """AsyncClient reconnects after the daemon restarts; a run that the restart interrupted raises ConnectionLost."""

    async def main() -> None:
        async with AsyncClient(tmp_path / "s") as client:
            with a_daemon(tmp_path) as daemon:
                assert (await client.run_source("return 1")).value == 1
                async with anyio.create_task_group() as tasks:

                    async def run() -> None:
                        with pytest.raises(ConnectionLost):
                            await client.run_source("for (;;);", limits=LONG)

                    tasks.start_soon(run)
                    with anyio.fail_after(5):
                        while (await client.stats()).running == 0:
                            await anyio.sleep(0.01)
                    daemon.process.kill()
                with pytest.raises(NoDaemon):
                    await client.ping()
            with a_daemon(tmp_path):
                assert (await client.run_source("return 2")).value == 2

    anyio.run(main, backend=backend)


def test_a_client_reconnects_after_an_abandoned_run(tmp_path: Path) -> None:
    """After a run whose `on_log` raised an exception, Client still reconnects when the daemon restarts."""

    def fail(line: LogLine) -> None:
        raise LookupError(line.text)

    with Client(tmp_path / "s") as client:
        with a_daemon(tmp_path), pytest.raises(LookupError):
            client.run_source("console.log(1); for (;;);", limits=LONG, on_log=fail)
        with a_daemon(tmp_path):
            assert client.run_source("return 1").value == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_large_async_requests_in_flight(backend: str, socket_path: Path) -> None:
    """Neither side deadlocks when 200 prompts of 500 kB are sent while results of the same size come back."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client, anyio.create_task_group() as tasks:
            got: list[int] = []

            async def run() -> None:
                got.append(len((await client.run_source("return prompt", "x" * 500_000)).value))

            for _ in range(200):
                tasks.start_soon(run)
        assert got == [500_000] * 200

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lost_connection_with_unsent_requests(backend: str, tmp_path: Path) -> None:
    """Requests that were not sent yet raise ConnectionLost, and no request stays in flight."""

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s"))
            listening.listen()
            async with AsyncClient(tmp_path / "s") as client:
                first = await client.send(lambda id: Run(id=id, source="1", prompt="x" * 2_000_000))
                listening.accept()[0].close()
                with pytest.raises(ConnectionLost):
                    await client.run_source("return 1", "x" * 2_000_000)
                first.close()
                assert client.in_flight == 0

    anyio.run(main, backend=backend)


def test_an_abandoned_wait(tmp_path: Path) -> None:
    """On asyncio, `abandon` ends the wait of `reply_within` at once, whether it has begun or not."""

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "s"))
            listening.listen()
            async with AsyncClient(tmp_path / "s") as client:
                pending = await client.send(lambda id: Run(id=id, source="1"))
                asyncio.get_running_loop().call_later(0.05, pending.abandon)
                with anyio.fail_after(5):
                    assert await pending.reply_within(0.001, Finished) is None
                    assert not pending.is_abandoned
                    assert await pending.reply_within(60, Finished) is None
                    assert pending.is_abandoned
                    assert await pending.reply_within(60, Finished) is None
                pending.close()

    asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_receiving_task_passes_its_duty_on(backend: str, socket_path: Path) -> None:
    """If the task that was woken to receive for all tasks leaves at the same moment, it wakes another task."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client, anyio.create_task_group() as tasks:
            left, got = anyio.Event(), []
            waiting = [await client.send(lambda id: Run(id=id, source="return 1")) for _ in range(3)]
            first = anyio.CancelScope()

            async def receive() -> None:
                with first:
                    await waiting[0].reply(Finished)

            async def leave() -> None:
                got.append(await waiting[1].reply_unless(left.wait, Finished))

            async def wait() -> None:
                got.append(await waiting[2].reply(Finished))

            for task in (receive, leave, wait):
                tasks.start_soon(task)
                await anyio.lowlevel.checkpoint()
            left.set()
            first.cancel()
            with anyio.fail_after(5):
                while len(got) < 2:
                    await anyio.sleep(0.01)
            for pending in waiting:
                pending.close()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_in_on_log_reaches_one_task(backend: str, socket_path: Path) -> None:
    """An exception in `on_log` reaches only the task that passed it, and cancels that task's run."""

    def fail(line: LogLine) -> None:
        raise LookupError(line.text)

    async def main() -> None:
        async with AsyncClient(socket_path) as client, anyio.create_task_group() as tasks:
            before = (await client.stats()).runs.get("cancelled", 0)

            async def others() -> None:
                for _ in range(20):
                    assert (await client.run_source("return 1")).value == 1

            tasks.start_soon(others)
            with pytest.raises(LookupError, match="here"):
                await client.run_source("console.log('here'); for (;;);", limits=LONG, on_log=fail)
            with anyio.fail_after(5):
                while (await client.stats()).runs.get("cancelled", 0) == before:
                    await anyio.sleep(0.01)

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_receiving_task_can_be_cancelled(backend: str, socket_path: Path) -> None:
    """The first task that waits receives for all tasks. If it is cancelled, another task receives."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client, anyio.create_task_group() as tasks:
            got: list[int] = []

            async def short() -> None:
                got.append((await client.run_source("return 1")).value)

            for _ in range(50):
                tasks.start_soon(short)
                tasks.start_soon(short)
                with anyio.move_on_after(0.002):
                    await client.run_source("for (;;);", limits=LONG)
            with anyio.fail_after(10):
                while len(got) < 100:
                    await anyio.sleep(0.01)

    anyio.run(main, backend=backend)


def test_many_large_requests_in_flight(client: Client) -> None:
    """Neither side deadlocks when 200 prompts of 500 kB are sent while their results come back."""
    prompt = "x" * 500_000
    runs = [client.start(None, prompt, source="return prompt.length") for _ in range(200)]
    assert {run.result().value for run in runs} == {500_000}


def test_a_timeout_leaves_the_connection_usable(client: Client) -> None:
    """After a timeout, large requests still pass and the run still returns its result."""
    slow = client.start(None, source="const t = Date.now(); while (Date.now() - t < 300); return 1", limits=LONG)
    with pytest.raises(TimeoutError):
        slow.result(timeout=0.001)
    runs = [client.start(None, "x" * 1_000_000, source="return prompt.length") for _ in range(10)]
    assert {run.result().value for run in runs} == {1_000_000}
    assert slow.result().value == 1


def test_close_wakes_a_waiting_thread(socket_path: Path) -> None:
    """`close` from another thread ends a wait at once, and the daemon cancels the run."""
    client = Client(socket_path)
    ended: list[float] = []

    def wait() -> None:
        try:
            client.run_source("for(;;){}", limits=LONG)
        except ConnectionLost:
            ended.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    with Client(socket_path) as other:
        until(lambda: other.stats().running == 1)
        began = time.monotonic()
        client.close()
        waiter.join(5)
        assert ended
        assert ended[0] - began < 1
        until(lambda: other.stats().running == 0, 2)


class _Flaky:
    """A proxy between a client and the daemon that drops the connection on request."""

    def __init__(self, daemon: Path, path: Path) -> None:
        self.path = path
        self._daemon = daemon
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self.swallow = 0
        """Number of replies to drop together with their connection."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as daemon:
                daemon.connect(str(self._daemon))
                while request := client.recv(65536):
                    daemon.sendall(request)
                    reply = daemon.recv(65536)
                    if self.swallow:
                        self.swallow -= 1
                        break
                    client.sendall(reply)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def test_only_repeatable_requests_are_sent_again(socket_path: Path, tmp_path: Path) -> None:
    """A lost reply to a name change or a removal raises ConnectionLost; a submit is sent again silently."""
    flaky = _Flaky(socket_path, tmp_path / "flaky")
    try:
        with Client(flaky.path) as client:
            hashes = [client.submit(f"return 'flaky {i}'", name="flaky").hash for i in range(3)]
            flaky.swallow = 1
            assert client.submit("return 'again'").created is False
            flaky.swallow = 1
            with pytest.raises(ConnectionLost):
                client.label("flaky")
            assert "flaky" in client.show(hashes[1]).names
            flaky.swallow = 1
            with pytest.raises(ConnectionLost):
                client.remove(hashes[1])
            with pytest.raises(RequestRefused):
                client.show(hashes[1])
    finally:
        flaky.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_cancelled_while_sending(socket_path: Path, backend: str) -> None:
    """A task that is cancelled in the middle of a large request leaves the connection usable for other tasks."""

    async def main() -> None:
        async with AsyncClient(socket_path) as client, anyio.create_task_group() as group:
            got: list[int] = []

            async def run() -> None:
                got.append((await client.run_source("return 1")).value)

            for _ in range(130):
                group.start_soon(run)
            for _ in range(10):
                with anyio.move_on_after(0.001):  # shorter than the time to send a megabyte
                    await client.run_source("return 2", "x" * 1_000_000)
            with anyio.fail_after(20):
                await client.ping()
                while len(got) < 130:
                    await anyio.sleep(0.01)

    anyio.run(main, backend=backend)


def test_errors_name_line_and_column(client: Client) -> None:
    """The message of a client exception names line and column, for a run as for a submit."""
    with pytest.raises(RequestRefused, match=r"SyntaxError: .* \(line 2, column \d+\)"):
        client.submit("\nconst x = ;")
    with pytest.raises(ProgramFailed, match=r"TypeError: .* \(line 2, column \d+\)"):
        _ = client.run_source("\nnull.x").value
    with pytest.raises(RequestRefused) as refused:
        client.submit("\nconst x = ;")
    assert "line" not in refused.value.message


def test_repr_of_a_result(client: Client) -> None:
    """The `repr` of a result gives outcome, value and usage in one short line."""
    result = client.run_source("console.log(1); return {a: [prompt]}", "b")
    assert re.fullmatch(
        r'<RunResult ok: {"a":\["b"\]} \(cpu [\d.]+ ms, wall [\d.]+ ms, peak memory [\d.]+ MiB, console lines: 1\)>',
        repr(result),
    )
    assert repr(client.run_source("null.x")).startswith("<RunResult exception: TypeError: Cannot read properties of")
    assert len(repr(client.run_source("return 'x'.repeat(1e5)"))) < 400


def test_moved_from_and_move_false(client: Client) -> None:
    """`moved_from` names the previous program of a name; `move=False` refuses to move a name."""
    first = client.submit("return 'moves: first'", name="client-moves", move=False)
    assert first.moved_from is None
    with pytest.raises(RequestRefused, match="client-moves is on another program") as refused:
        client.submit("return 'moves: second'", name="client-moves", move=False)
    assert refused.value.detail["on"] == first.hash
    assert client.submit("return 'moves: second'", name="client-moves").moved_from == first.hash


def test_limits_in_force(client: Client) -> None:
    """A result contains the limits of its run: the requested limits, and the daemon's defaults for the rest."""
    assert client.run_source("return 1").limits == Limits()
    limits = client.run_source("return 1", limits=LimitsAsked(cpu_ms=30)).limits
    assert limits == Limits(cpu_ms=30)
