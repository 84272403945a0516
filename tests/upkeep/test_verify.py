"""`verify` makes a running daemon read all programs, and reports damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptlogctl.client import Client, RequestRefused
from tests.ctl.command import ctl
from tests.daemon.processes import a_daemon, ask, talk


def _folder(state: Path, hash: str) -> Path:
    return state / "programs" / hash[:2] / hash[2:]


def test_damage_is_reported(tmp_path: Path) -> None:
    """A changed source, metadata or artifact and a missing folder are reported, and everything else is valid."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hashes = [client.submit(f"return {number}", name=f"n{number}").hash for number in range(120)]
        done = ctl(daemon.socket, "verify")
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"120 programs, 120 artifacts" in done.stderr
        assert b"0 damaged" in done.stderr
        source, meta, artifact, missing = (_folder(daemon.state, hash) for hash in hashes[:4])
        (source / "source").write_bytes(b"return 666")
        (meta / "meta.json").write_bytes(b"{}")
        (file,) = artifact.glob("artifact.*")
        file.write_bytes(file.read_bytes()[:-1])
        missing.rename(tmp_path / "elsewhere")
        done = ctl(daemon.socket, "verify", "--json")
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert {(one["hash"], one["part"]) for one in found["damaged"]} == {
            (hashes[0], "program"), (hashes[1], "metadata"), (hashes[2], "artifact"), (hashes[3], "program"),
        }  # fmt: skip
        assert found["programs"] == 120
        with pytest.raises(RequestRefused):
            client.show("@n0")
        assert any(entry.name.startswith(hashes[0]) for entry in (daemon.state / "damaged").iterdir())
        assert client.run("@n1").value == 1
        assert client.run("@n2").value == 2
        done = ctl(daemon.socket, "verify")
        assert done.returncode == 1
        assert hashes[0].encode() not in done.stdout


def test_an_empty_store(tmp_path: Path) -> None:
    """Verifying an empty store is no error."""
    with a_daemon(tmp_path) as daemon:
        done = ctl(daemon.socket, "verify")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("fields", [{"after": "../.."}, {"after": "a" * 65}, {"limit": 0}, {"limit": 1001}])
def test_invalid_requests_are_refused(socket_path: Path, fields: dict[str, object]) -> None:
    """An invalid cursor, and a page size out of range, are `bad_request`."""
    with talk(socket_path) as sock:
        (reply,) = ask(sock, {"type": "verify", "id": 1, **fields})
    assert (reply["type"], reply["code"]) == ("error", "bad_request"), reply
