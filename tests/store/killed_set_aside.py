"""Open an SQLite file of an unknown version with a write-ahead log, and end after one file was moved to `damaged/`.

The folder `before` then has the files from before the move. Another connection stays open, so that SQLite does not
empty the log.

python -m tests.store.killed_set_aside facts|journal FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from promptlogd.config import JournalSettings
from promptlogd.journal import Journal
from promptlogd.journal.database import FILE
from promptlogd.store import Store
from promptlogd.store.connections import connect
from promptlogd.store.damaged import DamagedFolder
from tests.store.programs import submit


def open_facts(state: Path) -> None:
    """Open the store, and close it."""
    Store.open(state).close()


def open_journal(state: Path) -> None:
    """Open the journal, and close it."""
    journal = Journal(state, JournalSettings(), b"k" * 64)
    journal.open()
    journal.close()


def _facts(state: Path) -> object:
    store = Store.open(state)
    submit(store, b"1", name="x", uid=7)
    store.close()
    return _changed(state / "facts.sqlite3", "UPDATE programs SET runs = 5")


def _journal(state: Path) -> object:
    (state / "damaged").mkdir(parents=True, mode=0o700)
    open_journal(state)
    return _changed(state / FILE, "INSERT INTO entries (at, kind, uid) VALUES (1.0, 'run', 7)")


def _changed(path: Path, statement: str) -> object:
    """Make a change, and give the file an unknown version. Both are only in the log."""
    db = connect(path)
    db.execute(statement)
    db.execute("PRAGMA user_version = 99")
    return db


def main(what: str, folder: Path) -> None:
    """Spoil a file of this kind, open it, and end after the first move."""
    state = folder / "state"
    opened = _facts(state) if what == "facts" else _journal(state)
    move_in = DamagedFolder.move_in

    def move_and_die(self: DamagedFolder, name: str, **options: Any) -> None:
        shutil.copytree(state, folder / "before", dirs_exist_ok=True)
        move_in(self, name, **options)
        os._exit(7)

    DamagedFolder.move_in = move_and_die  # type: ignore[method-assign]
    (open_facts if what == "facts" else open_journal)(state)
    raise AssertionError(f"nothing was moved while {opened} was open")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
