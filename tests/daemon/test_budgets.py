"""Limits on the memory that one client can make the daemon use, and cancels behind many pipelined requests.

Each attack comes from one process over real sockets. The tests compare the daemon's resident set with its value before
the attack.
"""

from __future__ import annotations

import fcntl
import json
import resource
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from sandbox.limits import MIB
from tests.daemon.processes import Daemon, a_daemon, many_descriptors, resident_bytes, talk, until

_FOUR_CELLS = "[pool]\ncells = 4\nspare = 4\n"
_SHORT_STALL = _FOUR_CELLS + "[server]\nstall_s = 1.0\n"
_MOST_GROWTH = 64 * MIB
_LOOP: dict[str, Any] = {"type": "run", "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 20_000}}


class _Watch:
    """Samples the daemon's resident set in a thread."""

    def __init__(self, pid: int) -> None:
        self.before = self.most = resident_bytes(pid)
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, resident_bytes(self._pid))

    @property
    def growth(self) -> int:
        """Return the largest growth so far, in bytes."""
        return self.most - self.before

    def end(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()


@contextmanager
def _watched(daemon: Daemon) -> Iterator[_Watch]:
    watch = _Watch(daemon.process.pid)
    try:
        yield watch
    finally:
        watch.end()


def _lines(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def _push(sock: socket.socket, data: bytes, seconds: float) -> int:
    """Send without reading until the time is over or the daemon closes the connection. Return the bytes sent."""
    deadline, sent = time.monotonic() + seconds, 0
    sock.settimeout(0.1)
    view = memoryview(data * (1 + MIB // len(data)))
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < deadline:
            try:
                sent += sock.send(view[sent % len(data) :])
            except TimeoutError:
                continue
    return sent


def _is_served(client: Client) -> None:
    for _ in range(10):
        assert client.run_source("return 1").value == 1


@pytest.mark.timed
def test_300_pipelined_runs_can_be_cancelled_at_once(tmp_path: Path) -> None:
    """The daemon cancels 300 pipelined endless loops, most of them before they start, and answers a ping among them."""
    numbers = range(300)
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, talk(daemon.socket) as sock:
        loops = _lines(*(_LOOP | {"id": f"run {number}"} for number in numbers))
        cancels = _lines(*({"type": "cancel", "id": f"cancel {n}", "target": f"run {n}"} for n in numbers))
        sending = threading.Thread(
            target=sock.sendall, args=(loops + _lines({"type": "ping", "id": "ping"}) + cancels,)
        )
        began = time.monotonic()
        sending.start()
        with sock.makefile("rb") as lines:
            replies = {reply["id"]: reply for reply in (json.loads(lines.readline()) for _ in range(601))}
        sending.join()
        assert time.monotonic() - began < 8, "they ran to their end"
        assert {replies[f"run {number}"]["outcome"]["kind"] for number in numbers} == {"cancelled"}
        assert all(replies[f"cancel {number}"]["found"] for number in numbers)
        begun = [n for n in numbers if replies[f"run {n}"]["usage"]["wall_ms"] > 0]
        # Runs that had a cell, or got one before the daemon read their cancel. A slow machine starts more of them.
        assert len(begun) <= 150


def test_a_ping_is_answered_before_pending_runs(tmp_path: Path) -> None:
    """The daemon answers a ping at once when it is sent behind more runs than one connection may have in progress."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon:
        loops = [_LOOP | {"id": number} for number in range(300)]
        with talk(daemon.socket, *loops, {"type": "ping", "id": "ping"}) as sock, sock.makefile("rb") as lines:
            assert json.loads(lines.readline())["id"] == "ping"


def test_pipelined_requests_are_served_in_order(tmp_path: Path) -> None:
    """With a limit of one request at a time, the daemon answers 50 pipelined requests in order."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 1\n"
    with a_daemon(tmp_path, config=config) as daemon:
        runs = [{"type": "run", "id": number, "source": "return 1"} for number in range(50)]
        with talk(daemon.socket, *runs) as sock, sock.makefile("rb") as lines:
            assert [json.loads(lines.readline())["id"] for _ in runs] == list(range(50))


def test_the_id_of_a_waiting_request_is_in_use(tmp_path: Path) -> None:
    """The daemon refuses a second request with the id of a request that still waits."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 1\n"
    with a_daemon(tmp_path, config=config) as daemon:
        wait = {"type": "run", "id": 2, "source": "return 1"}
        with talk(daemon.socket, _LOOP | {"id": 1}, wait, wait) as sock, sock.makefile("rb") as lines:
            assert json.loads(lines.readline())["code"] == "bad_request"


@pytest.mark.timed
def test_waiting_requests_are_dropped_when_their_client_disconnects(tmp_path: Path) -> None:
    """When a client disconnects, the daemon drops its waiting requests, and no counter includes them."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 4\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other:
        with talk(daemon.socket, *(_LOOP | {"id": number} for number in range(500))):
            until(lambda: other.stats().running >= 3)
        until(lambda: other.stats().running == other.stats().queued == 0)
        assert other.stats().clients == 1
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 4, "it waited for requests that nobody wants"


@pytest.mark.timed
@pytest.mark.parametrize(
    "line",
    [b'{"id":1}\n', b'{"type":"cancel","id":1,"target":2}\n', b'{"type":"ping","id":1}\n', b"\n"],
    ids=["invalid request", "cancel", "ping", "line feeds"],
)
def test_a_flood_of_short_requests_without_reading_is_bounded(tmp_path: Path, line: bytes) -> None:
    """The daemon closes a client that sends without reading; memory growth is small and other clients are served."""
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other:
        _is_served(other)
        with _watched(daemon) as watch, talk(daemon.socket) as sock:
            opening = b"" if line != b"\n" else b'{"type":"ping","id":1}\n'
            sock.sendall(opening)
            pushing = threading.Thread(target=_push, args=(sock, line, 2.0))
            pushing.start()
            _is_served(other)
            pushing.join()
            if line != b"\n":  # the daemon does not answer line feeds
                until(lambda: other.stats().clients == 1)
            assert watch.growth < 16 * MIB


@pytest.mark.timed
def test_floods_of_one_process_share_one_bound(tmp_path: Path) -> None:
    """The unread replies of 40 connections of one process share a bound far below 40 times that of one connection."""
    line = b'{"type":"list","id":1}\n' * 400
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, ExitStack() as stack:
        other = stack.enter_context(Client(daemon.socket))
        for number in range(50):
            other.submit(f"return {number}")
        _is_served(other)
        with _watched(daemon) as watch:
            socks = [stack.enter_context(talk(daemon.socket)) for _ in range(40)]
            for sock in socks:
                _push(sock, line, 0.03)
            assert watch.growth < 48 * MIB


def _large(client: Client) -> str:
    """Submit a program of 1 MB, and return its hash."""
    return client.submit("/*" + "x" * 1_000_000 + "*/ return 1").hash


@pytest.mark.timed
@pytest.mark.parametrize("connections", [1, 16])
def test_sources_are_not_prepared_for_a_client_that_does_not_read(tmp_path: Path, connections: int) -> None:
    """If a client requests 128 sources of 1 MB and does not read, the daemon prepares only a few."""
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        hash = _large(other)
        shows = [{"type": "show", "id": number, "hash": hash, "source": True} for number in range(128)]
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(connections):
                stack.enter_context(talk(daemon.socket, *shows))
            _is_served(other)
            until(lambda: other.stats().clients == 1, 20)
            assert watch.growth < _MOST_GROWTH


@pytest.mark.timed
def test_results_for_a_client_that_does_not_read_are_bounded(tmp_path: Path) -> None:
    """For 16 connections of one process that read nothing, results of 4 MiB stop at about the process's budget."""
    limits = {"result_bytes": 4 * MIB, "cpu_ms": 500, "wall_ms": 20_000}
    run = {"type": "run", "source": "return 'x'.repeat(4194000)", "limits": limits}
    config = _FOUR_CELLS + "[server]\nstall_s = 3.0\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(16):
                stack.enter_context(talk(daemon.socket, *(run | {"id": number} for number in range(8))))
            # `other` belongs to the same process: the daemon answers its `stats`, but starts none of its runs
            # meanwhile.
            until(lambda: other.stats().running == 0 and other.stats().runs["ok"] > 10, 5)
            # 10 runs before; 16 MiB; one for each slot, and one for each run that gave its slot back after 0.1 s.
            assert other.stats().runs["ok"] <= 10 + 4 + 2 * 4
            waiting = other.start(None, source="return 1")
            assert waiting.result().value == 1  # the daemon has closed the connections that do not read
            assert watch.growth < _MOST_GROWTH


@pytest.mark.timed
def test_streamed_lines_stay_in_the_cells_when_nobody_reads(tmp_path: Path) -> None:
    """While a client does not read, the daemon reads no console lines from its cells, so memory does not grow."""
    limits = {"log_bytes": MIB, "cpu_ms": 5000, "wall_ms": 3000}
    source = "for (let n = 0; n < 60000; n++) console.log(''); return 1"
    run = {"type": "run", "source": source, "stream_logs": True, "limits": limits}
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(8):
                stack.enter_context(talk(daemon.socket, *(run | {"id": number} for number in range(4))))
            until(lambda: other.stats().clients == 1, 30)
            _is_served(other)
            assert watch.growth < 24 * MIB


@pytest.mark.timed
def test_a_run_whose_lines_nobody_reads_ends_at_the_wall_limit(tmp_path: Path) -> None:
    """A run that waits for its client to read console lines ends at the wall limit."""
    limits = {"log_bytes": MIB, "cpu_ms": 5000, "wall_ms": 2000}
    source = "for (let n = 0; n < 60000; n++) console.log(''); return 1"
    run = {"type": "run", "id": 1, "source": source, "stream_logs": True, "limits": limits}
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, Client(daemon.socket) as other, talk(daemon.socket, run):
        until(lambda: other.stats().runs == {"wall_limit": 1}, 15)


@pytest.mark.timed
def test_a_slow_reader_gets_all_streamed_lines(tmp_path: Path) -> None:
    """A client that pauses between reads gets all lines of a log of 600 KB, and the result."""
    limits = {"log_bytes": MIB, "cpu_ms": 5000, "wall_ms": 30_000}
    source = "for (let n = 0; n < 20000; n++) console.log(n); return 1"
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon:
        run = {"type": "run", "id": 1, "source": source, "stream_logs": True, "limits": limits}
        received = b""
        with talk(daemon.socket, run) as sock:
            while b'"finished"' not in received[-2000:] or not received.endswith(b"\n"):
                time.sleep(0.01)  # a slow client
                received += sock.recv(65536)
        replies = [json.loads(line) for line in received.splitlines()]
        assert [reply["text"] for reply in replies[:-1]] == [str(number) for number in range(20_000)]
        assert replies[-1]["outcome"] == {"kind": "ok", "value": 1}


@pytest.mark.timed
def test_a_client_that_reads_too_slowly_is_closed(tmp_path: Path) -> None:
    """The daemon closes a client that reads only 16 KiB per stall time of replies of several megabytes."""
    run = {"type": "run", "source": "return 'x'.repeat(1000000)"}
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other:
        with talk(daemon.socket, *(run | {"id": number} for number in range(8))) as sock:
            until(lambda: other.stats().clients == 2)
            deadline = time.monotonic() + 30
            while other.stats().clients == 2:
                assert time.monotonic() < deadline, "it was not closed"
                assert sock.recv(1024)
                time.sleep(0.06)  # a slow client
        until(lambda: "does not read its replies" in daemon.log.read_text())


def test_one_process_can_not_take_all_connections(tmp_path: Path) -> None:
    """With `max_clients = 40`, one process gets at most 35 connections, and another process is still served."""
    config = _FOUR_CELLS + "[server]\nmax_clients = 40\n"
    with a_daemon(tmp_path, config=config) as daemon, ExitStack() as stack:
        ping = {"type": "ping", "id": 1}
        for _ in range(35):
            sock = stack.enter_context(talk(daemon.socket, ping))
            assert sock.recv(4096)
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(daemon.socket))
                assert sock.recv(4096) == b""
        command = [sys.executable, "-m", "promptlogctl", "ping", "--socket", str(daemon.socket)]
        assert subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0
        assert daemon.log.read_text().count("a connection was refused") < 100


def test_clients_are_served_while_the_daemon_has_no_free_descriptors(tmp_path: Path) -> None:
    """Without free descriptors, the daemon serves its present clients; it accepts new ones when some are free again."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        _is_served(other)
        pid = daemon.process.pid
        most = 1 + max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
        before = resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (most + 4, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        socks = [stack.enter_context(talk(daemon.socket, {"type": "ping", "id": 1})) for _ in range(40)]
        until(lambda: "can't accept a client now" in daemon.log.read_text())
        _is_served(other)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert all(sock.recv(4096) for sock in socks)


@pytest.mark.timed
def test_one_process_sends_one_long_frame_at_a_time(tmp_path: Path) -> None:
    """Of 20 connections of a process that each send 7 MiB of a frame, only one is read beyond its first bytes."""
    start = b'{"type":"run","id":1,"source":"return 1","prompt":"'
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        _is_served(other)
        with _watched(daemon) as watch:
            socks: list[socket.socket] = []
            for _ in range(20):
                sock = stack.enter_context(talk(daemon.socket))
                sock.setblocking(False)
                socks.append(sock)
                sock.send(start)
            for _ in range(56):
                for sock in socks:
                    with suppress(BlockingIOError):
                        sock.send(b"x" * (MIB // 8))
                _is_served(other)  # the daemon has read its input when it answers
            assert other.ping()
            _is_served(other)
            assert watch.growth < 32 * MIB


def test_a_truncated_long_frame_frees_its_place(tmp_path: Path) -> None:
    """After a connection ends within a long frame, the daemon reads a long frame of another connection."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, ExitStack() as stack:
        ends, other = stack.enter_context(talk(daemon.socket)), stack.enter_context(talk(daemon.socket))
        ends.sendall(_lines({**_LOOP, "id": 1}) + b'{"type":"run","id":2,"prompt":"' + b"x" * 500_000)
        ends.shutdown(socket.SHUT_WR)
        assert b"within a frame" in ends.makefile("rb").readline()
        other.settimeout(10)
        other.sendall(_lines({"type": "run", "id": 1, "source": "return prompt.length", "prompt": "x" * 500_000}))
        assert json.loads(other.makefile("rb").readline())["outcome"] == {"kind": "ok", "value": 500_000}


def test_long_frames_of_one_process_all_arrive(tmp_path: Path) -> None:
    """The daemon answers ten frames of 3 MiB that one process sends in parts at the same time."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, ExitStack() as stack:
        frame = _lines({"type": "run", "id": 1, "source": "return prompt.length", "prompt": "x" * 3_000_000})
        socks = [stack.enter_context(talk(daemon.socket)) for _ in range(10)]
        threads = [threading.Thread(target=sock.sendall, args=(frame,)) for sock in socks]
        for thread in threads:
            thread.start()
        for sock in socks:
            assert json.loads(sock.makefile("rb").readline())["code"] == "too_large"
        for thread in threads:
            thread.join()


@pytest.mark.timed
def test_incomplete_short_frames_count_against_the_process(tmp_path: Path) -> None:
    """For 1,500 connections with half a frame of 15 KB each, the daemon reads no more than the bound of one process.

    It reads further connections when the first ones disconnect, and serves another process's client meanwhile.
    """
    half = b'{"id":1,"type":"ping","x":"'.ljust(15_000, b"y")
    with many_descriptors(2_000), a_daemon(tmp_path) as daemon:
        socks = [talk(daemon.socket) for _ in range(1_500)]
        try:
            for sock in socks:
                sock.sendall(half)
            command = [sys.executable, "-m", "promptlogctl", "exec", "-", "--socket", str(daemon.socket)]
            assert subprocess.run(command, input=b"return 1", capture_output=True, timeout=30).stdout == b"1\n"
            until(lambda: sum(map(_is_read, socks)) >= 1_000)
            assert 1_000 <= sum(map(_is_read, socks)) <= 1_150
            gone, socks = socks[:700], socks[700:]
            for sock in gone:
                sock.close()
            until(lambda: all(map(_is_read, socks)))
        finally:
            for sock in socks:
                sock.close()


@pytest.mark.timed
def test_incomplete_long_frames_do_not_deadlock(tmp_path: Path) -> None:
    """1,100 connections of a process, each with half a frame of over 16 KiB, do not wait for each other for ever.

    The daemon closes each of them, and then reads a long request of the same process.
    """
    half = b'{"id":1,"type":"ping","x":"'.ljust(16 * 1024, b"y")
    config = "[server]\nstall_s = 0.5\n"
    with many_descriptors(2_000), a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        socks = [talk(daemon.socket) for _ in range(1_100)]
        try:
            for sock in socks:
                sock.sendall(half)
            time.sleep(0.2)
            for sock in socks:
                with suppress(BrokenPipeError):
                    sock.sendall(b"y")
            for sock in socks:
                sock.settimeout(30.0)
                assert sock.recv(4096)
                with suppress(ConnectionResetError):
                    assert sock.recv(4096) == b""
            assert client.run_source("return prompt.length", prompt="x" * 100_000).value == 100_000
        finally:
            for sock in socks:
                sock.close()


def _is_read(sock: socket.socket) -> bool:
    """Return whether the other end has read everything that was sent."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder) == 0


@pytest.mark.timed
def test_memory_of_closed_connections_is_freed_at_once(tmp_path: Path) -> None:
    """The memory of 7,200 closed connections with partial frames is freed without waiting for a garbage collection."""
    half = b'{"id":1,"type":"ping","x":"'.ljust(12_000, b"y")
    with many_descriptors(1_000), a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(12):
                with ExitStack() as stack:
                    for _ in range(600):
                        stack.enter_context(talk(daemon.socket)).sendall(half)
                until(lambda: other.stats().clients == 1)
        assert watch.growth < 20 * MIB  # measured: 8 MiB, or 33 MiB if they wait for a garbage collection
