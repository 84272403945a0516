"""Opens a store again, to check what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogd.store import Store


@contextmanager
def reopened(state: Path) -> Iterator[Store]:
    """Open the store in this folder, and close it when the block ends."""
    store = Store.open(state)
    try:
        yield store
    finally:
        store.close()
