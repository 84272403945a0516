"""Run a scenario of test_unreadable.py as the user nobody, because root is never denied access.

python -m tests.store.ordinary_user SCENARIO FOLDER
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptlogd.store import Store, StoreFailed
from tests.store.programs import submit

_NOBODY = 65534
_SOURCE = b"const result = 1"
_HASH = hashlib.sha256(_SOURCE).hexdigest()


@contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    """Deny this process access to a path during the block."""
    before = path.stat().st_mode
    path.chmod(mode)
    yield
    path.chmod(before)


def refused(call: Callable[[], object]) -> None:
    """Make a call, and check that the error says how to restore access."""
    with pytest.raises(StoreFailed, match="chown the files to the daemon's user"):
        call()


def check(state: Path, *, runs: int = 1) -> None:
    """Check that the program is as it was submitted, and that nothing was set aside."""
    store = Store.open(state)
    assert store.load(store.resolve("@x")).source == _SOURCE
    shown = store.show(_HASH)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.created_by, fact.runs, names, len(history["x"])) == (7, runs, ["x"], 1), fact
    assert not list((state / "damaged").iterdir())
    store.close()


def denied_program(state: Path, path: Path) -> None:
    """An unreadable program is not loaded but keeps its row and its name, and is served once it can be read."""
    with closed(path):
        for _ in range(2):
            store = Store.open(state)
            refused(lambda: store.load(store.resolve("@x")))  # noqa: B023  # called at once
            assert [row.fact.hash for row in store.list(10, None).rows] == [_HASH]
            store.close()
    check(state)
    with closed(path):
        for facts in state.glob("facts.sqlite3*"):
            facts.unlink()
        store = Store.open(state)
        assert store.count() == (1 if path.name == "source" else 0)
        refused(lambda: store.load(store.resolve("@x")))
        store.close()
    check(state, runs=0)


def no_room_for_damage(state: Path, folder: Path) -> None:
    """If damage can't be set aside, the error says so, and the program keeps its name."""
    (folder / "source").write_bytes(b"bad")
    store = Store.open(state)
    with closed(state / "damaged", 0o500):
        for _ in range(2):
            refused(lambda: store.load(_HASH))
            refused(lambda: submit(store, _SOURCE, uid=8))
    (folder / "source").write_bytes(_SOURCE)
    store.close()
    check(state)


def main(scenario: str, folder: Path) -> None:
    """Become an ordinary user, create a store, and run a scenario on it."""
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        os.setgroups([])
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
    state = folder / "state"
    store = Store.open(state)
    submit(store, _SOURCE, name="x", uid=7)
    store.record_run(_HASH)
    store.close()
    program = state / "programs" / _HASH[:2] / _HASH[2:]
    match scenario:
        case "object":
            for path in (program, program / "source"):
                denied_program(state, path)
                store = Store.open(state)
                store.record_run(_HASH)
                store.close()
        case "shelf":
            denied_program(state, program.parent)
        case "damaged":
            no_room_for_damage(state, program)
        case _:
            with closed(state / scenario):
                for _ in range(2):
                    refused(lambda: Store.open(state))
            check(state)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
