"""A state folder of format version 2, which was before holders of programs and owners of names.

`state.tar.gz` is the folder without its reserve, `expected.json` what its daemon said of its programs. In it are
programs of three users, one of them of a tenant, names that moved and moved back, and counts of runs.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from promptlogd.store import Store
from promptlogd.store.holders import Holder

_FOLDER = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((_FOLDER / "expected.json").read_text("utf-8"))
_TENANTS = {9: "acme"}


def extract(folder: Path) -> Path:
    """Return a fresh copy of the state folder, made in this folder."""
    with tarfile.open(_FOLDER / "state.tar.gz") as tar:
        tar.extractall(folder, filter="tar")
    return folder / "state"


def check(store: Store, *, facts: bool = True) -> None:
    """Compare the store with what its daemon of version 2 said. `facts`: whether SQLite was there at the migration."""
    assert {row.fact.hash for row in store.list(100, None).rows} == EXPECTED.keys()
    for hash, program in EXPECTED.items():
        shown = store.show(hash)
        assert store.load(hash).source.decode() == program["source"]
        fact = shown.fact
        assert (fact.created_by, fact.created_at, fact.engine) == (
            program["uid"],
            program["created_at"],
            program["engine"],
        )
        assert fact.runs == (program["runs"] if facts else 0)
        assert shown.names == program["names"]
        history = {name: [[move.hash, move.at, move.back] for move in moves] for name, moves in shown.history.items()}
        assert history == program["history"]
        uid = program["uid"]
        assert shown.holders == [Holder(uid=uid, tenant=_TENANTS.get(uid), visibility="all", at=program["created_at"])]
