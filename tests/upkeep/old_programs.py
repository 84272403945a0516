"""Creates state folders with programs that were submitted long ago."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from promptlogd.store import Store
from tests.store.programs import submit

DAY_S = 86400.0


def put_old(state: Path, sources: Sequence[bytes], *, days: float, name: str | None = None, uid: int = 7) -> list[str]:
    """Store programs with times this many days ago, a second apart, name the last one, and return their hashes."""
    store = Store.open(state)
    try:
        hashes = []
        for number, source in enumerate(sources):
            at = time.time() - days * DAY_S + number
            with mock.patch("time.time", return_value=at):
                last = number == len(sources) - 1
                hashes.append(submit(store, source, name=name if last else None, uid=uid)[0])
        return hashes
    finally:
        store.close()
