"""SIGHUP reloads the settings while clients are served; commands show the settings without a daemon."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit
from tests.daemon.processes import Daemon, a_daemon, until

_SLOW = "const t = Date.now(); while (Date.now() - t < 1500); return 'done'"
_BUSY = "for (;;);"


@contextmanager
def _reloaded(daemon: Daemon, text: str, says: str) -> Iterator[None]:
    """Write a configuration, have the daemon reload it, and wait until its log has a line with this text."""
    (daemon.socket.parent / "promptlog.toml").write_text(text)
    before = daemon.log.read_text().count(says)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.log.read_text().count(says) > before)
    yield


def _values(client: Client) -> dict[str, tuple[str, str, str | None]]:
    return {one.name: (one.value, one.source, one.after_restart) for one in client.config().settings}


def test_a_reload_changes_limits_and_keeps_connections(tmp_path: Path) -> None:
    """A run in progress continues, its connection serves further requests, and new requests get the new limits."""
    with (
        a_daemon(
            tmp_path, config="[limits.default]\ncpu_ms = 40\nwall_ms = 20000\n[pool]\ncells = 3\nspare = 0\n"
        ) as daemon,
        Client(daemon.socket) as client,
    ):
        hash = client.submit(_BUSY).hash
        outcome = client.run(hash).outcome
        assert isinstance(outcome, CpuLimit)
        assert (outcome.limit, outcome.used < 70) == (40, True)
        started = client.stats().pools[0].started
        run = client.start(None, source=_SLOW, limits=LimitsAsked(cpu_ms=3000, wall_ms=9000))
        with Client(daemon.socket) as other:
            until(lambda: other.stats().running == 1)
        new = "[limits.default]\ncpu_ms = 90\nwall_ms = 20000\n[limits.max]\ncpu_ms = 120\n[limits]\nprompt_kb = 1\n"
        with _reloaded(daemon, new, "settings changed: limits.default.cpu_ms, limits.max.cpu_ms, limits.prompt_kb"):
            assert run.result().value == "done"
            for _ in range(3):
                outcome = client.run(hash).outcome
                assert isinstance(outcome, CpuLimit)
                assert outcome.limit == 90
            with pytest.raises(RequestRefused, match="the maximum is 120"):
                client.run(hash, limits=LimitsAsked(cpu_ms=121))
            with pytest.raises(RequestRefused, match="prompt"):
                client.run(hash, "x" * 2000)
            # The pool replaces the cells, because their children set the old limit ahead of time.
            until(lambda: client.stats().pools[0].started >= started + 3)
            until(lambda: client.stats().pools[0].blank == 3)
            assert client.run_source("return 1").value == 1
        until(lambda: "settings that take a restart: pool.cells, pool.spare" in daemon.log.read_text())


def test_an_invalid_configuration_changes_nothing(tmp_path: Path) -> None:
    """The old settings stay in force, the log names the error, and the next valid configuration is applied."""
    with a_daemon(tmp_path, config="[limits.max]\ncpu_ms = 100\n") as daemon, Client(daemon.socket) as client:
        file = str(tmp_path / "promptlog.toml")
        before = client.config().settings
        for text, says in (
            ("[limits.max]\ncpu = 1\n", "did you mean limits.max.cpu_ms?; the settings stay as they are"),
            ("= nonsense", "is not valid TOML"),
            (f"[scheduler]\nqueue = {'9' * 5000}\n", "is not valid TOML"),
            ("[limits.max]\ncpu_ms = 10\n", "limits.default.cpu_ms is 50, above limits.max.cpu_ms of 10"),
        ):
            with _reloaded(daemon, text, says):
                assert client.config().settings == before
        (tmp_path / "promptlog.toml").unlink()
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "can't read the configuration" in daemon.log.read_text())
        with _reloaded(daemon, "[limits.max]\ncpu_ms = 200\n", "settings changed: limits.max.cpu_ms"):
            assert _values(client)["limits.max.cpu_ms"] == ("200", file, None)


def test_a_pipe_among_the_drop_ins_is_refused(tmp_path: Path) -> None:
    """A drop-in that is a pipe without a writer blocks neither the daemon nor its shutdown."""
    with a_daemon(tmp_path, config="[limits.default]\ncpu_ms = 40\n") as daemon, Client(daemon.socket) as client:
        (tmp_path / "promptlog.toml.d").mkdir()
        os.mkfifo(tmp_path / "promptlog.toml.d/a.toml")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "a.toml is not a regular file" in daemon.log.read_text())
        assert client.run_source("return 1").value == 1


def test_paths_that_are_not_utf_8(tmp_path: Path) -> None:
    """A daemon whose folder and drop-in have names that are not UTF-8 serves `config` and writes its journal."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    drop_ins = folder / "promptlog.toml.d"
    drop_ins.mkdir(parents=True)
    (drop_ins / "\udcff.toml").write_text("[limits.default]\ncpu_ms = 60\n")
    with a_daemon(folder, config="[limits.default]\ncpu_ms = 40\n") as daemon, Client(daemon.socket) as client:
        value, source, _ = _values(client)["limits.default.cpu_ms"]
        assert (value, source.endswith("/\ufffd/promptlog.toml.d/\ufffd.toml")) == ("60", True)
        assert client.stats().journal is not None
        assert client.submit("return 1").created


