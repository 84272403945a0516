"""Run a scenario of test_unreadable.py in a mount namespace: files that open, but whose reads fail with EIO.

The test mounts a process's memory, /proc/PID/mem, over a file of the store. A read of it at offset 0 fails with EIO.

python -m tests.store.broken_disk FILE FOLDER
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptlogd.store import Store, StoreFailed
from tests.store.programs import submit

_SOURCE = b"const result = 1"
_HASH = hashlib.sha256(_SOURCE).hexdigest()


def spoil(path: Path) -> None:
    """Make reads of this file fail with EIO."""
    subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", path], check=True, timeout=20)


def repair(path: Path) -> None:
    """Make reads of this file succeed again."""
    subprocess.run(["umount", path], check=True, timeout=20)


def resubmit(store: Store, uid: int) -> bool:
    """Submit the program, and return whether it was new."""
    return submit(store, _SOURCE, uid=uid)[1]


def refused(call: Callable[[], object]) -> None:
    """Make a call, and check that it fails with an error of the disk."""
    with pytest.raises(StoreFailed, match="disk"):
        call()


def check(store: Store, state: Path, *, runs: int = 1, aside: int = 0) -> None:
    """Check that the program is as it was submitted, and that damaged/ has this number of entries."""
    assert store.load(store.resolve("@x")).source == _SOURCE
    shown = store.show(_HASH)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.created_by, fact.runs, names, len(history["x"])) == (7, runs, ["x"], 1), fact
    assert len(list((state / "damaged").iterdir())) == aside
    store.close()


def source(state: Path, folder: Path) -> None:
    """A read error does not lose a program, and a new submit replaces the unreadable file."""
    spoil(folder / "source")
    for _ in range(2):
        store = Store.open(state)
        refused(lambda: store.load(_HASH))  # noqa: B023  # called at once
        assert [row.fact.hash for row in store.list(10, None).rows] == [_HASH]
        store.close()
    repair(folder / "source")
    check(Store.open(state), state)
    spoil(folder / "source")
    store = Store.open(state)
    assert resubmit(store, uid=8)
    (aside,) = (state / "damaged").iterdir()
    repair(aside / "source")
    check(store, state, aside=1)


def meta(state: Path, folder: Path) -> None:
    """A program with unreadable metadata is not listed, and no guessed metadata is stored."""
    spoil(folder / "meta.json")
    for path in state.glob("facts.sqlite3*"):
        path.unlink()
    store = Store.open(state)
    assert store.count() == 0
    refused(lambda: store.load(store.resolve("@x")))
    store.close()
    repair(folder / "meta.json")
    check(Store.open(state), state, runs=0)
    spoil(folder / "meta.json")
    store = Store.open(state)
    assert store.load(_HASH).source == _SOURCE  # SQLite has its metadata
    assert resubmit(store, uid=8)
    (aside,) = (state / "damaged").iterdir()
    repair(aside / "meta.json")
    check(store, state, runs=0, aside=1)


def at_the_start(state: Path, file: Path) -> None:
    """The store does not open if this file can't be read, and does not treat the file as damaged."""
    spoil(file)
    for _ in range(2):
        refused(lambda: Store.open(state))
    repair(file)
    check(Store.open(state), state)


def damaged(state: Path) -> None:
    """If damaged/ is too large, the oldest entry is removed although the second one can't be."""
    for name in "abc":  # if the change times are equal, the names decide
        entry = state / "damaged" / name
        entry.mkdir()
        with (entry / "source").open("wb") as file:
            file.truncate(40 << 20)
    busy = state / "damaged/b"
    subprocess.run(["mount", "--bind", busy, busy], check=True, timeout=20)
    Store.open(state).close()
    assert sorted(path.name for path in (state / "damaged").iterdir()) == ["b", "c"]
    repair(busy)


def main(what: str, state: Path) -> None:
    """Create a store, and run a scenario on it."""
    store = Store.open(state)
    resubmit(store, uid=7)
    store.label("x", _HASH)
    store.record_run(_HASH)
    store.close()
    folder = state / "programs" / _HASH[:2] / _HASH[2:]
    match what:
        case "source":
            source(state, folder)
        case "meta.json":
            meta(state, folder)
        case "damaged":
            damaged(state)
        case _:
            at_the_start(state, state / what)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) / "state")
