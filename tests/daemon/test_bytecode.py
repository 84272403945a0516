"""Changed bytecode on the disk affects only runs of its own program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from promptlogctl.client import Client, Crashed
from promptlogd.store.artifacts import Place, seal_artifact
from promptlogd.store.key import KEY_FILE
from sandbox.program import Artifact, Form
from tests.daemon.processes import FRESH_S, a_daemon

_OTHER = "return 'other'"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a daemon in a state folder of the test."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        yield client


def _artifact(tmp_path: Path, hash: str) -> Path:
    (path,) = tmp_path.glob(f"**/programs/{hash[:2]}/{hash[2:]}/artifact.*")
    return path


def _key(tmp_path: Path) -> bytes:
    class Record(msgspec.Struct):
        key: bytes

    (path,) = tmp_path.glob(f"**/{KEY_FILE}")
    return msgspec.json.decode(path.read_bytes().rpartition(b" ")[0], type=Record).key


def test_a_stored_program_runs_from_bytecode(tmp_path: Path, client: Client) -> None:
    """The artifact on the disk contains bytecode, and is larger for a larger program."""
    small = client.submit("return 1").hash
    large = client.submit("return [" + "x => x + 1," * 1000 + "].length").hash
    sizes = [_artifact(tmp_path, hash).stat().st_size for hash in (small, large)]
    assert 300 < sizes[0] < 2000 < sizes[1]
    assert (client.run(small).value, client.run(large).value) == (1, 1000)


def test_damaged_bytecode_is_rebuilt(tmp_path: Path, client: Client) -> None:
    """The daemon never loads bytecode whose seal does not verify: the run is right, and the file is restored."""
    hash, other = client.submit("return 'mine'").hash, client.submit(_OTHER).hash
    path = _artifact(tmp_path, hash)
    good = path.read_bytes()
    for damaged in (
        good[:-3] + bytes((good[-3] ^ 1,)) + good[-2:],
        good[:-10],
        b"",
        _artifact(tmp_path, other).read_bytes(),
        None,  # the file is removed
    ):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        time.sleep(FRESH_S)
        assert client.run(hash).value == "mine"
        assert len(path.read_bytes()) == len(good)
        assert client.run(other).value == "other"


def test_forged_bytecode_affects_one_run(tmp_path: Path, client: Client) -> None:
    """Bytecode forged with the state folder's key crashes one run; the next run compiles the source again."""
    hash, other = client.submit("return 'mine'").hash, client.submit(_OTHER).hash
    path = _artifact(tmp_path, hash)
    place = Place(hash=hash, engine="quickjs", build=path.name.removeprefix("artifact.quickjs."))
    forged = Artifact(form=Form.BODY, language="javascript", code=b"forged" * 100)
    path.write_bytes(seal_artifact(_key(tmp_path), place, forged, "javascript"))
    time.sleep(FRESH_S)
    outcome = client.run(hash).outcome
    assert isinstance(outcome, Crashed)
    assert "can't be loaded" in outcome.message
    assert client.run(other).value == "other"
    for _ in range(2):
        assert client.run(hash).value == "mine"
