"""What one client makes the daemon hold is bounded, and a cancel is read behind any number of requests.

Each attack comes from one process, over real sockets, and is compared with the daemon's resident set before it.
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

pytestmark = pytest.mark.alone

_FOUR_CELLS = "[pool]\ncells = 4\nspare = 4\n"
_SHORT_STALL = _FOUR_CELLS + "[server]\nstall_s = 1.0\n"
_MOST_GROWTH = 64 * MIB
_LOOP: dict[str, Any] = {"type": "run", "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 20_000}}


class _Watch:
    """Samples the daemon's resident set in a thread of its own."""

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
        """How far it has grown at the most."""
        return self.most - self.before

    def end(self) -> None:
        """Sample no longer."""
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
    """Send without reading, for so long or until the daemon closes the connection. Return how much it took."""
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


def test_300_runs_are_cancelled_at_once(tmp_path: Path) -> None:
    """Of 300 endless loops pipelined none runs to its limit, most never begin, and a ping behind all is answered."""
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
        # Those in a cell, and those that got a free cell before their cancel was read; more on a slow machine.
        assert len(begun) <= 150


def test_a_ping_does_not_wait_for_runs(tmp_path: Path) -> None:
    """Behind more runs than are taken at once, which all go on, a ping is answered at once."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon:
        loops = [_LOOP | {"id": number} for number in range(300)]
        with talk(daemon.socket, *loops, {"type": "ping", "id": "ping"}) as sock, sock.makefile("rb") as lines:
            assert json.loads(lines.readline())["id"] == "ping"


def test_requests_that_were_read_ahead_are_served_in_order(tmp_path: Path) -> None:
    """With one request at a time, 50 pipelined ones are answered in the order in which they came."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 1\n"
    with a_daemon(tmp_path, config=config) as daemon:
        runs = [{"type": "run", "id": number, "source": "return 1"} for number in range(50)]
        with talk(daemon.socket, *runs) as sock, sock.makefile("rb") as lines:
            assert [json.loads(lines.readline())["id"] for _ in runs] == list(range(50))


def test_an_id_that_was_read_ahead_is_in_use(tmp_path: Path) -> None:
    """A second request with the id of one that waits is refused."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 1\n"
    with a_daemon(tmp_path, config=config) as daemon:
        wait = {"type": "run", "id": 2, "source": "return 1"}
        with talk(daemon.socket, _LOOP | {"id": 1}, wait, wait) as sock, sock.makefile("rb") as lines:
            assert json.loads(lines.readline())["code"] == "bad_request"


def test_a_client_that_leaves_takes_what_was_read_ahead_with_it(tmp_path: Path) -> None:
    """Its requests that wait are dropped, and nothing counts them any more."""
    config = _FOUR_CELLS + "[server]\nmax_pipelined = 4\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other:
        with talk(daemon.socket, *(_LOOP | {"id": number} for number in range(500))):
            until(lambda: other.stats().running == 3)
        until(lambda: other.stats().running == other.stats().queued == 0)
        assert other.stats().clients == 1
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 4, "it waited for requests that nobody wants"


@pytest.mark.parametrize(
    "line",
    [b'{"id":1}\n', b'{"type":"cancel","id":1,"target":2}\n', b'{"type":"ping","id":1}\n', b"\n"],
    ids=["no request", "cancel", "ping", "line feeds"],
)
def test_a_flood_without_a_reader(tmp_path: Path, line: bytes) -> None:
    """Short requests without end, replies unread: little is held, others are served, and it is closed."""
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other:
        _is_served(other)
        with _watched(daemon) as watch, talk(daemon.socket) as sock:
            opening = b"" if line != b"\n" else b'{"type":"ping","id":1}\n'
            sock.sendall(opening)
            pushing = threading.Thread(target=_push, args=(sock, line, 3.0))
            pushing.start()
            _is_served(other)
            pushing.join()
            if line != b"\n":  # these are answered by nothing
                until(lambda: other.stats().clients == 1)
            assert watch.growth < 16 * MIB


def test_many_floods_of_one_process(tmp_path: Path) -> None:
    """The replies of 40 connections of one process have one bound, which is far below forty budgets."""
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
    """Keep a program of a megabyte, and return its hash."""
    return client.submit("/*" + "x" * 1_000_000 + "*/ return 1").hash


@pytest.mark.parametrize("connections", [1, 16])
def test_sources_that_nobody_reads(tmp_path: Path, connections: int) -> None:
    """Of 128 sources of a megabyte that a client asks for on each connection, a few are made."""
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


def test_results_that_nobody_reads(tmp_path: Path) -> None:
    """Results of 4 MiB for 16 connections of one process: about the process's budget of them is made."""
    limits = {"result_bytes": 4 * MIB, "cpu_ms": 500, "wall_ms": 20_000}
    run = {"type": "run", "source": "return 'x'.repeat(4194000)", "limits": limits}
    config = _FOUR_CELLS + "[server]\nstall_s = 3.0\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other, ExitStack() as stack:
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(16):
                stack.enter_context(talk(daemon.socket, *(run | {"id": number} for number in range(8))))
            # The other is of the same process: it is told how things are, and no run of it begins meanwhile.
            until(lambda: other.stats().running == 0 and other.stats().runs["ok"] > 10, 5)
            # 10 of the other's; 16 MiB; one for each slot, and one for each run that gave its slot back after 0.1 s.
            assert other.stats().runs["ok"] <= 10 + 4 + 2 * 4
            waiting = other.start(None, source="return 1")
            assert waiting.result().value == 1  # since those that do not read are closed
            assert watch.growth < _MOST_GROWTH


