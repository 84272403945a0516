"""The daemon waits for events and does not look again and again: a wait costs no wake-ups, and ends when it should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogctl.client import Client, LimitsAsked
from sandbox.cells.cell import START_S
from tests.daemon.processes import Daemon, a_daemon, at_work, children, talk, until

_ENDLESS = {"type": "run", "id": 1, "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 9000}}
_WATCHED_S = 1.0


def _wake_ups(daemon: Daemon) -> int:
    """How often the daemon's main thread has waited for something (proc_pid_status(5))."""
    status = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")).split()[1])


def _wake_ups_meanwhile(daemon: Daemon) -> int:
    before = _wake_ups(daemon)
    time.sleep(_WATCHED_S)  # the wait that is watched
    return _wake_ups(daemon) - before


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with two slots, that waits long for runs when it stops."""
    with a_daemon(tmp_path, config="[pool]\ncells = 2\n[server]\ndrain_s = 30\n") as daemon:
        yield daemon


@pytest.mark.alone
def test_a_half_closed_client_costs_no_wake_ups(daemon: Daemon) -> None:
    """While a run goes on for a half-closed client the daemon sleeps; when the client leaves, the run is cancelled."""
    with talk(daemon.socket, _ENDLESS) as sock:
        sock.shutdown(socket.SHUT_WR)
        until(lambda: len(at_work(daemon)) == 1)
        with Client(daemon.socket) as other:
            assert _wake_ups_meanwhile(daemon) < 20
            assert other.stats().running == 1
    with Client(daemon.socket) as other:
        until(lambda: other.stats().running == 0)


@pytest.mark.alone
def test_a_client_that_pipelined_too_much_and_leaves_is_noticed(daemon: Daemon) -> None:
    """A client whose next requests are not read, since too many are in hand, is noticed when it leaves."""
    requests = [{**_ENDLESS, "id": number} for number in range(140)]
    with talk(daemon.socket, *requests), Client(daemon.socket) as other:
        until(lambda: other.stats().running + other.stats().queued == 128)
        assert _wake_ups_meanwhile(daemon) < 60  # two slots end runs meanwhile
    with Client(daemon.socket) as other:
        until(lambda: other.stats().running + other.stats().queued == 0)


@pytest.mark.alone
def test_the_drain_costs_no_wake_ups_and_ends_with_the_last_reply(daemon: Daemon) -> None:
    """After SIGTERM the daemon sleeps until the last run has ended, sends its reply, and exits at once."""
    source = "const t = Date.now(); while (Date.now() - t < 3000); return 'done'"
    with Client(daemon.socket) as client:
        run = client.start(None, source=source, limits=LimitsAsked(cpu_ms=9000, wall_ms=9000))
        until(lambda: len(at_work(daemon)) == 1)
        daemon.process.terminate()
        until(lambda: "stopping" in daemon.log.read_text())
        assert _wake_ups_meanwhile(daemon) < 20
        assert run.result().value == "done"
        ended = time.monotonic()
        assert daemon.process.wait(10) == 0
        assert time.monotonic() - ended < 3


def test_a_cancel_is_heard_while_the_daemon_drains(daemon: Daemon) -> None:
    """After SIGTERM a client can still cancel its run, so that the daemon does not wait for it; else it is refused."""
    with talk(daemon.socket, _ENDLESS) as sock:
        until(lambda: len(at_work(daemon)) == 1)
        daemon.process.terminate()
        until(lambda: "stopping" in daemon.log.read_text())
        sock.sendall(b'{"type":"ping","id":2}\n{"type":"cancel","id":3,"target":1}\n')
        with sock.makefile("rb") as lines:
            replies = [json.loads(line) for line in lines]
    assert replies[0]["code"] == "shutting_down"
    assert {reply["type"]: reply for reply in replies[1:]}["finished"]["outcome"] == {"kind": "cancelled"}
    assert daemon.process.wait(10) == 0


def test_replies_that_wait_are_waited_for(daemon: Daemon) -> None:
    """A reply that is on its way when SIGTERM comes, to a client that reads slowly, is sent in full."""
    with talk(daemon.socket, {"type": "run", "id": 1, "source": "return 'x'.repeat(1000000)"}) as sock:
        with Client(daemon.socket) as other:
            until(lambda: other.stats().runs == {"ok": 1})
        daemon.process.terminate()
        until(lambda: "stopping" in daemon.log.read_text())
        time.sleep(0.2)  # the client is slow
        assert daemon.process.poll() is None
        with sock.makefile("rb") as replies:
            assert len(json.loads(replies.readline())["outcome"]["value"]) == 1_000_000
    assert daemon.process.wait(10) == 0


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a daemon, and do not wait until it is ready."""
    paths = ["--socket", str(folder / "s"), "--state-dir", str(folder / "state")]
    return subprocess.Popen([sys.executable, "-m", "promptlogd", *paths], stderr=subprocess.PIPE)


def test_a_signal_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM that comes when the socket is bound and no cell is ready yet ends the daemon cleanly."""
    process = _start(tmp_path)
    until((tmp_path / "s").exists, 20)
    process.send_signal(signal.SIGHUP)  # no reason to stop
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log.decode()
    assert b"stopping" in log
    assert not (tmp_path / "s").exists()


@pytest.mark.alone
def test_a_signal_ends_a_start_that_hangs(tmp_path: Path) -> None:
    """While the first cell does not become ready SIGTERM is heard: the daemon does not wait for the cell."""
    process = _start(tmp_path)

    def jails() -> list[int]:
        found = children(process.pid)
        return [pid for pid in found if b"nsjail" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]

    until(lambda: bool(jails()), 20)
    os.kill(jails()[0], signal.SIGSTOP)
    began = time.monotonic()
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log.decode()
    assert b"stopping before the start was complete" in log
    assert time.monotonic() - began < START_S / 2
