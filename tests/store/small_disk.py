"""Run a scenario of test_faults.py in a mount namespace, on a tmpfs of 8 MiB that is mounted at the folder.

python -m tests.store.small_disk SCENARIO FOLDER
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from promptlogd.store import NotFound, Store, StoreError, StoreFailed
from tests.store import version_1
from tests.store.programs import ARTIFACT, submit

PAGE = os.sysconf("SC_PAGESIZE")
_MOST = 30
_RESERVE_BYTES = 1 << 20
_TOO_LARGE = 900_000
"""A size that fits into the reserve, and not into the space that sixty small programs free."""


def fill(folder: Path, pages_left: int) -> Path:
    """Fill the disk except for this number of pages, and return the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * PAGE):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - pages_left * PAGE))
    return filler


def stored(folder: Path) -> set[str]:
    """Return the hashes that have a folder on the disk."""
    return {path.parent.name + path.name for path in (folder / "state/programs").glob("[0-9a-f][0-9a-f]/*")}


def check_reserve(folder: Path) -> None:
    """Check that the reserve exists and has its blocks allocated."""
    status = (folder / "state/reserve").stat()
    assert status.st_size == _RESERVE_BYTES, status.st_size
    assert status.st_blocks * 512 >= _RESERVE_BYTES, status.st_blocks


def refused(call: Callable[[], object]) -> None:
    """Make a call, and check that it fails because the disk is full and says what to do."""
    with pytest.raises(StoreFailed, match="free some space"):
        call()


def fills(folder: Path) -> None:
    """With any number of free pages, a submit stores program and name completely, or fails and stores nothing."""
    kept: dict[str, bytes] = {}
    names: dict[str, str] = {}
    refusals = 0
    for pages_left in range(_MOST):
        store = Store.open(folder / "state")
        filler = fill(folder, pages_left)
        for turn in range(3):
            source = f"{pages_left} {turn} ".encode().ljust(3 * PAGE * turn + 100, b"x")
            name = f"a-name-of-many-characters-{pages_left}-{turn}".ljust(64, "x")
            try:
                hash, _ = submit(store, source, name=name, uid=0)
                kept[hash] = source
                names[name] = hash
            except StoreFailed:
                refusals += 1
        for hash, source in kept.items():
            assert store.load(hash).source == source
        assert stored(folder) == set(kept)
        store.close()
        filler.unlink()
        if pages_left % 2:
            (folder / "state/facts.sqlite3").unlink()  # the journal and the metadata are enough
        store = Store.open(folder / "state")
        assert not list((folder / "state/programs").glob(".[ts]*-*"))
        assert {hash for hash in kept if store.load(hash).source == kept[hash]} == set(kept)
        assert set(kept) == {row.fact.hash for row in store.list(1000, None).rows}
        assert {name for row in store.list(1000, None).rows for name in row.names} == set(names)
        assert all(store.resolve(f"@{name}") == hash for name, hash in names.items())
        for hash in kept:
            store.remove(hash)
        kept.clear()
        names.clear()
        store.close()
    assert refusals >= _MOST, refusals


def opens(folder: Path) -> None:
    """A store opens with any number of free pages, and loses nothing, not even counts of runs."""
    store = Store.open(folder / "state")
    hash, _ = submit(store, b"x", name="x", uid=0)
    store.record_run(hash)
    store.close()
    for pages_left in range(_MOST):
        if pages_left % 2 == 0:
            with (folder / "state/names.jsonl").open("ab") as journal:
                journal.write(b"bad\n")  # so that opening the store has to write
        filler = fill(folder, pages_left)
        store = Store.open(folder / "state")
        assert store.load(store.resolve("@x")).source == b"x"
        with suppress(StoreFailed, NotFound):
            store.label("y", hash)
        store.close()
        filler.unlink()
        for path in (folder / "state/damaged").iterdir():
            assert path.name.startswith("names.jsonl"), path
            path.unlink()
        store = Store.open(folder / "state")
        assert store.show(hash).fact.runs == 1
        assert store.resolve("@x") == hash
        check_reserve(folder)
        store.close()


def removes(folder: Path) -> None:
    """Without a free page, named programs can be removed, also after a restart, and the reserve is restored."""
    store = Store.open(folder / "state")
    large = [submit(store, b"%d" % n * 20_000, name=f"large-{n}", uid=0)[0] for n in range(6)]
    small = [submit(store, b"s%d" % n, name=f"small-{n}", uid=0)[0] for n in range(20)]
    for number in range(40):
        store.label(f"more-{number}", large[0])
    check_reserve(folder)
    for turn, hash in enumerate(large):
        filler = fill(folder, 0)
        refused(lambda: submit(store, b"new" * PAGE, uid=0))  # noqa: B023  # called at once
        assert len(store.remove(hash)) == (1 if turn else 41)
        with pytest.raises(NotFound):
            store.load(hash)
        assert len(store.list(100, None).rows) == 25 - turn
        check_reserve(folder)
        if turn % 2:
            store.close()
            store = Store.open(folder / "state")
    for hash in small:
        fill(folder, 0)
        refused(lambda: submit(store, b"new" * PAGE, uid=0))
        store.remove(hash)
        store.record_run(hash)
        store.flush()
    assert store.list(100, None).rows == []
    store.close()
    filler.unlink()
    store = Store.open(folder / "state")
    check_reserve(folder)
    assert stored(folder) == set()
    for name in ("large-0", "small-3", "more-7"):
        with pytest.raises(NotFound):
            store.resolve(f"@{name}")
    store.close()