def test_streamed_lines_that_nobody_reads(tmp_path: Path) -> None:
    """Runs of 8 connections that print a megabyte in short lines: what is not read is not taken from the cells."""
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


def test_streamed_lines_that_nobody_reads_end_at_the_wall_limit(tmp_path: Path) -> None:
    """The process of such a run waits for its client, and not longer than it may."""
    limits = {"log_bytes": MIB, "cpu_ms": 5000, "wall_ms": 5000}
    source = "for (let n = 0; n < 60000; n++) console.log(''); return 1"
    run = {"type": "run", "id": 1, "source": source, "stream_logs": True, "limits": limits}
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, Client(daemon.socket) as other, talk(daemon.socket, run):
        until(lambda: other.stats().runs == {"wall_limit": 1}, 15)


def test_streamed_lines_all_come_to_a_slow_reader(tmp_path: Path) -> None:
    """A client that reads, with pauses, gets every line of 600 KB, and the result."""
    limits = {"log_bytes": MIB, "cpu_ms": 5000, "wall_ms": 30_000}
    source = "for (let n = 0; n < 20000; n++) console.log(n); return 1"
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon:
        run = {"type": "run", "id": 1, "source": source, "stream_logs": True, "limits": limits}
        received = b""
        with talk(daemon.socket, run) as sock:
            while b'"finished"' not in received[-2000:]:
                time.sleep(0.01)  # it is slow
                received += sock.recv(65536)
        replies = [json.loads(line) for line in received.splitlines()]
        assert [reply["text"] for reply in replies[:-1]] == [str(number) for number in range(20_000)]
        assert replies[-1]["outcome"] == {"kind": "ok", "value": 1}


def test_a_reader_that_takes_a_little_now_and_then_is_closed(tmp_path: Path) -> None:
    """A client that reads 16 KiB in each stall time, of replies of several megabytes, is closed."""
    run = {"type": "run", "source": "return 'x'.repeat(1000000)"}
    with a_daemon(tmp_path, config=_SHORT_STALL) as daemon, Client(daemon.socket) as other:
        with talk(daemon.socket, *(run | {"id": number} for number in range(8))) as sock:
            until(lambda: other.stats().clients == 2)
            deadline = time.monotonic() + 30
            while other.stats().clients == 2:
                assert time.monotonic() < deadline, "it was not closed"
                assert sock.recv(1024)
                time.sleep(0.06)  # it is slow
        until(lambda: "does not read its replies" in daemon.log.read_text())


def test_one_process_leaves_connections_for_others(tmp_path: Path) -> None:
    """Of 40 connections a process gets 35; another process still connects, and is served."""
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


def test_without_descriptors_who_is_there_is_served(tmp_path: Path) -> None:
    """While the daemon can't accept clients it serves those it has; with descriptors again it accepts."""
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


def test_long_frames_come_one_at_a_time(tmp_path: Path) -> None:
    """Of 20 connections of one process that each send 7 MiB of a frame and stop, one is read beyond the first bytes."""
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
                _is_served(other)  # so that the daemon has read what it reads
            assert other.ping()
            _is_served(other)
            assert watch.growth < 32 * MIB


def test_a_long_frame_that_never_ends_keeps_no_place(tmp_path: Path) -> None:
    """A connection ends within a frame, and has a run in hand: another one's long frame is read meanwhile."""
    with a_daemon(tmp_path, config=_FOUR_CELLS) as daemon, ExitStack() as stack:
        ends, other = stack.enter_context(talk(daemon.socket)), stack.enter_context(talk(daemon.socket))
        ends.sendall(_lines({**_LOOP, "id": 1}) + b'{"type":"run","id":2,"prompt":"' + b"x" * 500_000)
        ends.shutdown(socket.SHUT_WR)
        assert b"within a frame" in ends.makefile("rb").readline()
        other.settimeout(10)
        other.sendall(_lines({"type": "run", "id": 1, "source": "return prompt.length", "prompt": "x" * 500_000}))
        assert json.loads(other.makefile("rb").readline())["outcome"] == {"kind": "ok", "value": 500_000}


def test_long_frames_of_one_process_all_arrive(tmp_path: Path) -> None:
    """Ten frames of 3 MiB each that come at once, in parts, are all answered."""
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


def test_halves_of_short_frames_are_counted(tmp_path: Path) -> None:
    """Of a process with 1,500 connections, each with half a frame of 15 KB, the daemon reads no more than its bound.

    When the first ones leave, others are read. Another process's client is served meanwhile.
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


def test_halves_of_long_frames_end(tmp_path: Path) -> None:
    """1,100 connections of a process, each with half a frame of more than 16 KiB, do not wait for each other for ever.

    The daemon closes each, and then reads a long request of that process.
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
    """Whether the other end has read all that was sent."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder) == 0


def test_closed_connections_are_freed_at_once(tmp_path: Path) -> None:
    """7,200 connections with a part of a frame come and go: their memory does not wait for a garbage collection."""
    half = b'{"id":1,"type":"ping","x":"'.ljust(12_000, b"y")
    with many_descriptors(1_000), a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        _is_served(other)
        with _watched(daemon) as watch:
            for _ in range(12):
                with ExitStack() as stack:
                    for _ in range(600):
                        stack.enter_context(talk(daemon.socket)).sendall(half)
                until(lambda: other.stats().clients == 1)
        assert watch.growth < 20 * MIB  # 8 MiB; 33 if they wait
