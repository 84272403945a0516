"""The store: addressed by hash, atomic, verified, locked, and rebuilt after loss."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from promptlogd.store import (
    Ambiguous,
    BadReference,
    Damaged,
    KeptForAnother,
    NotFound,
    Store,
    StoreFailed,
    StoreUnsafe,
    Submission,
)
from tests.store.programs import ARTIFACT, BUILD, submit, text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open store."""
    store = Store.open(folder)
    yield store
    store.close()


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return submit(store, source, name=name, uid=7)[0]


def _object(folder: Path, hash: str) -> Path:
    return folder / "programs" / hash[:2] / hash[2:]


def test_a_new_program_comes_from_memory(folder: Path, store: Store) -> None:
    """The first run of a new program reads nothing from the disk, unless its files have changed since the submit."""
    hash = _submit(store, b"return 'new'")
    assert store.recall(hash) == text(b"return 'new'")
    assert store.recall_artifact(hash, "quickjs", BUILD) == ARTIFACT
    changed = _submit(store, b"return 'changed'")
    (_object(folder, changed) / "source").write_bytes(b"return 'another'")
    with pytest.raises(Damaged):
        store.load(changed)


def test_submit_is_idempotent_and_hash_addressed(folder: Path) -> None:
    """The hash is the SHA-256 of the submitted bytes, and the same program is stored once."""
    store = Store.open(folder)
    source = b"const result = 1 // \xc3\xbc\r\n\0"
    hash, created = submit(store, source, uid=7)
    assert hash == hashlib.sha256(source).hexdigest()
    assert created
    assert submit(store, source, uid=7) == (hash, False)
    assert store.load(hash) == text(source)
    assert folder.stat().st_mode & 0o777 == 0o700
    store.close()


def test_references(folder: Path) -> None:
    """Hashes, prefixes of at least 8 digits, and names find a program; any other reference is refused."""
    store = Store.open(folder)
    hash = _submit(store, b"a", name="x")
    assert store.resolve(hash) == store.resolve(hash[:8].upper()) == store.resolve("@x") == hash
    for bad in (hash[:7], "zzzzzzzz", hash + "0", "", "../../etc"):
        with pytest.raises(BadReference):
            store.resolve(bad)
    for missing in ("0" * 8, "@nobody"):
        with pytest.raises(NotFound):
            store.resolve(missing)
    with pytest.raises(NotFound):
        store.load("0" * 64)
    store.close()


def test_an_ambiguous_prefix_lists_its_matches(folder: Path) -> None:
    """A prefix of two hashes is refused, and the error lists both, the older program first."""
    store = Store.open(folder)
    store.close()
    planted = ["abcdef01" + "0" * 56, "abcdef01" + "1" * 56]
    for hash in planted:
        _object(folder, hash).mkdir(parents=True, mode=0o700)
        _object(folder, hash).parent.chmod(0o700)
        (_object(folder, hash) / "source").write_bytes(b"")
    os.utime(_object(folder, planted[0]) / "source", (2_000_000_000, 2_000_000_000))
    store = Store.open(folder)
    with pytest.raises(Ambiguous) as error:
        store.resolve("abcdef01")
    assert error.value.matches == planted[::-1]
    store.close()


def test_a_damaged_source_is_set_aside(folder: Path) -> None:
    """A damaged source is reported, moved to damaged/, and can be submitted again."""
    store = Store.open(folder)
    hash = _submit(store, b"const result = 1", name="x")
    (_object(folder, hash) / "source").write_bytes(b"const result = 2")
    with pytest.raises(Damaged):
        store.load(hash)
    assert [path.name.split("-")[0] for path in (folder / "damaged").iterdir()] == [hash]
    with pytest.raises(NotFound):
        store.load(hash)
    assert _submit(store, b"const result = 1") == hash
    assert store.load(hash).source == b"const result = 1"
    store.close()


def test_a_link_to_the_state_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """A state folder that is a symbolic link is refused."""
    Store.open(folder).close()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StoreUnsafe, match="link"):
        Store.open(tmp_path / "link")


def test_a_state_folder_that_is_open_to_others_is_refused(folder: Path) -> None:
    """A state folder that other users can enter is refused, with the command that closes it."""
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StoreUnsafe, match="chmod 700"):
        Store.open(folder)


