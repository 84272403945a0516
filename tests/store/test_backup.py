"""A backup is consistent, although the store changes while it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promptlogd.store import BackupStopped, NotFound, Store, StoreFailed, Submission
from tests.store.programs import ARTIFACT, BUILD, submit, text


def _journal(folder: Path) -> None:
    """Stands in for the copy of the run journal, which these tests do not have."""


def test_changes_during_a_backup(tmp_path: Path) -> None:
    """A backup contains the programs and names as they are at its end.

    During the backup, one program is removed, one is stored and named, and one is moved to another engine.
    """
    target = tmp_path / "backup"
    target.mkdir(mode=0o700)
    store = Store.open(tmp_path / "state")
    removed, changed, last = sorted(submit(store, b"return %d" % number, name=f"n{number}")[0] for number in range(3))
    source = store.load(changed).source
    asked: list[str] = []

    def change() -> bool:
        asked.append("")
        if len(asked) == 3:
            store.remove(removed)
            submit(store, b"return 'new'", name="new")
            staged = store.stage(text(source, engine="deno"), uid=7)
            store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, replace=True))
        return False

    done = store.back_up(target, _journal, change)
    new = store.resolve("@new")
    store.close()
    assert done.programs == 3
    copy = Store.open(target)
    try:
        assert {row.fact.hash for row in copy.list(10, None).rows} == {changed, last, new}
        assert copy.load(new).source == b"return 'new'"
        assert copy.load(changed).engine == "deno"
        assert copy.show(changed).fact.engine == "deno"
        assert '"deno"' in (target / "programs" / changed[:2] / changed[2:] / "meta.json").read_text()
        assert copy.resolve("@new") == new
        assert sum(len(row.names) for row in copy.list(10, None).rows) == 3
        assert copy.verify(100, None).damaged == []
        with pytest.raises(NotFound):
            copy.load(removed)
    finally:
        copy.close()


def test_a_failed_backup_leaves_an_empty_folder(tmp_path: Path) -> None:
    """A backup that is stopped, or that meets a full disk, leaves an empty folder, and a later one succeeds."""
    target = tmp_path / "backup"
    target.mkdir(mode=0o700)
    store = Store.open(tmp_path / "state")
    try:
        submit(store, b"return 1", name="a")
        with pytest.raises(BackupStopped):
            store.back_up(target, _journal, lambda: True)
        assert os.listdir(target) == []

        def full(folder: Path) -> None:
            assert (folder / "facts.sqlite3").exists()
            raise OSError(28, "No space left on device")

        with pytest.raises(StoreFailed, match="the disk is full"):
            store.back_up(target, full, lambda: False)
        assert os.listdir(target) == []
        assert store.back_up(target, _journal, lambda: False).programs == 1
    finally:
        store.close()
