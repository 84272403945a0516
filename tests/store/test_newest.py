"""Pages of `list`: the programs that a viewer sees, in the right order, at a cost independent of their number."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from promptlogd.store import Viewer
from promptlogd.store.lookups import Lookups
from promptlogd.store.newest import Place
from tests.store.reopened import reopened

_ALICE, _BOB = Viewer(uid=7, gids=frozenset({70})), Viewer(uid=8, gids=frozenset({70, 80}))
_ONE = Viewer(uid=9, tenant="one", owns_user=False)
_VIEWERS = [_ALICE, _BOB, _ONE, Viewer(uid=9), Viewer(uid=5), Viewer(uid=1, manages=True)]

_Holding = tuple[str, int, str, int, str, float]
"""Hash, uid, tenant, gid, visibility, time."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database of an empty store."""
    with reopened(tmp_path / "state"):
        pass
    with closing(sqlite3.connect(tmp_path / "state/facts.sqlite3", isolation_level=None)) as database:
        yield database


def _fill(database: sqlite3.Connection, holdings: list[_Holding]) -> None:
    first: dict[str, float] = {}
    for hash, *_, at in holdings:
        first[hash] = min(at, first.get(hash, at))
    database.execute("BEGIN")
    database.executemany(
        "INSERT INTO programs (hash, size, created_at, created_by, engine, language) VALUES (?, 9, ?, 7, '', '')",
        first.items(),
    )
    database.executemany(
        "INSERT INTO holders (hash, uid, tenant, gid, visibility, at, bytes) VALUES (?, ?, ?, ?, ?, ?, 9)", holdings
    )
    database.execute("COMMIT")


def _hash(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _sees(viewer: Viewer, holding: _Holding) -> bool:
    _, uid, tenant, gid, visibility, _ = holding
    is_shown = visibility == "all" or (visibility == "group" and gid in viewer.gids)
    return is_shown or viewer.owns(uid, tenant or None)


def _pages(database: sqlite3.Connection, viewer: Viewer, limit: int) -> list[Place]:
    found: list[Place] = []
    after: Place | None = None
    while True:
        page, after = Lookups(database).newest(limit, after, viewer)
        assert len(page) <= limit
        found += page
        if after is None:
            return found


@pytest.mark.parametrize("seed", range(5))
def test_pages_together_have_what_a_viewer_sees(database: sqlite3.Connection, seed: int) -> None:
    """Each program that a viewer sees is there once, at its first submit that the viewer sees, whatever the limit."""
    chance = random.Random(seed)
    holdings: dict[tuple[str, int, str], _Holding] = {}
    for _ in range(200):
        hash, (uid, tenant) = _hash(chance.randrange(60)), chance.choice([(7, ""), (8, ""), (9, "one"), (9, "other")])
        visibility = chance.choice(["own", "group", "all"])
        at = float(chance.randrange(40))  # some submits at the same time
        holdings[hash, uid, tenant] = (hash, uid, tenant, 70 if uid == 7 else 80, visibility, at)
    _fill(database, list(holdings.values()))
    for viewer in _VIEWERS:
        first: dict[str, float] = {}
        for holding in holdings.values():
            if _sees(viewer, holding):
                first[holding[0]] = min(holding[5], first.get(holding[0], holding[5]))
        expected = sorted(((at, hash) for hash, at in first.items()), reverse=True)
        for limit in (1, 3, 100):
            assert _pages(database, viewer, limit) == expected


def test_many_submits_of_the_same_programs(database: sqlite3.Connection) -> None:
    """Newer submits of older programs make pages shorter, and no page reads them all."""
    holdings: list[_Holding] = [(_hash(number), 7, "", 70, "all", float(number)) for number in range(500)]
    holdings += [(_hash(number), 8, "", 80, "own", 1000.0 + number) for number in range(500)]
    _fill(database, holdings)
    page, after = Lookups(database).newest(10, None, _BOB)
    assert page == []
    assert after is not None
    assert _pages(database, _BOB, 10) == [(float(number), _hash(number)) for number in reversed(range(500))]


def _steps(database: sqlite3.Connection, viewer: Viewer, after: Place | None) -> int:
    """Return the number of steps of SQLite's virtual machine, in hundreds, for a page and a check of a quota."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    lookups = Lookups(database)
    database.set_progress_handler(count, 100)
    lookups.newest(5, after, viewer)
    lookups.totals.of(viewer.uid, viewer.tenant)
    lookups.totals.names()
    database.set_progress_handler(None, 0)
    return steps


def test_the_cost_does_not_grow(database: sqlite3.Connection) -> None:
    """A page and a check of a quota take as many steps with 5,000 programs as with 100, for each kind of viewer.

    Most programs are hidden from most viewers, which must not make SQLite look for those that are not.
    """
    costs = []
    made = 0
    for many in (100, 5000):
        holdings = list[_Holding]()
        for number in range(made, many):
            owner = (7, "") if number % 10 else (8, "")
            visibility = "all" if number % 10 == 1 else "group" if number % 10 == 2 else "own"
            holdings.append((_hash(number), *owner, 70, visibility, float(number)))
            if number % 10 == 3:
                holdings.append((_hash(number), 9, "one", 90, "own", float(number) + 0.5))
        _fill(database, holdings)
        made = many
        costs.append([_steps(database, viewer, after) for viewer in _VIEWERS for after in (None, (60.0, ""))])
    for few, much in zip(*costs, strict=True):
        assert much <= 1.5 * few + 5
