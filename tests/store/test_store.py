"""The store: hash-addressed, atomic, verified, locked, and rebuilt where it can be."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogd.store import (
    Ambiguous,
    BadReference,
    Damaged,
    NotFound,
    Store,
    StoreFailed,
    StoreLocked,
    StoreUnsafe,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder that is not there yet."""
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open store."""
    store = Store.open(folder)
    yield store
    store.close()


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return store.submit(source, b"B" + source, wrapper=1, name=name, uid=7)[0]


def _object(folder: Path, hash: str) -> Path:
    return folder / "programs" / hash[:2] / hash[2:]


def test_submit_is_idempotent_and_hash_addressed(folder: Path) -> None:
    """The hash is SHA-256 of the bytes as submitted, and the same program is kept once."""
    store = Store.open(folder)
    source = b"const result = 1 // \xc3\xbc\r\n\0"
    hash, created = store.submit(source, b"Bx", wrapper=1, name=None, uid=7)
    assert hash == hashlib.sha256(source).hexdigest()
    assert created
    assert store.submit(source, b"Bx", wrapper=1, name=None, uid=7) == (hash, False)
    program = store.load(hash)
    assert (program.source, program.wrapped, program.wrapper) == (source, b"Bx", 1)
    assert folder.stat().st_mode & 0o777 == 0o700
    store.close()


def test_references(folder: Path) -> None:
    """Full hashes, prefixes of 8 digits and more, and names find a program; what can't be one is refused."""
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


def test_an_ambiguous_prefix_names_its_matches(folder: Path) -> None:
    """A prefix of two hashes is refused with both of them."""
    store = Store.open(folder)
    planted = ["abcdef01" + "0" * 56, "abcdef01" + "1" * 56]
    meta = store._objects.meta("0" * 64)
    for hash in planted:
        store._facts.add(hash, meta)
    with pytest.raises(Ambiguous) as error:
        store.resolve("abcdef01")
    assert error.value.matches == planted
    store.close()


def test_a_flipped_byte_is_set_aside_and_never_served(folder: Path) -> None:
    """A damaged source is reported, moved to damaged/, and can be submitted anew."""
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


@pytest.mark.parametrize("damage", [b"", b"junk", b'{"wrapper":1,"sha256":"00"}\nB', None])
def test_damaged_wrapped_code_is_made_again(folder: Path, damage: bytes | None) -> None:
    """Wrapped code that does not verify is not given out; rewrap puts it right."""
    store = Store.open(folder)
    hash = _submit(store, b"x")
    wrapped = _object(folder, hash) / "wrapped"
    wrapped.unlink()
    if damage is not None:
        wrapped.write_bytes(damage)
    assert store.load(hash).wrapped is None
    store.rewrap(hash, b"Bnew", wrapper=2)
    program = store.load(hash)
    assert (program.wrapped, program.wrapper) == (b"Bnew", 2)
    store.close()


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link in place of the state folder, an object or its source is refused."""
    store = Store.open(folder)
    hash = _submit(store, b"x")
    source = _object(folder, hash) / "source"
    (tmp_path / "elsewhere").write_bytes(b"x")
    source.unlink()
    source.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged):
        store.load(hash)
    other = _submit(store, b"y")
    _object(folder, other).rename(tmp_path / "moved")
    _object(folder, other).symlink_to(tmp_path / "moved")
    with pytest.raises(Damaged):
        store.load(other)
    assert (tmp_path / "moved/source").read_bytes() == b"y"
    store.close()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StoreUnsafe, match="link"):
        Store.open(tmp_path / "link")


def test_an_open_folder_is_refused(folder: Path) -> None:
    """A state folder that others can enter is refused with the command that closes it."""
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StoreUnsafe, match="chmod 700"):
        Store.open(folder)


def test_a_second_daemon_is_refused(folder: Path) -> None:
    """The lock names who holds it, and is free again once that closes."""
    store = Store.open(folder)
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        Store.open(folder)
    store.close()
    Store.open(folder).close()


@pytest.mark.parametrize("damage", ["missing", "junk", "torn"])
def test_the_facts_are_rebuilt(folder: Path, damage: str) -> None:
    """With SQLite missing or damaged, programs, names and their history come back."""
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
    fact, names, history = store.show(second)
    assert (fact.created_by, names) == (7, ["x"])
    assert [move.hash for move in history["x"]] == [first, second]
    assert store.count() == 2
    store.close()


def test_names_move_and_move_back(folder: Path) -> None:
    """A name moves with a submit or by hand, goes back where it was, and keeps its history."""
    store = Store.open(folder)
    first, second = _submit(store, b"1", name="x"), _submit(store, b"2", name="x")
    assert store.label("x", None) == (first, second)
    assert store.resolve("@x") == first
    assert [move.hash for move in store.show(first)[2]["x"]] == [first, second, first]
    with pytest.raises(NotFound):
        store.label("x", "0" * 64)
    with pytest.raises(NotFound):
        store.label("never", None)
    assert store.remove(first) == ["x"]
    with pytest.raises(NotFound):
        store.resolve("@x")
    store.close()


def test_pages(folder: Path) -> None:
    """Every program is listed once, newest first, however small the pages."""
    store = Store.open(folder)
    kept = [_submit(store, str(i).encode()) for i in range(7)]
    seen: list[str] = []
    after: str | None = None
    while True:
        page = store.list(2, after)
        seen += [fact.hash for fact, _ in page.rows]
        if page.next is None:
            break
        after = page.next
    assert seen == kept[::-1]
    with pytest.raises(BadReference):
        store.list(2, "junk")
    store.close()


def test_a_full_disk_keeps_nothing_by_halves(folder: Path) -> None:
    """On a file system without room a submit is a clear error, and leaves no object."""
    code = f"""
