"""The hash-addressed store of programs, and what is known of each."""

from promptlogd.store.errors import (
    Ambiguous,
    BadReference,
    Damaged,
    KeptForAnother,
    NotFound,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnsafe,
)
from promptlogd.store.records import Program, Staged, Submission
from promptlogd.store.store import Store

__all__ = [
    "Ambiguous",
    "BadReference",
    "Damaged",
    "KeptForAnother",
    "NotFound",
    "Program",
    "Staged",
    "Store",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreUnsafe",
    "Submission",
]
