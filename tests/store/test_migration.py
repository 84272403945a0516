"""State folders of format version 1, which promptlog 0.1.0 wrote, are migrated without loss."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptlogd.store import Store, StoreFailed, StoreTooNew
from promptlogd.store.seal import seal
from tests.store import version_1
from tests.store.limits import largest_file
from tests.store.programs import ARTIFACT, BUILD, submit
from tests.store.reopened import reopened

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder that promptlog 0.1.0 wrote."""
    return version_1.extract(tmp_path)


def _object(state: Path, hash: str) -> Path:
    return state / "programs" / hash[:2] / hash[2:]


def test_a_folder_of_version_1(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Programs, names, histories, counts, owners and times are migrated, and damage is set aside, with one log line."""
    caplog.set_level(logging.INFO)
    version_1.check(state)
    migrated = [record.getMessage() for record in caplog.records if "has format version 3 now" in record.getMessage()]
    assert [message.split("now: ")[1] for message in migrated] == [
        "9 programs, of which 8 were converted, 1 were converted with reconstructed metadata, 0 had this version "
        "already, 0 are damaged, and 0 could not be converted"
    ]
    assert not list(state.glob("programs/*/*/wrapped"))
    assert (state / "format").read_bytes().startswith(b'{"version":3}')
    caplog.clear()
    with reopened(state) as store:
        hash = version_1.hash_of("body")
        assert store.artifact(hash, "quickjs", BUILD) is None  # made again at the next run
        store.put_artifact(hash, "quickjs", BUILD, ARTIFACT)
        submit(store, b"return 'new'")
    with reopened(state) as store:
        assert store.artifact(hash, "quickjs", BUILD) == ARTIFACT
    assert caplog.records == []


def test_a_folder_of_version_1_without_sqlite(state: Path) -> None:
    """Times, owners, engines and languages are in the new metadata, also if the old metadata was damaged."""
    Store.open(state).close()
    (state / "facts.sqlite3").unlink()
    version_1.check(state, facts=False)


def test_more_programs_than_one_batch(tmp_path: Path) -> None:
    """All programs are converted if there are more than fit into one batch."""
    state = tmp_path / "state"
    (state / "programs").mkdir(parents=True)
    for path in (state, state / "programs"):
        path.chmod(0o700)
    hashes = [version_1.add(state, b"return %d" % number) for number in range(150)]
    with reopened(state) as store:
        assert store.count() == 150
    assert all(b'"owner":{"uid":7}' in (_object(state, hash) / "meta.json").read_bytes() for hash in hashes)
    assert not list(state.glob("programs/*/*/wrapped"))


@pytest.mark.long
def test_sigkill_during_a_migration(tmp_path: Path) -> None:
    """SIGKILL before any system call of a migration loses nothing, and the next start completes the migration."""
    command = [sys.executable, "-m", "tests.store.killed_migration", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_a_full_disk(tmp_path: Path) -> None:
    """On an almost full disk, the migration succeeds, or fails with an error about the disk and loses nothing."""
    script = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -m tests.store.small_disk migrates "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=_ROOT)
    assert done.returncode == 0, done.stderr


def test_a_write_error(state: Path) -> None:
    """A write error ends the start with an error that names the folder, and the next start completes the migration."""
    with largest_file(0), pytest.raises(StoreFailed, match=f"can't use the state folder {state}"):
        Store.open(state)
    version_1.check(state)


@pytest.mark.parametrize("version", [4, 1000])
def test_a_newer_format_is_refused(state: Path, version: int) -> None:
    """A folder of a newer format is refused with both versions and a remedy, and is not changed."""
    (state / "format").write_bytes(seal({"version": version, "more": True}))
    (state / "programs/.tmp-left").mkdir()

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in state.rglob("*")}

    (state / "lock").unlink()
    before = contents()
    for _ in range(2):
        with pytest.raises(StoreTooNew) as refused:
            Store.open(state)
        assert str(refused.value) == (
            f"{state} has format version {version}, but this promptlogd supports versions up to 3: start the newer "
            "promptlogd that wrote it, or give another --state-dir"
        )
        (state / "lock").unlink()
        assert contents() == before


@pytest.mark.parametrize("what", ["", "meta.json"])
def test_an_unreadable_program(state: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable program is logged and skipped; once repaired, it has its owner and its time without SQLite."""
    hash = version_1.hash_of("other user")
    path = _object(state, hash) / what
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    with reopened(state) as store:
        assert hash in {row.fact.hash for row in store.list(100, None).rows}
    assert f"program {hash} is not migrated" in caplog.text
    path.unlink()
    (tmp_path / "away").rename(path)
    (state / "facts.sqlite3").unlink()
    version_1.check(state, facts=False)


def test_a_lost_format_file(state: Path) -> None:
    """Without the file `format`, programs of this version are not changed, and keep their artifacts."""
    version_1.check(state)
    hash = version_1.hash_of("body")
    with reopened(state) as store:
        store.put_artifact(hash, "quickjs", BUILD, ARTIFACT)
        new = submit(store, b"return 'new'")[0]
    metas = [_object(state, each) / "meta.json" for each in (hash, new)]
    before = [(path.read_bytes(), path.stat().st_ino) for path in metas]
    (state / "format").unlink()
    with reopened(state) as store:
        assert [store.artifact(each, "quickjs", BUILD) for each in (hash, new)] == [ARTIFACT] * 2
    assert [(path.read_bytes(), path.stat().st_ino) for path in metas] == before
    assert (state / "format").exists()


def test_damaged_metadata_without_wrapped_code(state: Path) -> None:
    """A program of which only the text is intact is kept with the default language and engine."""
    source = b"return 'only a text'"
    hash = version_1.add(state, source)
    (_object(state, hash) / "meta.json").write_bytes(b"junk")
    (_object(state, hash) / "wrapped").write_bytes(b"junk")
    with reopened(state) as store:
        program = store.load(hash)
        assert (program.source, program.engine, program.language) == (source, "quickjs", "javascript")
        assert store.show(hash).fact.created_by == os.getuid()
    assert hashlib.sha256((_object(state, hash) / "source").read_bytes()).hexdigest() == hash