import sys
from pathlib import Path
from promptlogd.store import Store, StoreFailed
store = Store.open(Path({str(folder)!r}) / "s")
try:
    store.submit(b"x" * 600_000, b"B", wrapper=1, name=None, uid=0)
except StoreFailed as error:
    assert "full" in str(error), error
else:
    sys.exit("kept")
assert not list(store._objects.hashes())
assert not list((Path({str(folder)!r}) / "s/programs").iterdir())
store.submit(b"small", b"B", wrapper=1, name=None, uid=0)
"""
    folder.mkdir()
    script = 'mount -t tmpfs -o size=512k none "$1" && exec "$2" -c "$3"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(folder), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


_SUBMITTER = """
import sys
from pathlib import Path
from promptlogd.store import Store
store = Store.open(Path(sys.argv[1]))
for i in range(10_000):
    source = f"{sys.argv[2]} {i}".encode()
    print(store.submit(source, b"B", wrapper=1, name=None, uid=0)[0], flush=True)
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(folder: Path) -> None:
    """After SIGKILL in mid-submit, each acknowledged program verifies, and the next start is clean."""
    moments = random.Random(7)
    acknowledged: list[str] = []
    for turn in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", _SUBMITTER, str(folder), str(turn)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        acknowledged += [line for line in rest.splitlines() if len(line) == 64]
        process.stdout.close()
        process.wait()
    store = Store.open(folder)
    for hash in acknowledged:
        assert hashlib.sha256(store.load(hash).source).hexdigest() == hash
    assert not list((folder / "programs").glob(".[ts]*-*"))
    store.close()


def test_a_broken_disk_is_a_store_error(tmp_path: Path) -> None:
    """A state folder that can't be made is a StoreFailed that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match="file"):
        Store.open(tmp_path / "file" / "state")


def test_readers_do_not_wait_for_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a submit waits for fsync, names resolve and programs load."""
    store = Store.open(folder)
    hash = _submit(store, b"x", name="x")
    syncing, go_on = threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        syncing.set()
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    writer = threading.Thread(target=_submit, args=(store, b"y", "y"))
    writer.start()
    assert syncing.wait(10)
    assert store.resolve("@x") == hash
    assert store.load(hash).source == b"x"
    assert store.count() == 1
    go_on.set()
    writer.join()
    assert store.count() == 2
    store.close()


def test_removing_and_submitting_while_others_read(folder: Path) -> None:
    """However submits, removals and reads of one program fall together, good bytes are never set aside."""
    store = Store.open(folder)
    source = b"return 'race'"
    hash = hashlib.sha256(source).hexdigest()
    stop = threading.Event()
    wrong: list[BaseException] = []

    def write() -> None:
        while not stop.is_set():
            store.submit(source, b"Bx", wrapper=1, name=None, uid=0)
            try:
                store.remove(hash)
            except NotFound:
                pass

    def read() -> None:
        while not stop.is_set():
            try:
                assert store.load(hash).source == source
            except NotFound:
                pass
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=target) for target in (write, write, read, read, read)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    assert list((folder / "damaged").iterdir()) == []