def test_config_shows_the_settings_in_force(tmp_path: Path) -> None:
    """`config` shows each value, its source, and what a restart would change; a drop-in overrides the file."""
    drop_ins = tmp_path / "promptlog.toml.d"
    drop_ins.mkdir()
    (drop_ins / "50-mine.toml").write_text("[limits.default]\ncpu_ms = 60\n")
    with (
        a_daemon(tmp_path, config="[limits.default]\ncpu_ms = 40\nwall_ms = 900\n") as daemon,
        Client(daemon.socket) as client,
    ):
        file, drop_in = str(tmp_path / "promptlog.toml"), str(drop_ins / "50-mine.toml")
        assert client.config().files == [file, drop_in]
        values = _values(client)
        assert values["limits.default.cpu_ms"] == ("60", drop_in, None)
        assert values["limits.default.wall_ms"] == ("900", file, None)
        assert values["limits.max.cpu_ms"] == ("10000", "default", None)
        assert values["server.socket"] == (json.dumps(str(daemon.socket)), "--socket", None)
        assert values["server.state_dir"] == (json.dumps(str(daemon.state)), "--state-dir", None)
        (drop_ins / "60-more.toml").write_text("[pool]\ncells = 7\n[scheduler]\nqueue = 9\n")
        with _reloaded(daemon, "", "settings changed: limits.default.wall_ms, scheduler.queue"):
            values = _values(client)
            assert values["pool.cells"] == ("null", "default", "7")
            assert values["scheduler.queue"] == ("9", str(drop_ins / "60-more.toml"), None)
            command = [sys.executable, "-m", "promptlogctl", "--socket", str(daemon.socket), "config", "--changed"]
            shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
            assert shown.splitlines()[0].split() == ["server.socket", f'"{daemon.socket}"', "--socket"]
            assert "7 after a restart" in shown
            assert "limits.max.cpu_ms" not in shown
            shown = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True, timeout=60).stdout
            assert {"server.socket", "pool.cells"} <= {one["name"] for one in json.loads(shown)["settings"]}


def test_systemd_is_notified_of_a_reload(tmp_path: Path) -> None:
    """The daemon sends RELOADING with a time and then READY, also if the configuration is invalid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            daemon = Daemon(tmp_path, config="[pool]\ncells = 1\nspare = 0\n")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        try:
            while told.recv(4096) != b"READY=1":
                pass
            for text, says in (("", "SIGHUP: settings changed: none"), ("= x", "the settings stay as they are")):
                with _reloaded(daemon, text, says):
                    seen = [told.recv(4096)]
                    while seen[-1] != b"READY=1":
                        seen.append(told.recv(4096))
                    assert any(one.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for one in seen)
        finally:
            assert daemon.stop() == 0


def test_reload_without_a_configuration_does_nothing(tmp_path: Path) -> None:
    """A daemon without --config logs that there is nothing to reload, and continues to serve."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "the daemon was started without --config" in daemon.log.read_text())
        assert client.run_source("return 1").value == 1


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[limits.default]\ncpu_ms = 60\n", 0, "the settings are valid: {file}"),
        ("[limits.default]\ncpu = 60\n", 1, "{file}: there is no setting limits.default.cpu"),
        ("[limits.default]\ncpu_ms = 10001\n", 1, "{file}: limits.default.cpu_ms is 10001, above limits.max.cpu_ms"),
        (None, 1, "can't read the configuration {file}"),
    ],
)
def test_a_configuration_is_checked_without_a_daemon(tmp_path: Path, text: str | None, code: int, says: str) -> None:
    """--check-config reports whether the daemon would start, and creates neither a socket nor a state folder."""
    file = tmp_path / "promptlog.toml"
    if text is not None:
        file.write_text(text)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "promptlogd", "--config", str(file), "--check-config"]
    command += ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert says.format(file=file) in done.stdout + done.stderr
    assert sorted(tmp_path.rglob("*")) == before