@pytest.mark.parametrize("damage", ["missing", "junk", "torn"])
def test_sqlite_is_rebuilt(folder: Path, damage: str) -> None:
    """If SQLite's database is missing or damaged, programs, names and histories are restored."""
    store = Store.open(folder)
    first, second = _submit(store, b"1", name="x"), _submit(store, b"2", name="x")
    store.close()
    database = folder / "facts.sqlite3"
    for extra in folder.glob("facts.sqlite3-*"):
        extra.unlink()
    if damage == "missing":
        database.unlink()
    elif damage == "junk":
        database.write_bytes(random.Random(1).randbytes(5000))
    else:
        database.write_bytes(database.read_bytes()[:5000])
    with (folder / "names.jsonl").open("ab") as journal:
        journal.write(b'{"name":"torn","ha')
    store = Store.open(folder)
    assert store.resolve("@x") == second
    shown = store.show(second)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.created_by, names) == (7, ["x"])
    assert [move.hash for move in history["x"]] == [first, second]
    assert store.count() == 2
    store.close()


def test_names_move_and_move_back(folder: Path) -> None:
    """A name moves with a submit or a request, moves back to its previous program, and keeps its history."""
    store = Store.open(folder)
    first, second = _submit(store, b"1", name="x"), _submit(store, b"2", name="x")
    assert store.label("x", None) == (first, second)
    assert store.resolve("@x") == first
    assert [move.hash for move in store.show(first).history["x"]] == [first, second, first]
    with pytest.raises(NotFound):
        store.label("x", "0" * 64)
    with pytest.raises(NotFound):
        store.label("never", None)
    assert store.remove(first) == ["x"]
    with pytest.raises(NotFound):
        store.resolve("@x")
    store.close()


def test_pages(folder: Path) -> None:
    """Every program is listed exactly once, newest first, with any page size."""
    store = Store.open(folder)
    kept = [_submit(store, str(i).encode()) for i in range(7)]
    seen: list[str] = []
    after: str | None = None
    while True:
        page = store.list(2, after)
        seen += [row.fact.hash for row in page.rows]
        if page.next is None:
            break
        after = page.next
    assert seen == kept[::-1]
    with pytest.raises(BadReference):
        store.list(2, "junk")
    store.close()


def test_a_state_folder_that_can_not_be_created(tmp_path: Path) -> None:
    """The error about a state folder that can't be created names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match="file"):
        Store.open(tmp_path / "file" / "state")


_HASH = "0" * 64


@pytest.mark.parametrize(
    "cursor",
    ["x", "", ":", "0x1p0", f"0x1p99999:{_HASH}", f"nan:{_HASH}", f"inf:{_HASH}", "0x1p0:zz"],
)
def test_invalid_cursors(store: Store, cursor: str) -> None:
    """A cursor that no page returned is refused; a page's cursor is accepted, also after its program was removed."""
    hashes = [_submit(store, str(number).encode()) for number in range(3)]
    after = store.list(1, None).next
    assert after is not None
    store.remove(hashes[-1])
    assert [row.fact.hash for row in store.list(5, after).rows] == hashes[1::-1]
    with pytest.raises(BadReference):
        store.list(5, cursor)


def _hidden(store: Store) -> list[Path]:
    return list((store.folder / "programs").glob(".[ts]*-*"))


def test_a_discarded_program_leaves_nothing(store: Store) -> None:
    """A staged program can't be loaded, and leaves no file when it is discarded."""
    staged = store.stage(text(b"const = 1"), uid=7)
    assert _hidden(store)
    with pytest.raises(NotFound):
        store.load(staged.program.hash)
    store.discard(staged)
    assert not _hidden(store)


def test_staging_the_same_program_twice(store: Store) -> None:
    """If two requests stage the same program at once, one of them creates it, and no file of the other is left."""
    first, second = (store.stage(text(b"return 1"), uid=uid) for uid in (7, 8))
    assert store.keep(Submission(staged=second, artifact=ARTIFACT, build=BUILD))[1]
    assert not store.keep(Submission(staged=first, artifact=ARTIFACT, build=BUILD))[1]
    assert not _hidden(store)
    assert store.show(first.program.hash).fact.created_by == 8


