"""The running totals of each user and tenant equal a new count, also after restarts, migrations and damage."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest

from promptlogd.store import Holder, Labeller, NotYours, Store, StoreError, Submission, Viewer
from tests.store import version_2
from tests.store.programs import ARTIFACT, BUILD, text
from tests.store.reopened import reopened

_SOURCES = [b"%d" % number + b"/" * size for number, size in enumerate((0, 4095, 4096, 20_000))]
_VIEWERS = [Viewer(uid=7), *(Viewer(uid=9, tenant=tenant, owns_user=False) for tenant in (None, "one", "other"))]


def _change(store: Store, chance: random.Random) -> None:
    """Do something that changes who stores what: submit with or without a name, move a name, remove."""
    viewer = chance.choice([*_VIEWERS, Viewer(uid=1, manages=True)])
    program = text(chance.choice(_SOURCES))
    name = chance.choice([None, "a", "b", "c"])
    owner = Holder(uid=viewer.uid, tenant=viewer.tenant)
    match chance.choice(["submit", "submit", "label", "remove"]):
        case "submit":
            staged = store.stage(program, uid=viewer.uid, tenant=viewer.tenant)
            try:
                store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name=name, viewer=viewer))
            except NotYours:
                store.discard(staged)
        case "label":
            store.label(name or "d", program.hash, Labeller(viewer=viewer, new_owner=owner))
        case _:
            store.remove(program.hash, viewer)


def _check(state: Path) -> Counter[tuple[int, str, str]]:
    """Compare the sums with a count, and return it: by uid, tenant and what."""
    counted: Counter[tuple[int, str, str]] = Counter()
    with closing(sqlite3.connect(state / "facts.sqlite3")) as database:
        rows = database.execute("SELECT uid, tenant, size FROM holders JOIN programs USING (hash)").fetchall()
        for uid, tenant, size in rows:
            for whose in {"", tenant}:
                counted[uid, whose, "programs"] += 1
                counted[uid, whose, "bytes"] += 8192 + -(-size // 4096) * 4096
        for uid, tenant in database.execute("SELECT uid, ifnull(tenant, '') FROM names").fetchall():
            counted[-1, "", "names"] += 1
            for whose in {"", tenant} if uid is not None else ():
                counted[uid, whose, "names"] += 1
        kept = database.execute("SELECT uid, tenant, programs, bytes, names FROM totals").fetchall()
    kept_sums = {
        (uid, tenant, what): number
        for uid, tenant, *numbers in kept
        for what, number in zip(("programs", "bytes", "names"), numbers, strict=True)
        if number
    }
    assert kept_sums == dict(counted)
    assert all(any(numbers) or uid == -1 for uid, _, *numbers in kept), "a row that is not needed is left"
    return counted


@pytest.mark.parametrize("seed", range(2))
def test_sums_are_those_of_a_count(tmp_path: Path, seed: int) -> None:
    """After any submits, moves of names and removals, and after the loss of SQLite's file."""
    chance, state = random.Random(seed), tmp_path / "state"
    for _ in range(3):
        with reopened(state) as store:
            for _ in range(25):
                with suppress(StoreError):
                    _change(store, chance)
        counted = _check(state)
        assert counted[9, "", "programs"]
    (state / "facts.sqlite3").unlink()
    with reopened(state):
        pass
    assert _check(state) == counted


def test_sums_of_an_older_folder(tmp_path: Path) -> None:
    """The first start counts what a folder of format version 2 has. Its names count once they have moved."""
    state = version_2.extract(tmp_path)
    with reopened(state) as store:
        version_2.check(store)
    counted = _check(state)
    assert counted[9, "acme", "programs"] == counted[9, "", "programs"] == 1
    assert counted[-1, "", "names"] == 3
    assert not counted[8, "", "names"]
    with reopened(state) as store:
        store.label("first", None)
    assert sum(number for (uid, _, what), number in _check(state).items() if uid != -1 and what == "names") == 1


def test_sums_of_a_database_without_them(tmp_path: Path) -> None:
    """A database of an older schema is counted at the first start, and keeps the counts of runs."""
    state = tmp_path / "state"
    with reopened(state) as store:
        for viewer in _VIEWERS:
            staged = store.stage(text(b"1"), uid=viewer.uid, tenant=viewer.tenant, visibility="own")
            name = f"of-{viewer.uid}-{viewer.tenant}"
            hash = store.keep(Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name=name, viewer=viewer)).hash
        store.record_run(hash)
    counted = _check(state)
    with closing(sqlite3.connect(state / "facts.sqlite3", isolation_level=None)) as database:
        triggers = database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for (trigger,) in triggers:
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute("DROP TABLE totals")
        database.execute("DROP INDEX by_time")
        database.execute("CREATE INDEX newest ON programs (created_at DESC, hash)")
        database.execute("DROP TABLE holders")
        database.execute("ALTER TABLE programs DROP COLUMN submitted_at")
        database.execute("PRAGMA user_version = 4")
    with reopened(state) as store:
        assert store.show(hash).fact.runs == 1
        assert {holder.visibility for holder in store.show(hash).holders} == {"own"}
    assert _check(state) == counted
    with closing(sqlite3.connect(state / "facts.sqlite3", isolation_level=None)) as database:
        database.execute("ALTER TABLE programs DROP COLUMN submitted_at")
        database.execute("PRAGMA user_version = 5")
    with reopened(state) as store:
        assert store.show(hash).fact.runs == 1
    assert _check(state) == counted
