"""The format version of the state folder, in its file `format`. A folder of promptlog 0.1.0 has none: version 1."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from promptlogd.store.disk import read_file, replace_file
from promptlogd.store.errors import StoreTooNew, StoreUnsafe
from promptlogd.store.hashes import is_shelf
from promptlogd.store.seal import seal, unseal

_log = logging.getLogger(__name__)

FORMAT = 3
"""The format version that this promptlog writes."""

FORMAT_OF_METADATA = 2
"""The version since which `meta.json` has its form. Folders before it take the migration of each program."""

FORMAT_FILE = "format"
"""Name of the file in the state folder."""

_MOST_BYTES = 4 << 10
_LOCK_FILE = "lock"

_VERSION_1 = {_LOCK_FILE, "programs", "damaged", "facts.sqlite3", "names.jsonl", "reserve"}
"""Contents of a folder of promptlog 0.1.0, which has no file `format`."""

_ENOUGH = 4
"""Number of these names that identify a folder as a store."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    version: int


def refuse_strange(state_dir: Path) -> None:
    """Raise StoreUnsafe for a folder that is not empty and is not a store. Changes nothing. Raises OSError.

    A start removes and overwrites leftovers of earlier daemons by name. So it must be sure that a daemon wrote them.
    """
    try:
        names = set(os.listdir(state_dir))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        return  # see check_folder
    if not names or names == {_LOCK_FILE} or len(names & _VERSION_1) >= _ENOUGH or _has_shelves(state_dir / "programs"):
        return
    with suppress(ValueError, FileNotFoundError):
        unseal(read_file(state_dir / FORMAT_FILE, _MOST_BYTES), _Record)
        return
    raise StoreUnsafe(
        f"{state_dir} is not empty and is not a promptlog store; nothing in it was changed. "
        "Choose another folder with --state-dir"
    )


def _has_shelves(programs: Path) -> bool:
    """Whether this folder has at least one shelf, and nothing else that is not hidden."""
    try:
        shelves = [name for name in os.listdir(programs) if not name.startswith(".")]
    except OSError:
        return False
    return shelves != [] and all(is_shelf(name) for name in shelves)


def is_fresh(state_dir: Path) -> bool:
    """Whether nothing was stored in this folder yet. Raises OSError."""
    return set(os.listdir(state_dir)) == {_LOCK_FILE}


def read_format(state_dir: Path) -> int:
    """Return the version of this folder, at most FORMAT. Raises StoreTooNew, OSError.

    Without the file, or if it is damaged, this is 1: the migration examines each program, and skips newer ones.
    """
    path = state_dir / FORMAT_FILE
    try:
        version = unseal(read_file(path, _MOST_BYTES), _Record).version
        if version < 1:
            raise ValueError(f"there is no version {version}")
    except FileNotFoundError:
        return 1
    except ValueError as error:
        _log.error("%s is damaged (%s): each program is examined, and the file is written again", path, error)
        return 1
    if version > FORMAT:
        raise StoreTooNew(str(state_dir), version, FORMAT)
    return version


def write_format(state_dir: Path) -> None:
    """Record durably that the folder has version FORMAT. Raises OSError."""
    replace_file(state_dir / FORMAT_FILE, seal(_Record(version=FORMAT)))
