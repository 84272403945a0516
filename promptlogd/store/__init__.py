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
    StoreTooNew,
    StoreUnsafe,
    TooManyNames,
    Unstorable,
)
from promptlogd.store.records import Staged, Submission
from promptlogd.store.store import Store

__all__ = [
    "Ambiguous",
    "BadReference",
    "Damaged",
    "KeptForAnother",
    "NotFound",
    "Staged",
    "Store",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreTooNew",
    "StoreUnsafe",
    "Submission",
    "TooManyNames",
    "Unstorable",
]
