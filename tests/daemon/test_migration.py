"""A daemon with a state folder of another format version runs programs of 0.1.0, and refuses a newer folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from promptlogd.store.seal import seal
from tests.daemon.processes import Daemon, a_daemon
from tests.store import version_1


def test_programs_of_version_1_run(tmp_path: Path) -> None:
    """Programs of both engines still run by hash and name; each is checked once, and later runs use its artifact."""
    state = version_1.extract(tmp_path)
    runs = [
        ("body", "cba"),
        ("module", {"length": 3, "greeting": "hello"}),
        ("typed", 3),
        ("enum", "Blue"),
        ("deno", "object"),
        ("bad metadata", 10),
        ("bad wrapped code", "\u00fcabc"),
        ("other user", "of another user"),
    ]
    artifacts: list[dict[Path, int]] = []
    for turn in range(2):
        with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
            for what, value in runs:
                assert client.run(version_1.hash_of(what), prompt="abc").value == value
            assert client.run("@current", prompt="abc").value == {"length": 3, "greeting": "hello"}
            assert client.show("@body").runs == 3 + 1 + turn
        artifacts.append({path: path.stat().st_mtime_ns for path in state.glob("programs/*/*/artifact.*")})
    assert len(artifacts[0]) == len(runs)
    assert artifacts[0] == artifacts[1]
    with (
        a_daemon(tmp_path) as daemon,
        Client(daemon.socket) as client,
        pytest.raises(RequestRefused, match="was damaged on disk"),
    ):
        client.run("@bad-source")
    log = daemon.log.read_text()
    assert log.count("has format version 3 now: 9 programs") == 1
    assert "Traceback" not in log


def test_a_newer_state_folder_is_refused(tmp_path: Path) -> None:
    """The daemon exits with one line that names both versions and a remedy."""
    state = version_1.extract(tmp_path)
    (state / "format").write_bytes(seal({"version": 4}))
    daemon = Daemon(tmp_path)
    assert not daemon.ready
    assert daemon.process.wait(20) != 0
    (line,) = daemon.log.read_text().splitlines()
    assert f"{state} has format version 4, but this promptlogd supports versions up to 3" in line
