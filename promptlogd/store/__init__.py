"""The content-addressed store of programs and their metadata."""

from promptlogd.store.errors import (
    Ambiguous,
    BackupStopped,
    BadReference,
    Damaged,
    KeptForAnother,
    NameTaken,
    NotFound,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreOverQuota,
    StoreTooNew,
    StoreUnsafe,
    TooManyNames,
    Unstorable,
    UnusableFolder,
)
from promptlogd.store.hashes import is_hash
from promptlogd.store.lookups import Fact
from promptlogd.store.overview import MOST_NAMES_SHOWN
from promptlogd.store.records import BackedUp, Kept, Staged, Submission
from promptlogd.store.store import Store

__all__ = [
    "MOST_NAMES_SHOWN",
    "Ambiguous",
    "BackedUp",
    "BackupStopped",
    "BadReference",
    "Damaged",
    "Fact",
    "Kept",
    "KeptForAnother",
    "NameTaken",
    "NotFound",
    "Staged",
    "Store",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreOverQuota",
    "StoreTooNew",
    "StoreUnsafe",
    "Submission",
    "TooManyNames",
    "Unstorable",
    "UnusableFolder",
    "is_hash",
]
