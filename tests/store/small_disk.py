"""What test_faults.py runs in a mount namespace of its own, on a tmpfs of 512 KiB that is mounted at the folder.

python -m tests.store.small_disk fills|opens|read-only FOLDER
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from promptlogd.store import NotFound, Store, StoreError, StoreFailed

PAGE = os.sysconf("SC_PAGESIZE")
_MOST = 30


def fill(folder: Path, pages_left: int) -> Path:
    """Fill the disk but for so many pages; return the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * PAGE):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - pages_left * PAGE))
    return filler


def fills(folder: Path) -> None:
    """With any number of pages left, a submit is kept whole and named, or refused and not kept by halves."""
    kept: dict[str, bytes] = {}
    names: dict[str, str] = {}
    refused = 0
    for pages_left in range(_MOST):
        store = Store.open(folder / "state")
        filler = fill(folder, pages_left)
        for turn in range(3):
            source = f"{pages_left} {turn} ".encode().ljust(3 * PAGE * turn + 100, b"x")
            name = f"a-name-of-many-characters-{pages_left}-{turn}".ljust(64, "x")
            try:
                hash, _ = store.submit(source, b"B" + source, wrapper=1, name=name, uid=0)
                kept[hash] = source
                names[name] = hash
            except StoreFailed:
                refused += 1
        for hash, source in kept.items():
            assert store.load(hash).source == source
        store.close()
        filler.unlink()
        if pages_left % 2:
            (folder / "state/facts.sqlite3").unlink()  # what is durable is enough
        store = Store.open(folder / "state")
        assert not list((folder / "state/programs").glob(".[ts]*-*"))
        assert {hash for hash in kept if store.load(hash).source == kept[hash]} == set(kept)
        for hash in store._objects.hashes():
            assert hashlib.sha256(store.load(hash).source).hexdigest() == hash
        assert set(kept) <= {fact.hash for fact, _ in store.list(1000, None).rows}
        assert all(store.resolve(f"@{name}") == hash for name, hash in names.items())
        for hash in list(store._objects.hashes()):
            store.remove(hash)
        kept.clear()
        names.clear()
        store.close()
    assert refused >= _MOST, refused


def opens(folder: Path) -> None:
    """A store on a full disk opens or is refused; once there is room, nothing is gone, the counts of runs included."""
    store = Store.open(folder / "state")
    hash, _ = store.submit(b"x", b"Bx", wrapper=1, name="x", uid=0)
    store.record_run(hash)
    store.close()
    for pages_left in range(_MOST):
        filler = fill(folder, pages_left)
        try:
            store = Store.open(folder / "state")
        except StoreFailed:
            pass
        else:
            assert store.load(store.resolve("@x")).source == b"x"
            with suppress(StoreFailed, NotFound):
                store.label("y", hash)
            store.close()
        filler.unlink()
        store = Store.open(folder / "state")
        assert store.show(hash)[0].runs == 1
        assert store.resolve("@x") == hash
        assert not list((folder / "state/damaged").iterdir())
        store.close()


def read_only(folder: Path) -> None:
    """What turns read-only is refused to be written and is served on; writable again, it is as good as before."""
    state = folder / "state"
    store = Store.open(state)
    hash, _ = store.submit(b"x", b"Bx", wrapper=1, name="x", uid=0)
    bad, _ = store.submit(b"y", b"By", wrapper=1, name="y", uid=0)
    damaged = state / "programs" / bad[:2] / bad[2:] / "source"
    damaged.write_bytes(b"Y")
    refusals: dict[Path, list[Callable[[], object]]] = {
        state / "programs": [
            lambda: store.submit(b"z", b"Bz", wrapper=1, name=None, uid=0),
            lambda: store.rewrap(hash, b"B", wrapper=2),
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
        assert store.load(store.resolve("@x")).source == b"x"
        assert hash in {fact.hash for fact, _ in store.list(10, None).rows}
        subprocess.run(["umount", path], check=True, timeout=20)
    store.close()
    _mount("-o", "remount,ro", folder)
    try:
        Store.open(state)
    except StoreFailed as error:
        _says_why(error)
    else:
        raise AssertionError("it opened")
    _mount("-o", "remount,rw", folder)
    store = Store.open(state)
    added, created = store.submit(b"z", b"Bz", wrapper=1, name="z", uid=0)
    assert created
    assert store.load(store.resolve("@x")).source == b"x"
    assert store.load(store.resolve("@z")).source == b"z"
    assert added in {fact.hash for fact, _ in store.list(10, None).rows}
    store.close()


def _says_why(error: StoreFailed) -> None:
    assert "read-only" in str(error).lower(), error


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=20)


if __name__ == "__main__":
    {"fills": fills, "opens": opens, "read-only": read_only}[sys.argv[1]](Path(sys.argv[2]))
