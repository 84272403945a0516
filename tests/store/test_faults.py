"""The store on a bad disk and with a bad clock: it opens, and what it serves is right."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from promptlogd.store import BadReference, NotFound, Store, StoreError
from promptlogd.store.facts import Move

_VARIANTS = 30
_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on when the disk has it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("scenario", ["fills", "opens", "read-only"])
def test_a_small_disk(tmp_path: Path, scenario: str) -> None:
    """On a tmpfs that fills up or turns read-only at each step, what was acknowledged is there, and whole."""
    script = 'mount -t tmpfs -o size=512k none "$1" && exec "$2" -m tests.store.small_disk "$3" "$1"'
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        str(tmp_path),
        sys.executable,
        scenario,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class _Kept:
    """A store as a killed daemon leaves it, SQLite's log included, and what is true of it."""

    folder: Path
    sources: dict[str, bytes]
    names: dict[str, str]
    history: dict[str, list[Move]]
    created_at: dict[str, float]


@pytest.fixture(scope="module", params=["log", "no log"])
def kept(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> _Kept:
    """A store with programs, names that moved, and a removed program; with SQLite's log, or with that folded in."""
    folder = tmp_path_factory.mktemp("kept")
    store = Store.open(folder / "original")
    chance = random.Random(3)
    sources = {}
    for number in range(8):
        source = f"const result = {number} // ".encode() + chance.randbytes(40).hex().encode() * (number % 3 * 20 + 1)
        hash, _ = store.submit(source, b"B" + source, wrapper=1, name=f"name-{number % 3}", uid=7)
        sources[hash] = source
        if number == 4 and request.param == "log":
            # Part of it in the file, part in the log alone.
            store._facts._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first, *_, last = sources
    store.label("name-0", None)
    store.label("other", first)
    store.remove(last)
    del sources[last]
    store.record_run(first)
    store.flush()
    shown = {hash: store.show(hash) for hash in sources}
    names = {name: hash for hash, (_, names, _) in shown.items() for name in names}
    history = {name: moves for _, _, histories in shown.values() for name, moves in histories.items()}
    created_at = {hash: fact.created_at for hash, (fact, _, _) in shown.items()}
    if request.param == "log":
        shutil.copytree(folder / "original", folder / "state")
        store.close()
        assert (folder / "state/facts.sqlite3-wal").stat().st_size > 0
    else:
        store.close()
        (folder / "original").rename(folder / "state")
    assert len(names) >= 3
    return _Kept(folder / "state", sources, names, history, created_at)


def _flip_bit(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _junk_byte(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.randrange(256)


def _zeros(data: bytearray, chance: random.Random) -> None:
    at, size = chance.randrange(len(data)), chance.choice((16, 512, 4096))
    data[at : at + size] = bytes(min(size, len(data) - at))


def _torn(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


_DAMAGES: list[Callable[[bytearray, random.Random], None]] = [_flip_bit, _flip_bit, _junk_byte, _zeros, _torn]


def _damage(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    chance.choice(_DAMAGES)(data, chance)
    path.write_bytes(data)


def _variants(kept: _Kept, folder: Path, seed: str, count: int) -> Iterator[tuple[Path, random.Random]]:
    for number in range(count):
        state = folder / f"{number}"
        shutil.copytree(kept.folder, state)
        state.chmod(0o700)
        yield state, random.Random(f"{seed} {number}")
        shutil.rmtree(state)


def _check_programs(store: Store, kept: _Kept, *, but: str | None = None) -> None:
    """All programs, but for the damaged one, verify and are listed, and that one is not served wrong."""
    for hash, source in kept.sources.items():
        try:
            program = store.load(hash)
        except StoreError:
            assert hash == but
        else:
            assert (program.source, program.wrapped or b"B" + source) == (source, b"B" + source)
    rows = store.list(100, None).rows
    assert {fact.hash for fact, _ in rows} | {but} == {*kept.sources, but}
    for fact, _ in rows:
        if fact.hash != but:
            assert (fact.created_at, fact.created_by) == (kept.created_at[fact.hash], 7)


def _check_names(store: Store, kept: _Kept) -> None:
    for name, hash in kept.names.items():
        assert store.resolve(f"@{name}") == hash
        assert store.show(hash)[2][name] == kept.history[name]


def _check_use(store: Store, state: Path) -> None:
    """The store takes new programs and moves, and has them after the next start."""
    hash, _ = store.submit(b"new", b"Bnew", wrapper=1, name="new", uid=1)
    store.close()
    store = Store.open(state)
    assert store.load(store.resolve("@new")).source == b"new"
    assert hash in {fact.hash for fact, _ in store.list(100, None).rows}
    store.close()


@pytest.mark.parametrize("file", ["source", "wrapped", "meta.json"])
def test_a_damaged_object(kept: _Kept, tmp_path: Path, file: str) -> None:
    """Whatever byte of an object is hit, the store opens, its program is right or refused, all others are served."""
    for state, chance in _variants(kept, tmp_path, file, _VARIANTS):
        hash = chance.choice(list(kept.sources))
        _damage(state / "programs" / hash[:2] / hash[2:] / file, chance)
        if file == "meta.json":
            for path in state.glob("facts.sqlite3*"):
                path.unlink()  # so that it is read
        store = Store.open(state)
        _check_programs(store, kept, but=hash)
        if file == "source":
            store.submit(kept.sources[hash], b"B" + kept.sources[hash], wrapper=1, name=None, uid=7)
        assert store.load(hash).source == kept.sources[hash]
        _check_use(store, state)


@pytest.mark.parametrize("file", ["facts.sqlite3", "facts.sqlite3-wal", "facts.sqlite3-shm", "names.jsonl"])
def test_damaged_facts(kept: _Kept, tmp_path: Path, file: str) -> None:
    """Whatever byte of SQLite or of the names' journal is hit, programs, names and histories are as they were."""
    if not (kept.folder / file).exists():
        return  # folded in
    for state, chance in _variants(kept, tmp_path, file, _VARIANTS):
        _damage(state / file, chance)
        store = Store.open(state)
        _check_programs(store, kept)
        _check_names(store, kept)
        _check_use(store, state)


def test_damage_everywhere(kept: _Kept, tmp_path: Path) -> None:
    """With several files hit at once the store opens, and serves a right program under its hash, or none."""
    for state, chance in _variants(kept, tmp_path, "everywhere", _VARIANTS):
        for path in sorted(path for path in state.rglob("*") if path.is_file() and path.stat().st_size):
            if chance.random() < 0.4:
                _damage(path, chance)
        store = Store.open(state)
        for hash, source in kept.sources.items():
            try:
                program = store.load(hash)
            except StoreError:
                continue
            assert (program.source, program.wrapped or b"B" + source) == (source, b"B" + source)
        for name in kept.names:
            try:
                assert store.resolve(f"@{name}") in {move.hash for move in kept.history[name]}
            except NotFound:
                continue
        _check_use(store, state)


@pytest.mark.parametrize("lost", ["facts.sqlite3", "the log"])
def test_what_sqlite_forgot_comes_back(tmp_path: Path, lost: str) -> None:
    """A program and a name that SQLite has lost with its log, as after a power cut, are there at the next start."""
    store = Store.open(tmp_path / "state")
    first, _ = store.submit(b"1", b"B1", wrapper=1, name="x", uid=0)
    store.close()
    shutil.copy(tmp_path / "state/facts.sqlite3", tmp_path / "facts.sqlite3")
    store = Store.open(tmp_path / "state")
    second, _ = store.submit(b"2", b"B2", wrapper=1, name="x", uid=0)
    store.record_run(first)
    store.close()
    if lost == "the log":
        (tmp_path / "facts.sqlite3").rename(tmp_path / "state/facts.sqlite3")
    else:
        (tmp_path / "state/facts.sqlite3").unlink()
    store = Store.open(tmp_path / "state")
    assert store.resolve("@x") == second
    assert store.resolve(second[:8]) == second
    assert store.count() == 2
    store.close()


def test_a_store_from_before_the_seals(tmp_path: Path) -> None:
    """Records without a checksum, as they were written before, are read."""
    store = Store.open(tmp_path / "state")
    hash, _ = store.submit(b"1", b"B1", wrapper=1, name="x", uid=7)
    store.close()
    folder = tmp_path / "state/programs" / hash[:2] / hash[2:]
    for path in (folder / "meta.json", tmp_path / "state/names.jsonl"):
        path.write_bytes(b"\n".join(line.rpartition(b" ")[0] for line in path.read_bytes().splitlines()))
    (tmp_path / "state/facts.sqlite3").unlink()
    store = Store.open(tmp_path / "state")
    assert store.resolve("@x") == hash
    assert store.show(hash)[0].created_by == 7
    store.close()


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wall clock that stands, goes back, or is before 1970, listing, names and their history go on."""
    chance = random.Random(5)
    jumps = [0.0, -86400.0, 1.7e9, 1.7e9, 4e9, 1.0, 1.7e9 + 1e-7, -0.5]
    monkeypatch.setattr(time, "time", lambda: chance.choice(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    store = Store.open(tmp_path / "state")
    kept = []
    for number in range(40):
        kept.append(store.submit(b"%d" % number, b"B", wrapper=1, name="x", uid=0)[0])
        store.record_run(kept[-1])
        store.flush()
        assert store.resolve("@x") == kept[-1]
    assert store.label("x", None) == (kept[-2], kept[-1])
    for _ in range(2):
        seen: list[str] = []
        after: str | None = None
        while len(seen) <= len(kept):
            page = store.list(3, after)
            seen += [fact.hash for fact, _ in page.rows]
            after = page.next
            if after is None:
                break
        assert sorted(seen) == sorted(kept)
        assert [move.hash for move in store.show(kept[-2])[2]["x"]] == [*kept, kept[-2]]
        store.close()
        (tmp_path / "state/facts.sqlite3").unlink()
        store = Store.open(tmp_path / "state")
    for _ in range(2):  # set aside twice within one tick
        (tmp_path / "state/programs" / kept[0][:2] / kept[0][2:] / "source").write_bytes(b"bad")
        with pytest.raises(StoreError):
            store.load(kept[0])
        assert store.submit(b"0", b"B", wrapper=1, name=None, uid=0) == (kept[0], True)
    assert len(list((tmp_path / "state/damaged").glob(f"{kept[0]}-*"))) == 2
    store.close()


@pytest.mark.parametrize("cursor", ["0x1p99999:00", "nan:", "inf:", "-inf:zz", ":", "0x1p0", "1e999:0"])
def test_a_cursor_out_of_range(tmp_path: Path, cursor: str) -> None:
    """A number that no page gave is refused, or a page like any other; it fails nothing."""
    store = Store.open(tmp_path / "state")
    try:
        store.list(5, cursor)
    except BadReference:
        pass
    store.close()


def test_counts_outlive_a_failed_flush(tmp_path: Path) -> None:
    """Runs counted before and after a flush that failed are all in the next one."""
    store = Store.open(tmp_path / "state")
    hash, _ = store.submit(b"1", b"B1", wrapper=1, name=None, uid=0)
    database = store._facts._db
    for _ in range(2):
        store.record_run(hash)
        database.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError):
            store.flush()
        database.execute("PRAGMA query_only = OFF")
        store.record_run(hash)
    store.flush()
    assert store.show(hash)[0].runs == 4
    store.close()


def test_a_write_cut_short_is_no_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal line of which the disk took a part only is an error, and not a move that the next start forgets."""
    store = Store.open(tmp_path / "state")
    hash, _ = store.submit(b"1", b"B1", wrapper=1, name=None, uid=0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(StoreError):
        store.label("x", hash)
    monkeypatch.undo()
    with pytest.raises(NotFound):
        store.resolve("@x")
    store.label("y", hash)
    store.close()
    (tmp_path / "state/facts.sqlite3").unlink()
    store = Store.open(tmp_path / "state")
    assert store.resolve("@y") == hash
    store.close()
