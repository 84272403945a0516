"""A read error moves nothing and removes no name; a program that does not verify is set aside."""

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
    """The program is served, listed and named as it was made."""
    assert store.load(store.resolve("@x")).source == _SOURCE
    shown = store.show(_HASH)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.created_by, fact.runs, names, len(history["x"])) == (7, 1, ["x"], 1)


def _check_after_the_facts(store: Store, state: Path) -> None:
    """Who submitted it first is on the disk beside it, too."""
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
def test_what_cannot_be_read_stays(state: Path, tmp_path: Path, what: str, change: _Change) -> None:
    """ENOTDIR and ELOOP refuse a load and move nothing, before and after a start; repaired, all is as it was."""
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
def test_a_submit_replaces_what_cannot_be_read(
    state: Path, store: Store, tmp_path: Path, what: str, change: _Change
) -> None:
    """The same bytes submitted again are served under the old name, and what could not be read is in damaged/."""
    change(_object(state) / what, tmp_path / "away")
    assert _submit(store, uid=8)
    _check_whole(store)
    assert [path.name.split("-")[0] for path in _damaged(state)] == [_HASH]
    _check_after_the_facts(store, state)
    assert what or change is _a_file or (tmp_path / "away/source").read_bytes() == _SOURCE  # where the link led


def test_a_shelf_that_cannot_be_read(state: Path, store: Store, tmp_path: Path) -> None:
    """A link in place of a shelf refuses to load, to replace, to remove and to go back to, and nothing is lost."""
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


def test_programs_that_are_gone_as_a_whole(state: Path, store: Store, tmp_path: Path) -> None:
    """With the folder of all programs away, none is reported as missing, and a removal removes no name."""
    (state / "programs").rename(tmp_path / "away")
    for call in (store.load, store.remove):
        with pytest.raises(StoreFailed) as refused:
            call(_HASH)
        assert "Submit the program again" not in str(refused.value)
    (tmp_path / "away").rename(state / "programs")
    _check_whole(store)


@pytest.mark.parametrize("left", range(8))
def test_without_descriptors(state: Path, store: Store, left: int) -> None:
    """With any number of descriptors left a load, a submit and a removal succeed or are refused, and lose nothing."""
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
    """With too few descriptors a start is refused or leaves nothing out for good, whatever it could not open."""
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
def test_what_is_wrong_is_set_aside(state: Path, store: Store, tmp_path: Path, change: _Change) -> None:
    """A source that is another's, missing, no regular file, or over its cap is reported as damage and moved away."""
    change(_object(state) / "source", tmp_path / "away")
    with pytest.raises(Damaged):
        store.load(_HASH)
    assert [path.name.split("-")[0] for path in _damaged(state)] == [_HASH]
    with pytest.raises(NotFound):
        store.resolve("@x")
    assert _submit(store)
    assert store.load(_HASH).source == _SOURCE


@pytest.mark.parametrize("change", _WRONG)
def test_a_submit_replaces_what_is_wrong(state: Path, store: Store, tmp_path: Path, change: _Change) -> None:
    """If a submit of the same bytes finds the damage, the program keeps its name and its user."""
    change(_object(state) / "source", tmp_path / "away")
    assert _submit(store, uid=8)
    _check_whole(store)
    assert len(_damaged(state)) == 1
    _check_after_the_facts(store, state)


@pytest.mark.parametrize("what", ["meta.json", "artifact.deno.1"])
def test_a_guess_is_not_made_of_what_cannot_be_read(
    state: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without SQLite, a program whose meta.json can't be read is not listed, and logged; repaired, it is as before."""
    with reopened(state) as store:
        staged = store.stage(text(b"let n: number", engine="deno", language="typescript"), uid=9)
        hash, _, _, _ = store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name="typed"))
    folder = state / "programs" / hash[:2] / hash[2:]
    if what != "meta.json":  # so that the guess is made from it
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
    assert store.load(store.resolve("@typed")).language == "typescript"  # and so it is listed again
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


def test_what_cannot_be_read_is_not_replaced_for_another_engine(state: Path, store: Store, tmp_path: Path) -> None:
    """The bytes of a program that can't be read, submitted for another engine, are refused as if it could."""
    _a_file(_object(state), tmp_path / "away")
    staged = store.stage(text(_SOURCE, engine="deno"), uid=8)
    with pytest.raises(KeptForAnother, match="already stored as javascript for quickjs"):
        store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD))
    assert _damaged(state) == []


@pytest.mark.parametrize("scenario", ["source", "meta.json", "names.jsonl", "facts.sqlite3", "format", "key"])
def test_a_disk_that_reports_errors(tmp_path: Path, scenario: str) -> None:
    """EIO of any file of the store is reported, and nothing is moved or lost; once it is over, all is as it was."""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-m", "tests.store.broken_disk"]
    done = subprocess.run([*command, scenario, tmp_path], capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scenario", ["object", "shelf", "damaged", "facts.sqlite3", "names.jsonl", "format", "key"])
def test_permission_denied(scenario: str) -> None:
    """EACCES for an ordinary user is reported, and nothing is moved or lost; once it is over, all is as it was."""
    folder = tempfile.mkdtemp(prefix="promptlog-store-")
    try:
        command = [sys.executable, "-m", "tests.store.ordinary_user", scenario, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(folder)
