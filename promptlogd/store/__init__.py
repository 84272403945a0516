"""The content-addressed store of programs and their metadata."""

from promptlogd.store.errors import (
    Ambiguous,
    BackupStopped,
    BadReference,
    Damaged,
    KeptForAnother,
    NameTaken,
    NotFound,
    NotYours,
    OverQuota,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreOverQuota,
    StoreTooNew,
    StoreUnsafe,
    TooManyHolders,
    TooManyNames,
    Unstorable,
    UnusableFolder,
)
from promptlogd.store.hashes import is_hash
from promptlogd.store.holders import MANAGER, Holder, Viewer, Visibility
from promptlogd.store.lookups import Fact
from promptlogd.store.names import Labeller
from promptlogd.store.overview import MOST_NAMES_SHOWN
from promptlogd.store.records import BackedUp, HolderQuota, Kept, Staged, Submission
from promptlogd.store.store import Store

__all__ = [
    "MANAGER",
    "MOST_NAMES_SHOWN",
    "Ambiguous",
    "BackedUp",
    "BackupStopped",
    "BadReference",
    "Damaged",
    "Fact",
    "Holder",
    "HolderQuota",
    "Kept",
    "KeptForAnother",
    "Labeller",
    "NameTaken",
    "NotFound",
    "NotYours",
    "OverQuota",
    "Staged",
    "Store",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreOverQuota",
    "StoreTooNew",
    "StoreUnsafe",
    "Submission",
    "TooManyHolders",
    "TooManyNames",
    "Unstorable",
    "UnusableFolder",
    "Viewer",
    "Visibility",
    "is_hash",
]
