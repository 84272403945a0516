"""A state folder that promptlog 0.1.0 wrote, and its expected content.

`state.tar.gz` is the folder without its reserve. `expected.json` is what 0.1.0 reported about its programs. The folder
has programs for QuickJS and Deno, names that moved, counts of runs, and a program in damaged/. Three programs were
damaged after the daemon ended: one in its source, one in its metadata, one in its wrapped code.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from promptlogd.store import Damaged, NotFound, Store
from promptlogd.store.journal import Move
from promptlogd.store.seal import seal
from tests.store.reopened import reopened

_FOLDER = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((_FOLDER / "expected.json").read_text("utf-8"))
PROGRAMS: dict[str, dict[str, Any]] = EXPECTED["programs"]


def extract(folder: Path) -> Path:
    """Extract a copy of the state folder into this folder, and return its path."""
    with tarfile.open(_FOLDER / "state.tar.gz") as tar:
        tar.extractall(folder, filter="tar")
    return folder / "state"


def hash_of(what: str) -> str:
    """Return the hash of the program with this description in `expected.json`."""
    return next(hash for hash, program in PROGRAMS.items() if program["what"] == what)


def add(state: Path, source: bytes) -> str:
    """Add a program of uid 7 to a folder of version 1 in the format of 0.1.0, and return its hash."""
    hash = hashlib.sha256(source).hexdigest()
    folder = state / "programs" / hash[:2] / hash[2:]
    folder.mkdir(parents=True)
    wrapped = b"B" + source
    meta = {"size": len(source), "created_at": 5.5, "created_by": 7, "engine": "quickjs", "language": "javascript"}
    header = {"wrapper": 2, "sha256": hashlib.sha256(wrapped).hexdigest()}
    (folder / "source").write_bytes(source)
    (folder / "meta.json").write_bytes(seal(meta))
    (folder / "wrapped").write_bytes(seal(header) + b"\n" + wrapped)
    for path in (folder, folder.parent):
        path.chmod(0o700)
    return hash


def check(state: Path, *, facts: bool = True) -> None:
    """Open the store, and compare it with `expected.json`. `facts` tells whether SQLite existed at the migration."""
    with reopened(state) as store:
        assert {row.fact.hash for row in store.list(100, None).rows} >= set(PROGRAMS)
        for hash, program in PROGRAMS.items():
            _check_program(store, hash, program, facts=facts)
        with pytest.raises(Damaged):
            store.load(hash_of("bad source"))
        for gone in (EXPECTED["removed"], EXPECTED["set_aside"], hash_of("bad source")):
            with pytest.raises(NotFound):
                store.load(gone)
        aside = {path.name.split("-")[0] for path in (state / "damaged").iterdir()}
        assert aside == {EXPECTED["set_aside"], hash_of("bad source")}


def _check_program(store: Store, hash: str, program: dict[str, Any], *, facts: bool) -> None:
    shown = store.show(hash)
    fact, names, history = shown.fact, shown.names, shown.history
    assert (fact.engine, fact.language) == (program["engine"], program["language"])
    if facts or program["what"] != "bad metadata":
        assert (fact.created_at, fact.created_by) == (program["created_at"], program["uid"])
    if facts:
        assert (fact.runs, fact.last_run_at) == (program["runs"], program["last_run_at"])
    assert fact.size == len(program["source"].encode())
    assert names == program["names"]
    assert history == {name: [Move(name=name, **move) for move in moves] for name, moves in program["history"].items()}
    assert all(store.resolve(f"@{name}") == hash for name in names)
    if program["what"] != "bad source":
        loaded = store.load(hash)
        assert (loaded.source.decode(), loaded.hash) == (program["source"], hash)
        assert (loaded.engine, loaded.language) == (program["engine"], program["language"])