def test_a_program_removed_while_staged(store: Store) -> None:
    """A program that is removed between staging and keeping is stored completely."""
    hash, _ = submit(store, b"return 1", uid=7)
    staged = store.stage(text(b"return 1"), uid=7)
    store.remove(hash)
    assert store.keep(Submission(staged=staged, artifact=ARTIFACT, build="2"))[:2] == (hash, True)
    assert store.load(hash).source == b"return 1"
    assert (store.artifact(hash, "quickjs", "1"), store.artifact(hash, "quickjs", "2")) == (None, ARTIFACT)


def test_a_stale_row_is_not_reused(store: Store) -> None:
    """A program that is submitted again takes nothing from a row that SQLite kept after its files were lost."""
    hash, _ = submit(store, b"return 1", uid=7)
    store.record_run(hash)
    store.flush()
    store.record_run(hash)
    shutil.rmtree(_object(store.folder, hash))
    assert submit(store, b"return 1", uid=8) == (hash, True)
    fact = store.show(hash).fact
    assert (fact.created_by, fact.runs, fact.last_run_at) == (8, 0, None)


def test_spare_folders(folder: Path) -> None:
    """New programs use folders that were created in advance, unless altered; closing the store removes the rest."""
    store = Store.open(folder)
    store.make_spares()
    made = _hidden(store)
    shutil.rmtree(made[0])
    (made[1] / "source").unlink()
    (made[2] / "source").write_bytes(b"not empty")
    for number in range(len(made) + 2):
        hash, created = submit(store, b"return %d" % number, uid=7)
        assert created
        assert store.load(hash).source == b"return %d" % number
    store.make_spares()
    assert _hidden(store)
    store.close()
    assert not _hidden(store)


def test_spare_folders_are_created_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store lacks spare folders once half of them are used. If creating them fails, nothing of them is left."""
    store = Store.open(folder)
    assert store.lacks_spares
    monkeypatch.setattr("promptlogd.store.spares.sync", _fail)
    store.make_spares()
    assert store.lacks_spares
    assert not _hidden(store)
    monkeypatch.undo()
    store.make_spares()
    made = len(_hidden(store))
    for number in range(made // 2):
        assert not store.lacks_spares
        submit(store, b"return %d" % number, uid=7)
    assert store.lacks_spares
    store.make_spares()
    assert len(_hidden(store)) == made
    store.close()


def _fail(folder: Path) -> None:
    """Stands for `sync` on a disk that becomes full while spare folders are created."""
    if folder.name != "programs":
        raise OSError(errno.ENOSPC, "no space")


def test_a_program_can_be_kept_for_another_engine(folder: Path) -> None:
    """`replace` changes engine and language at once and permanently; names, runs, owner and time stay."""
    store = Store.open(folder)
    source = b"return 'for whom'"
    hash = _submit(store, source, name="whose")
    before = store.show(hash).fact
    assert store.load(hash).engine == store.recall(hash).engine == "quickjs"  # type: ignore[union-attr]
    store.record_run(hash)
    program = text(source, engine="deno", language="typescript")
    staged = store.stage(program, uid=8)
    submission = Submission(staged=staged, artifact=ARTIFACT, build=BUILD, engine="deno", language="typescript")
    with pytest.raises(KeptForAnother):
        store.keep(submission)
    assert store.keep(replace(submission, replace=True))[:2] == (hash, False)
    for _ in range(2):
        assert store.recall(hash) in (None, program)
        assert store.load(store.resolve("@whose")) == program
        shown = store.show(hash)
        assert (shown.fact.engine, shown.fact.language, shown.fact.runs) == ("deno", "typescript", 1)
        assert (shown.fact.created_by, shown.fact.created_at, shown.names) == (7, before.created_at, ["whose"])
        assert store.artifact(hash, "deno", BUILD) == ARTIFACT
        store.close()
        store = Store.open(folder)
    store.close()
    for file in folder.glob("facts.sqlite3*"):  # so that the metadata is read
        file.unlink()
    store = Store.open(folder)
    assert store.load(hash) == program
    store.close()