def crowds(folder: Path) -> None:
    """Submits on a full disk never use the reserve: each removal succeeds, and the reserve is restored after each."""
    store = Store.open(folder / "state")
    kept = [submit(store, b"%d" % n, name=f"n-{n}", uid=0)[0] for n in range(60)]
    store.close()  # empties SQLite's log, so that the reserve is the only free space
    store = Store.open(folder / "state")
    filler = fill(folder, 0)
    stop = threading.Event()
    got: list[str] = []

    def hammer(number: int) -> None:
        while not stop.is_set():
            with suppress(StoreFailed):
                got.append(submit(store, b"%d" % number * _TOO_LARGE, uid=0)[0])
            store.make_spares()

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        for number, hash in enumerate(kept):
            assert store.remove(hash) == [f"n-{number}"]
            check_reserve(folder)
            with filler.open("ab", buffering=0) as file, suppress(OSError):
                while file.write(b"x" * PAGE):
                    pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert got == []
    store.close()


def read_only(folder: Path) -> None:
    """While a path is read-only, writes fail and reads succeed; when it is writable again, nothing is lost."""
    state = folder / "state"
    store = Store.open(state)
    hash, _ = submit(store, b"x", name="x", uid=0)
    bad, _ = submit(store, b"y", name="y", uid=0)
    damaged = state / "programs" / bad[:2] / bad[2:] / "source"
    damaged.write_bytes(b"Y")
    refusals: dict[Path, list[Callable[[], object]]] = {
        state / "programs": [
            lambda: submit(store, b"z", uid=0),
            lambda: store.put_artifact(hash, "quickjs", "2", ARTIFACT),
            lambda: store.remove(hash),
        ],
        state / "names.jsonl": [lambda: store.label("x", bad), lambda: store.label("new", hash)],
    }
    for path, calls in refusals.items():
        _mount("--bind", path, path)
        _mount("-o", "remount,bind,ro", path)
        for call in calls * 2:
            try:
                call()
            except StoreFailed as error:
                _says_why(error)
            else:
                raise AssertionError(f"{path} was written to")
        try:
            store.load(bad)
        except StoreError:
            pass
        else:
            raise AssertionError("damage was served")
        assert store.resolve("@y") == bad  # a program that can't be set aside keeps its name
        assert store.load(store.resolve("@x")).source == b"x"
        assert hash in {row.fact.hash for row in store.list(10, None).rows}
        subprocess.run(["umount", path], check=True, timeout=20)
    store.close()
    _mount("-o", "remount,bind,ro", folder)
    try:
        Store.open(state)
    except StoreFailed as error:
        _says_why(error)
    else:
        raise AssertionError("it opened")
    _mount("-o", "remount,bind,rw", folder)
    store = Store.open(state)
    added, created = submit(store, b"z", name="z", uid=0)
    assert created
    assert store.load(store.resolve("@x")).source == b"x"
    assert store.load(store.resolve("@z")).source == b"z"
    assert added in {row.fact.hash for row in store.list(10, None).rows}
    store.close()


def migrates(folder: Path) -> None:
    """With any number of free pages, version 1 is migrated or the start fails; with enough pages nothing is lost."""
    refusals: list[str] = []
    for pages_left in range(_MOST):
        state = version_1.extract(folder)
        more = [version_1.add(state, b"return %d" % number) for number in range(100)]
        if pages_left % 3 == 0:
            with (state / "reserve").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
        filler = fill(folder, pages_left)
        for _ in range(2):
            try:
                Store.open(state).close()
            except StoreFailed as error:
                assert "the disk is full" in str(error), error  # noqa: PT017  # it may succeed as well
                assert pages_left % 3, "the reserve has room for the migration"
                refusals.append(str(error))
        filler.unlink()
        version_1.check(state)
        store = Store.open(state)
        assert [store.show(hash).fact.created_by for hash in more] == [7] * len(more)
        assert {store.load(hash).hash for hash in more} == set(more)
        store.close()
        shutil.rmtree(state)
    migrating = [refusal for refusal in refusals if "format version 3; nothing is lost" in refusal]
    assert len(migrating) >= _MOST // 3, refusals


def _says_why(error: StoreFailed) -> None:
    assert "read-only" in str(error).lower(), error


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=20)


if __name__ == "__main__":
    scenarios = {
        "fills": fills,
        "opens": opens,
        "removes": removes,
        "crowds": crowds,
        "read-only": read_only,
        "migrates": migrates,
    }
    scenarios[sys.argv[1]](Path(sys.argv[2]))
