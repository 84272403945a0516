"""The content-addressed store of programs and their metadata."""

from promptlogd.store.errors import (
    Ambiguous,
    BadReference,
    Damaged,
    KeptForAnother,
    NameTaken,
    NotFound,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreTooNew,
    StoreUnsafe,
    TooManyNames,
    Unstorable,
)
from promptlogd.store.hashes import is_hash
from promptlogd.store.overview import MOST_NAMES_SHOWN
from promptlogd.store.records import Staged, Submission
from promptlogd.store.store import Store

__all__ = [
    "MOST_NAMES_SHOWN",
    "Ambiguous",
    "BadReference",
    "Damaged",
    "KeptForAnother",
    "NameTaken",
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
    "is_hash",
]
