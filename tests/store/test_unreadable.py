"""A read error moves no file and removes no name; only a program that fails verification is set aside."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from promptlogd.store import Damaged, KeptForAnother, NotFound, Store, StoreFailed, Submission
from tests.store.limits import descriptors_left
from tests.store.programs import ARTIFACT, BUILD, submit, text
from tests.store.reopened import reopened

_ROOT = Path(__file__).parents[2]
_SOURCE = b"const result = 1"
_HASH = hashlib.sha256(_SOURCE).hexdigest()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with one named program of uid 7, which has run once."""
    store = Store.open(tmp_path / "state")
    _submit(store, name="x")
    store.record_run(_HASH)
    store.close()
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    """An open store of that folder."""
    store = Store.open(state)
    yield store
    store.close()


def _submit(store: Store, name: str | None = None, uid: int = 7) -> bool:
    return submit(store, _SOURCE, name=name, uid=uid)[1]


def _object(state: Path) -> Path:
    return state / "programs" / _HASH[:2] / _HASH[2:]


def _damaged(state: Path) -> list[Path]:
    return list((state / "damaged").iterdir())


def _check_whole(store: Store) -> None:
    """Check that the program is served, listed and named as it was submitted."""
    assert store.load(store.resolve("@x")).source == _SOURCE
    shown = store.show(_HASH)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.created_by, fact.runs, names, len(history["x"])) == (7, 1, ["x"], 1)


def _check_after_the_facts(store: Store, state: Path) -> None:
    """Check that the metadata file has the original owner and time."""
    meta = _object(state) / "meta.json"
    assert b'"owner":{"uid":7}' in meta.read_bytes()
    assert store.show(_HASH).fact.created_at == msgspec.json.decode(meta.read_bytes().rpartition(b" ")[0])["created_at"]


def _a_file(path: Path, away: Path) -> None:
    path.rename(away)
    path.write_bytes(b"")


def _a_link(path: Path, away: Path) -> None:
    path.rename(away)
    path.symlink_to(away)


def _a_fifo(path: Path, away: Path) -> None:
    path.rename(away)
    os.mkfifo(path)


def _a_folder(path: Path, away: Path) -> None:
    path.rename(away)
    path.mkdir()


def _too_large(path: Path, away: Path) -> None:
    shutil.copy(path, away)
    os.truncate(path, (64 << 20) + 1)


def _flipped(path: Path, away: Path) -> None:
    shutil.copy(path, away)
    path.write_bytes(_SOURCE.upper())


_Change = Callable[[Path, Path], object]
_UNREADABLE: list[tuple[str, _Change]] = [("", _a_file), ("", _a_link), ("source", _a_link)]
_WRONG: list[_Change] = [_flipped, Path.rename, _a_folder, _a_fifo, _too_large]


@pytest.mark.parametrize(("what", "change"), _UNREADABLE)
def test_an_unreadable_program_stays(state: Path, tmp_path: Path, what: str, change: _Change) -> None:
    """ENOTDIR and ELOOP make a load fail and move nothing, also after a restart; once repaired, nothing is lost."""
    path = _object(state) / what
    change(path, tmp_path / "away")
    for _ in range(2):
        store = Store.open(state)
        for _ in range(2):
            with pytest.raises(StoreFailed, match=r"remove it\. Submit the program again to replace it"):
                store.load(store.resolve("@x"))
        assert store.count() == 1
        assert _damaged(state) == []
        store.close()
    path.unlink()
    (tmp_path / "away").rename(path)
    with reopened(state) as store:
        _check_whole(store)


@pytest.mark.parametrize(("what", "change"), _UNREADABLE)
def test_a_submit_replaces_an_unreadable_program(
    state: Path, store: Store, tmp_path: Path, what: str, change: _Change
) -> None:
    """A new submit replaces an unreadable program, keeps its name, and moves the unreadable files to damaged/."""
    change(_object(state) / what, tmp_path / "away")
    assert _submit(store, uid=8)
    _check_whole(store)
    assert [path.name.split("-")[0] for path in _damaged(state)] == [_HASH]
    _check_after_the_facts(store, state)
    assert what or change is _a_file or (tmp_path / "away/source").read_bytes() == _SOURCE  # the target is unchanged


def test_an_unreadable_shelf(state: Path, store: Store, tmp_path: Path) -> None:
    """If a shelf is a link, loads, submits, removals and moves of its programs fail, and nothing is lost."""
    other, _ = submit(store, b"other", name="y", uid=7)
    store.label("y", _HASH)
    store.label("y", other)
    shelf = _object(state).parent
    _a_link(shelf, tmp_path / "away")
    calls: list[Callable[[], object]] = [
        lambda: store.load(_HASH),
        lambda: _submit(store),
        lambda: store.remove(_HASH),
        lambda: store.label("x", _HASH),
        lambda: store.label("y", None),
    ]
    for call in calls:
        with pytest.raises(StoreFailed, match="not a folder of the store") as refused:
            call()
        assert "Submit the program again" not in str(refused.value)  # a submit can't replace a shelf
    assert (tmp_path / "away" / _HASH[2:] / "source").read_bytes() == _SOURCE
    shelf.unlink()
    (tmp_path / "away").rename(shelf)
    assert store.load(_HASH).source == _SOURCE
    assert store.resolve("@x") == _HASH
    assert store.label("y", None) == (_HASH, other)
    assert _damaged(state) == []