def test_what_sqlite_lost_is_brought_back(folder: Path) -> None:
    """Whatever SQLite says, programs and names are as the folders and the journal say."""
    store = Store.open(folder)
    first, _ = store.submit(b"return 1", b"Bx", wrapper=1, name="one", uid=0)
    store.close()
    before = (folder / "facts.sqlite3").read_bytes()
    store = Store.open(folder)
    second, _ = store.submit(b"return 2", b"Bx", wrapper=1, name="two", uid=0)
    store.label("one", second)
    store._facts.close()
    os.close(store._lock)
    (folder / "facts.sqlite3").write_bytes(before)
    for suffix in ("-wal", "-shm"):
        (folder / f"facts.sqlite3{suffix}").unlink(missing_ok=True)
    store = Store.open(folder)
    assert (store.resolve("@one"), store.resolve("@two"), store.resolve(second[:8])) == (second, second, second)
    assert store.count() == 2
    assert store.label("one", None) == (first, second)
    store.close()


def test_links_are_not_followed_on_write(folder: Path, tmp_path: Path) -> None:
    """A shelf that is a link is refused, and nothing is written to where it leads; so with SQLite's file."""
    outside = tmp_path / "outside"
    outside.mkdir()
    store = Store.open(folder)
    hash = hashlib.sha256(b"return 77").hexdigest()
    (folder / "programs" / hash[:2]).symlink_to(outside)
    with pytest.raises(StoreFailed, match="not a folder of ours"):
        store.submit(b"return 77", b"Bx", wrapper=1, name=None, uid=0)
    store.close()
    assert list(outside.iterdir()) == []
    (folder / "facts.sqlite3").rename(outside / "db")
    (folder / "facts.sqlite3").symlink_to(outside / "db")
    store = Store.open(folder)
    assert not (folder / "facts.sqlite3").is_symlink()
    store.close()


def test_a_folder_where_sqlite_should_be(folder: Path) -> None:
    """It is set aside, and the facts are made anew."""
    Store.open(folder).close()
    (folder / "facts.sqlite3").unlink()
    (folder / "facts.sqlite3").mkdir()
    Store.open(folder).close()


def test_a_cursor_of_any_text_is_refused(folder: Path) -> None:
    """A cursor that no page gave is a BadReference, a number too large among them."""
    store = Store.open(folder)
    for cursor in ("x", "0x1p99999:ab", ":", "nan:0"):
        try:
            store.list(10, cursor)
        except BadReference:
            pass
    store.close()


def _hidden(store: Store) -> list[Path]:
    return list((store.folder / "programs").glob(".[ts]*-*"))


def test_what_is_staged_and_discarded_leaves_nothing(store: Store) -> None:
    """A source that turned out not to parse is gone from the disk, and was under no name."""
    staged = store.stage(b"const = 1", uid=7)
    assert _hidden(store)
    with pytest.raises(NotFound):
        store.load(staged.hash)
    store.discard(staged)
    assert not _hidden(store)


def test_two_stage_the_same(store: Store) -> None:
    """Of two that stage the same program at once, one creates it, and nothing of the other's is left."""
    first, second = store.stage(b"return 1", uid=7), store.stage(b"return 1", uid=8)
    assert store.keep(second, b"Bx", wrapper=1, name=None)[1]
    assert not store.keep(first, b"Bx", wrapper=1, name=None)[1]
    assert not _hidden(store)
    assert store.show(first.hash)[0].created_by == 8


def test_kept_after_a_removal(store: Store) -> None:
    """A program that was there when it was staged, and is removed before it is kept, is kept whole."""
    hash, _ = store.submit(b"return 1", b"Bx", wrapper=1, name=None, uid=7)
    staged = store.stage(b"return 1", uid=7)
    store.remove(hash)
    assert store.keep(staged, b"By", wrapper=1, name=None) == (hash, True)
    assert store.load(hash).wrapped == b"By"


def test_spares(store: Store) -> None:
    """Programs go into folders made ahead; one that was meddled with is not used; the end leaves none."""
    store.make_spares()
    made = _hidden(store)
    shutil.rmtree(made[0])
    (made[1] / "source").unlink()
    (made[2] / "source").write_bytes(b"not empty")
    for number in range(len(made) + 2):
        hash, created = store.submit(b"return %d" % number, b"Bx", wrapper=1, name=None, uid=7)
        assert created
        assert store.load(hash).source == b"return %d" % number
    store.make_spares()
    assert _hidden(store)
    store._objects.spares.remove()
    assert not _hidden(store)
