"""The daemon waits for events and does not poll: waiting costs no wake-ups, and ends when it should."""

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
    """Return how often the daemon's main thread has waited for an event (proc_pid_status(5))."""
    status = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")).split()[1])


def _wake_ups_meanwhile(daemon: Daemon) -> int:
    before = _wake_ups(daemon)
    time.sleep(_WATCHED_S)  # the observed wait
    return _wake_ups(daemon) - before


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with two slots and a long drain."""
    with a_daemon(tmp_path, config="[pool]\ncells = 2\n[server]\ndrain_s = 30\n") as daemon:
        yield daemon


@pytest.mark.timed
def test_a_half_closed_client_costs_no_wake_ups(daemon: Daemon) -> None:
    """The daemon sleeps during a run of a half-closed client, and cancels the run when the client disconnects."""
    with talk(daemon.socket, _ENDLESS) as sock:
        sock.shutdown(socket.SHUT_WR)
        until(lambda: len(at_work(daemon)) == 1)
        with Client(daemon.socket) as other:
            assert _wake_ups_meanwhile(daemon) < 20
            assert other.stats().running == 1
    with Client(daemon.socket) as other:
        until(lambda: other.stats().running == 0)


@pytest.mark.timed
def test_a_disconnect_behind_too_many_requests_is_noticed(daemon: Daemon) -> None:
    """The daemon notices that a client disconnects while it does not read from it, because too many requests wait."""
    requests = [{**_ENDLESS, "id": number} for number in range(140)]
    with talk(daemon.socket, *requests), Client(daemon.socket) as other:
        until(lambda: other.stats().running + other.stats().queued == 128)
        assert _wake_ups_meanwhile(daemon) < 60  # runs end in two slots during this time
    with Client(daemon.socket) as other:
        until(lambda: other.stats().running + other.stats().queued == 0)


@pytest.mark.timed
def test_the_drain_costs_no_wake_ups_and_ends_with_the_last_reply(daemon: Daemon) -> None:
    """After SIGTERM, the daemon sleeps until the last run has ended, sends its reply, and exits at once."""
    source = "const t = Date.now(); while (Date.now() - t < 2000); return 'done'"
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


def test_a_run_can_be_cancelled_during_the_drain(daemon: Daemon) -> None:
    """After SIGTERM, a client can still cancel its run, and other requests are refused."""
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


def test_unsent_replies_are_sent_before_the_exit(daemon: Daemon) -> None:
    """The daemon completes a reply to a slow client that is in progress when SIGTERM arrives."""
    with talk(daemon.socket, {"type": "run", "id": 1, "source": "return 'x'.repeat(1000000)"}) as sock:
        with Client(daemon.socket) as other:
            until(lambda: other.stats().runs == {"ok": 1})
        daemon.process.terminate()
        until(lambda: "stopping" in daemon.log.read_text())
        time.sleep(0.2)  # a slow client
        assert daemon.process.poll() is None
        with sock.makefile("rb") as replies:
            assert len(json.loads(replies.readline())["outcome"]["value"]) == 1_000_000
    assert daemon.process.wait(10) == 0


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a daemon without waiting until it is ready."""
    paths = ["--socket", str(folder / "s"), "--state-dir", str(folder / "state")]
    return subprocess.Popen([sys.executable, "-m", "promptlogd", *paths], stderr=subprocess.PIPE)


def test_a_signal_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM after the socket is bound and before a cell is ready ends the daemon cleanly."""
    process = _start(tmp_path)
    until((tmp_path / "s").exists, 20)
    process.send_signal(signal.SIGHUP)  # SIGHUP must not stop the daemon
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log.decode()
    assert b"stopping" in log
    assert not (tmp_path / "s").exists()


@pytest.mark.timed
def test_sigterm_ends_a_hanging_start(tmp_path: Path) -> None:
    """If the first cell does not become ready, SIGTERM still stops the daemon at once."""
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
