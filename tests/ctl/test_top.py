"""`promptlogctl top`: rates and quantiles of an interval, the live display, and snapshots."""

from __future__ import annotations

import json
import re
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from promptlogctl.cli.top_view import lines, quantile, view
from promptlogctl.client import Client, Histogram, JournalSum, StatsReply
from promptlogd.wire.vectors import REPLIES
from tests.ctl.command import ctl
from tests.ctl.terminal import Terminal, terminal
from tests.ctl.test_terminal import _CTL, _shown
from tests.daemon.processes import a_daemon, until

pytestmark = pytest.mark.long

_OLD = next(reply for _, reply in REPLIES if isinstance(reply, StatsReply))
_ENTER, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_NEXT = "\x1b[H"
"""The sequence with which each display begins."""


def _durations(*counts: int) -> Histogram:
    return Histogram(bounds_ms=[1.0, 10.0], counts=list(counts), sum_ms=0.0)


def _later(seconds: float, ok: int, wall: Histogram) -> StatsReply:
    """Return a later reply, with more runs on QuickJS and with this histogram."""
    engine = msgspec.structs.replace(_OLD.engines[0], runs={"ok": 3 + ok}, wall=wall)
    uptime_s = _OLD.uptime_s + seconds
    return msgspec.structs.replace(_OLD, uptime_s=uptime_s, runs={"ok": 3 + ok}, engines=[engine])


def test_an_interval() -> None:
    """Counts and quantiles cover the interval alone, not the time before it."""
    shown = view(_later(2.0, 40, _durations(1, 40, 2)), _OLD, [])
    assert (shown.interval_s, shown.is_whole, shown.runs, shown.errors) == (2.0, False, {"ok": 40}, {})
    (engine,) = shown.engines
    assert (engine.runs, engine.wall_p50_ms, engine.wall_p99_ms) == (40, 5.5, 9.91)
    assert engine.cpu_p50_ms is None, "no run ended according to this histogram"
    assert "runs/s 20.0 (last 2.0 s)  ok 20.0" in lines(shown, 80)


def test_a_restart_of_the_daemon() -> None:
    """After a restart of the daemon the display covers the time since the restart, and no count is negative."""
    shown = view(msgspec.structs.replace(_OLD, uptime_s=1.0, runs={"ok": 1}), _OLD, [])
    assert (shown.is_whole, shown.interval_s, shown.runs) == (True, 1.0, {"ok": 1})


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0), 0.5, None),
        ((4, 0, 0), 0.5, 0.5),
        ((1, 1, 0), 0.99, 9.82),
        ((0, 0, 7), 0.99, 10.0),
        ((0, 1, 0), 1, 10),
    ],
)
def test_quantiles(counts: tuple[int, ...], share: float, expected: float | None) -> None:
    """A quantile is interpolated within its bucket; above the last bound it is the last bound."""
    assert quantile(_durations(*counts), share) == expected


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
def test_lines_fit(width: int) -> None:
    """No line is wider than the terminal, and control characters are escaped."""
    row = JournalSum("a" * 64, "\x1b[2J", 10**9, 10**9, 1e12, 1e9, 1e9, 2**40, 0.0)
    stats = msgspec.structs.replace(
        _OLD, runs={f"outcome_{number}": 10**12 for number in range(20)}, errors={"\x1b]0;x\x07": 5}, uptime_s=1e9
    )
    shown = lines(view(stats, None, [row] * 10), width)
    assert max(map(len, shown)) <= width
    assert "\x1b" not in "".join(shown)


def test_a_snapshot(tmp_path: Path) -> None:
    """In a pipe, on a dumb terminal and with --json, top prints one snapshot without control characters."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 1").hash
        for _ in range(5):
            client.run(hash)
        client.run_source("throw 1")
        until(lambda: sum(row.runs for row in client.journal_sums()) == 6)
        printed = ctl(daemon.socket, "top").stdout.decode()
        assert "runs 6 (since the start)  exception 1  ok 5\n" in printed
        assert re.search(rf"^{hash[:12]} +5 ", printed, re.MULTILINE)
        assert re.search(r"^quickjs +6 ", printed, re.MULTILINE)
        dumb = _shown(daemon.socket, "top", columns=40, variables={"TERM": "dumb"})
        assert "runs 6 (since the start)" in dumb
        assert max(map(len, dumb.splitlines())) <= 40
        assert "\x1b" not in printed + dumb
        record = json.loads(ctl(daemon.socket, "top", "--json").stdout)
        assert record["runs"] == {"exception": 1, "ok": 5}
        assert record["busiest"][0]["hash"] in (hash, client.journal_sums()[0].hash)
    done = ctl(daemon.socket, "top")
    assert (done.returncode, b"no promptlogd answers" in done.stderr) == (4, True)


@contextmanager
def _load(socket: Path) -> Iterator[None]:
    """Run programs one after the other while the block runs."""
    ended = threading.Event()

    def work() -> None:
        with Client(socket) as client:
            while not ended.is_set():
                client.run_source("return 1")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_restored(opened: Terminal) -> bool:
    """Whether the terminal echoes typed text again."""
    return bool(termios.tcgetattr(opened._ours)[3] & termios.ECHO)


@pytest.mark.parametrize(("columns", "end"), [(40, "q"), (80, "q"), (40, "\x03"), (80, "\x1c"), (80, "SIGTERM")])
def test_live(socket_path: Path, columns: int, end: str) -> None:
    """The display is refreshed with current rates; q, Ctrl-C and SIGTERM end it and restore the terminal."""
    with _load(socket_path), terminal(socket_path, *_CTL, "top", columns=columns) as opened:
        seen = opened.read("(last ")
        opened.read("q: quit")
        assert seen.startswith(f"{_ENTER}\x1b[?25l{_NEXT}")
        assert not _is_restored(opened)
        if end == "SIGTERM":
            opened.process.send_signal(signal.SIGTERM)
        else:
            opened.type(end)
        seen = opened.rest()
        assert opened.process.returncode == 0
        assert seen.endswith(f"\x1b[?25h{_LEAVE}")
    shown = seen.replace(_ENTER, "").split(_NEXT)
    assert len(shown) >= 3
    rate = re.search(r"runs/s (\d+\.\d)", shown[-1] if "runs/s" in shown[-1] else shown[-2])
    assert rate is not None
    assert float(rate[1]) > 0
    for display in shown[1:]:
        plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", display)
        assert max(map(len, plain.split("\r\n"))) <= columns


def test_live_while_the_daemon_is_away(tmp_path: Path) -> None:
    """When the daemon stops, the display shows the reason; when the daemon is back, the display continues."""
    with a_daemon(tmp_path) as daemon, terminal(daemon.socket, *_CTL, "top") as opened:
        opened.read("(last ")
        daemon.stop()
        opened.read("trying again")
        opened.seen = ""
        with a_daemon(tmp_path):
            opened.read("(last ")
            opened.type("q")
            opened.rest()
        assert opened.process.returncode == 0
