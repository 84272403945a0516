"""A store that a test opens again, to see what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogd.store import Store


@contextmanager
def reopened(state: Path) -> Iterator[Store]:
    """Open the store in this folder, and close it at the end."""
    store = Store.open(state)
    try:
        yield store
    finally:
        store.close()
