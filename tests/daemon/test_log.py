"""The log of a real daemon: fields for journald, JSON lines, and a journald that does not read."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from tests.daemon.processes import until
from tests.journald import fields_of, start_logging_to

SECRET = "only-in-the-prompt-7391"


@contextmanager
def _journal(folder: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = folder / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        yield path, sock


@contextmanager
def _daemon(journal: Path, folder: Path, config: str = "") -> Iterator[subprocess.Popen[bytes]]:
    process = start_logging_to(journal, folder, config=config)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _received(sock: socket.socket, is_last: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
    lines = [fields_of(sock.recv(1 << 20))]
    while not is_last(lines[-1]):
        lines.append(fields_of(sock.recv(1 << 20)))
    return lines


def _use(folder: Path) -> str:
    """Cause each kind of event once. Return the hash of the program."""
    source = f"throw new Error(prompt + '{SECRET}-code')"
    with Client(folder / "s") as client:
        hash = client.submit(source, name="failing").hash
        client.run(hash, SECRET, env={"key": SECRET})
        with pytest.raises(RequestRefused):
            client.run("0" * 64, SECRET)
        client.remove(hash)
    assert hash == hashlib.sha256(source.encode()).hexdigest()
    return hash


def test_journald_gets_fields(tmp_path: Path) -> None:
    """A submit, a failed run, a refusal and a removal are datagrams with fields; prompt, env and code are in none."""
    with _journal(tmp_path) as (path, sock), _daemon(path, tmp_path):
        hash = _use(tmp_path)
        lines = _received(sock, lambda fields: fields.get("PROMPTLOG_EVENT") == "remove")
    events = {fields["PROMPTLOG_EVENT"]: fields for fields in lines if "PROMPTLOG_EVENT" in fields}
    assert list(events) == ["submit", "run", "refuse", "remove"]
    for fields in events.values():
        assert fields["PROMPTLOG_UID"] == str(os.geteuid())
        assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"]) == ("6", "promptlogd")
        assert Path(fields["CODE_FILE"]).name in ("submit.py", "run.py", "connection.py", "remove.py")
    assert {events[event]["PROMPTLOG_HASH"] for event in ("submit", "run", "remove")} == {hash}
    assert events["submit"]["PROMPTLOG_NAME"] == "failing"
    assert events["submit"]["PROMPTLOG_OUTCOME"] == "stored"
    assert (events["run"]["PROMPTLOG_OUTCOME"], events["run"]["PROMPTLOG_ENGINE"]) == ("exception", "quickjs")
    assert float(events["run"]["PROMPTLOG_CPU_MS"]) > 0
    assert events["refuse"]["PROMPTLOG_CODE"] == "not_found"
    assert SECRET not in str(lines)
    assert (tmp_path / "log").read_text() == ""


def test_json_lines(tmp_path: Path) -> None:
    """With log.format = "json", standard error has a JSON object for each event, after journald's prefix."""
    with _journal(tmp_path) as (path, _), _daemon(path, tmp_path, '[log]\nformat = "json"\n'):
        hash = _use(tmp_path)
        until(lambda: '"remove"' in (tmp_path / "log").read_text())
        text = (tmp_path / "log").read_text()
    events = [json.loads(line.removeprefix("<6>")) for line in text.splitlines()]
    assert [event["event"] for event in events if "event" in event] == ["submit", "run", "refuse", "remove"]
    run = next(event for event in events if event.get("event") == "run")
    assert (run["hash"], run["outcome"], run["uid"], run["level"]) == (hash, "exception", os.geteuid(), "info")
    assert SECRET not in text


def test_a_reload_changes_the_format(tmp_path: Path) -> None:
    """On SIGHUP, log.format takes effect, from journald's fields to lines on standard error and back."""
    with _journal(tmp_path) as (path, sock), _daemon(path, tmp_path) as daemon:
        _received(sock, lambda fields: fields["MESSAGE"].startswith("listening on"))
        (tmp_path / "promptlog.toml").write_text('[log]\nformat = "human"\n')
        daemon.send_signal(signal.SIGHUP)
        until(lambda: "<6>INFO promptlogd.server: SIGHUP: settings changed: log.format" in _text(tmp_path))
        (tmp_path / "promptlog.toml").write_text("")
        daemon.send_signal(signal.SIGHUP)
        assert "log.format" in fields_of(sock.recv(1 << 20))["MESSAGE"]


def test_a_journald_that_is_gone(tmp_path: Path) -> None:
    """Without a socket at journald's path, lines are written to standard error, with their priority."""
    with _daemon(tmp_path / "none", tmp_path):
        until(lambda: "<6>INFO promptlogd.server: listening on" in _text(tmp_path))


def test_a_journald_that_hangs(tmp_path: Path) -> None:
    """While journald does not read, the daemon serves its clients, and what it logged arrives later."""
    with _journal(tmp_path) as (path, sock), _daemon(path, tmp_path):
        with Client(tmp_path / "s") as client:
            for number in range(40):  # the kernel holds some ten datagrams for a reader that does not read
                client.submit(f"return {number}")
            assert client.run_source("return prompt", "served").value == "served"
        submits = [_received(sock, lambda fields: fields.get("PROMPTLOG_EVENT") == "submit")[-1] for _ in range(40)]
    assert len({fields["PROMPTLOG_HASH"] for fields in submits}) == 40


def _text(folder: Path) -> str:
    return (folder / "log").read_text()
