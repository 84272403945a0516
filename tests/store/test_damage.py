"""The store opens after bits on the disk have changed, and never serves a wrong program."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from promptlogd.store import NotFound, Store, StoreError
from promptlogd.store.journal import Move
from sandbox.program import Artifact, Form
from tests.store.programs import BUILD, submit, text
from tests.store.reopened import reopened


@pytest.fixture(params=[4, pytest.param(12, marks=pytest.mark.long)])
def variants(request: pytest.FixtureRequest) -> int:
    """The number of damaged folders that a test tries. The first ones are the same each time."""
    return int(request.param)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, because these tests do not depend on it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@dataclass(frozen=True)
class _Kept:
    """A store as a killed daemon leaves it, including SQLite's log, and its expected content."""

    folder: Path
    sources: dict[str, bytes]
    names: dict[str, str]
    history: dict[str, list[Move]]
    created_at: dict[str, float]


@pytest.fixture(scope="module", params=["log", "no log"])
def kept(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> _Kept:
    """A store with programs, moved names and a removed program, with or without a log of SQLite."""
    folder = tmp_path_factory.mktemp("kept")
    store = Store.open(folder / "original")
    chance = random.Random(3)
    sources = {}
    for number in range(8):
        source = f"const result = {number} // ".encode() + chance.randbytes(40).hex().encode() * (number % 3 * 20 + 1)
        hash, _ = submit(store, source, name=f"name-{number % 3}", artifact=_artifact(source))
        sources[hash] = source
        if number == 4 and request.param == "log":
            store.close()  # one part is in the database, and the rest will be only in the log
            store = Store.open(folder / "original")
    first, *_, last = sources
    store.label("name-0", None)
    store.label("other", first)
    store.remove(last)
    del sources[last]
    store.record_run(first)
    store.flush()
    shown = {hash: store.show(hash) for hash in sources}
    names = {name: hash for hash, one in shown.items() for name in one.names}
    history = {name: moves for one in shown.values() for name, moves in one.history.items()}
    created_at = {hash: one.fact.created_at for hash, one in shown.items()}
    if request.param == "log":
        shutil.copytree(folder / "original", folder / "state")
        store.close()
        assert (folder / "state/facts.sqlite3-wal").stat().st_size > 0
    else:
        store.close()
        (folder / "original").rename(folder / "state")
    assert len(names) >= 3
    return _Kept(folder / "state", sources, names, history, created_at)


def _artifact(source: bytes) -> Artifact:
    return Artifact(form=Form.BODY, language="javascript", code=source.upper())


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
    """Check that all programs except the damaged one verify and are listed, and that that one is not served wrongly."""
    for hash in kept.sources:
        assert _is_served(store, kept, hash) or hash == but
    facts = [row.fact for row in store.list(100, None).rows]
    assert {fact.hash for fact in facts} | {but} == {*kept.sources, but}
    for fact in facts:
        if fact.hash != but:
            assert (fact.created_at, fact.created_by) == (kept.created_at[fact.hash], 7)


def _is_served(store: Store, kept: _Kept, hash: str) -> bool:
    """Return whether a program is served. If it is, it must be right."""
    try:
        program = store.load(hash)
    except StoreError:
        return False
    source = kept.sources[hash]
    assert program == text(source)
    assert store.artifact(hash, "quickjs", BUILD) in (None, _artifact(source))
    return True


def _check_names(store: Store, kept: _Kept) -> None:
    for name, hash in kept.names.items():
        assert store.resolve(f"@{name}") == hash
        assert store.show(hash).history[name] == kept.history[name]


def _check_use(store: Store, state: Path) -> None:
    """Check that the store accepts new programs and names, and has them after a restart."""
    hash, _ = submit(store, b"new", name="new", uid=1)
    store.close()
    with reopened(state) as store:
        assert store.load(store.resolve("@new")).source == b"new"
        assert hash in {row.fact.hash for row in store.list(100, None).rows}


@pytest.mark.parametrize("file", ["source", "artifact.quickjs.1", "meta.json"])
def test_a_damaged_object(kept: _Kept, tmp_path: Path, file: str, variants: int) -> None:
    """After damage to any byte of a program, that program is right or set aside, and all others are served."""
    for state, chance in _variants(kept, tmp_path, file, variants):
        hash = chance.choice(list(kept.sources))
        _damage(state / "programs" / hash[:2] / hash[2:] / file, chance)
        if file == "meta.json":
            for path in state.glob("facts.sqlite3*"):
                path.unlink()  # so that the metadata is read
        store = Store.open(state)
        _check_programs(store, kept, but=hash)
        if file == "source":
            submit(store, kept.sources[hash])
        assert store.load(hash).source == kept.sources[hash]
        _check_use(store, state)


_FACTS = ["facts.sqlite3", "names.jsonl"]


@pytest.mark.parametrize(
    ("kept", "file"),
    [("no log", file) for file in _FACTS] + [("log", file) for file in (*_FACTS, "facts.sqlite3-wal")],
    indirect=["kept"],
)
def test_damaged_sqlite_or_journal(kept: _Kept, tmp_path: Path, file: str, variants: int) -> None:
    """After damage to any byte of SQLite or of the journal of names, programs, names and histories are unchanged."""
    for state, chance in _variants(kept, tmp_path, file, variants):
        _damage(state / file, chance)
        store = Store.open(state)
        _check_programs(store, kept)
        _check_names(store, kept)
        _check_use(store, state)


@pytest.mark.parametrize("file", ["format", "key"])
def test_a_damaged_format_or_key(kept: _Kept, tmp_path: Path, file: str, variants: int) -> None:
    """After damage or loss of these files, everything is served, and artifacts are right or made again."""
    for state, chance in _variants(kept, tmp_path, file, variants):
        if chance.random() < 0.2:
            (state / file).unlink()
        else:
            _damage(state / file, chance)
        store = Store.open(state)
        _check_programs(store, kept)
        _check_names(store, kept)
        for hash, source in kept.sources.items():
            store.put_artifact(hash, "quickjs", BUILD, _artifact(source))
        store.close()
        with reopened(state) as store:
            for hash, source in kept.sources.items():
                assert store.artifact(hash, "quickjs", BUILD) == _artifact(source)
        _check_use(Store.open(state), state)


def test_damage_to_several_files(kept: _Kept, tmp_path: Path, variants: int) -> None:
    """After damage to several files the store opens, and serves for each hash the right program or none."""
    for state, chance in _variants(kept, tmp_path, "everywhere", variants):
        for path in sorted(path for path in state.rglob("*") if path.is_file() and path.stat().st_size):
            if chance.random() < 0.4:
                _damage(path, chance)
        store = Store.open(state)
        for hash in kept.sources:
            _is_served(store, kept, hash)
        for name in kept.names:
            try:
                assert store.resolve(f"@{name}") in {move.hash for move in kept.history[name]}
            except NotFound:
                continue
        _check_use(store, state)