def test_a_missing_programs_folder(state: Path, store: Store, tmp_path: Path) -> None:
    """Without the folder of all programs, no program is reported as missing, and a removal removes no name."""
    (state / "programs").rename(tmp_path / "away")
    for call in (store.load, store.remove):
        with pytest.raises(StoreFailed) as refused:
            call(_HASH)
        assert "Submit the program again" not in str(refused.value)
    (tmp_path / "away").rename(state / "programs")
    _check_whole(store)


@pytest.mark.parametrize("left", range(8))
def test_without_descriptors(state: Path, store: Store, left: int) -> None:
    """With any number of free descriptors, loads, submits and removals succeed or fail, and lose nothing."""
    calls: tuple[Callable[[], bool], ...] = (
        lambda: store.load(_HASH).source == _SOURCE,
        lambda: not _submit(store),
    )
    for call in calls:
        with descriptors_left(left):
            try:
                assert call()
            except StoreFailed as error:
                assert "limit of open files" in str(error)  # noqa: PT017  # it may succeed as well
    assert _damaged(state) == []
    _check_whole(store)
    with descriptors_left(left):
        try:
            assert store.remove(_HASH) == ["x"]
        except StoreFailed:
            _check_whole(store)
        else:
            with pytest.raises(NotFound):
                store.resolve("@x")


def test_a_start_without_descriptors(state: Path) -> None:
    """With too few descriptors a start fails or succeeds, and the next start finds everything."""
    refused = 0
    for left in range(20):
        for path in state.glob("facts.sqlite3*"):
            if left % 2:
                path.unlink()
        with descriptors_left(left):
            try:
                Store.open(state).close()
            except StoreFailed:
                refused += 1
        store = Store.open(state)
        assert store.load(store.resolve("@x")).source == _SOURCE
        assert store.show(_HASH).fact.created_by == 7
        assert _damaged(state) == []
        store.close()
    assert 0 < refused < 20


@pytest.mark.parametrize("change", _WRONG)
def test_a_wrong_source_is_set_aside(state: Path, store: Store, tmp_path: Path, change: _Change) -> None:
    """A source that is changed, missing, too large, or not a regular file is reported as damage and set aside."""
    change(_object(state) / "source", tmp_path / "away")
    with pytest.raises(Damaged):
        store.load(_HASH)
    assert [path.name.split("-")[0] for path in _damaged(state)] == [_HASH]
    with pytest.raises(NotFound):
        store.resolve("@x")
    assert _submit(store)
    assert store.load(_HASH).source == _SOURCE


@pytest.mark.parametrize("change", _WRONG)
def test_a_submit_replaces_a_wrong_source(state: Path, store: Store, tmp_path: Path, change: _Change) -> None:
    """A submit that finds the damage keeps the program's name and its owner."""
    change(_object(state) / "source", tmp_path / "away")
    assert _submit(store, uid=8)
    _check_whole(store)
    assert len(_damaged(state)) == 1
    _check_after_the_facts(store, state)


@pytest.mark.parametrize("what", ["meta.json", "artifact.deno.1"])
def test_unreadable_metadata_is_not_guessed(
    state: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without SQLite, a program with unreadable metadata is logged and not listed, and is complete once repaired."""
    with reopened(state) as store:
        staged = store.stage(text(b"let n: number", engine="deno", language="typescript"), uid=9)
        hash = store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name="typed")).hash
    folder = state / "programs" / hash[:2] / hash[2:]
    if what != "meta.json":  # so that engine and language come from the artifact
        (folder / "meta.json").unlink()
    _a_link(folder / what, tmp_path / "away")
    for path in state.glob("facts.sqlite3*"):
        path.unlink()
    store = Store.open(state)
    assert [row.fact.hash for row in store.list(10, None).rows] == [_HASH]
    assert f"can't read program {hash}" in caplog.text
    with pytest.raises(StoreFailed):
        store.load(store.resolve("@typed"))
    (folder / what).unlink()
    (tmp_path / "away").rename(folder / what)
    assert store.load(store.resolve("@typed")).language == "typescript"  # which lists the program again
    store.record_run(hash)
    store.flush()
    for _ in range(2):
        shown = store.show(hash)
        fact, names = shown.fact, shown.names
        assert (fact.engine, fact.language, fact.runs, names) == ("deno", "typescript", 1, ["typed"])
        assert what != "meta.json" or fact.created_by == 9
        store.close()
        store = Store.open(state)
    store.close()


def test_an_unreadable_program_is_not_replaced_for_another_engine(state: Path, store: Store, tmp_path: Path) -> None:
    """A submit for another engine is refused although the stored program can't be read."""
    _a_file(_object(state), tmp_path / "away")
    staged = store.stage(text(_SOURCE, engine="deno"), uid=8)
    with pytest.raises(KeptForAnother, match="already stored as javascript for quickjs"):
        store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD))
    assert _damaged(state) == []


@pytest.mark.parametrize("scenario", ["source", "meta.json", "names.jsonl", "facts.sqlite3", "format", "key"])
def test_read_errors_of_the_disk(tmp_path: Path, scenario: str) -> None:
    """EIO from any file of the store is reported and loses nothing, and everything is there once reads work again."""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-m", "tests.store.broken_disk"]
    done = subprocess.run([*command, scenario, tmp_path], capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scenario", ["object", "shelf", "damaged", "facts.sqlite3", "names.jsonl", "format", "key"])
def test_permission_denied(scenario: str) -> None:
    """EACCES for an ordinary user is reported and loses nothing, and everything is there once access is restored."""
    folder = tempfile.mkdtemp(prefix="promptlog-store-")
    try:
        command = [sys.executable, "-m", "tests.store.ordinary_user", scenario, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(folder)
