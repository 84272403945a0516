"""The key of the state folder, which seals artifacts. It never leaves the folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from promptlogd.store.disk import read_file, replace_file
from promptlogd.store.seal import seal, unseal

_log = logging.getLogger(__name__)

KEY_FILE = "key"
"""Name of the file in the state folder."""

_KEY_BYTES = 32
_MOST_BYTES = 4 << 10


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: bytes
    """Base64 in JSON."""


class Key:
    """Owns `key` in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._key = b""

    @property
    def value(self) -> bytes:
        """The key. Call `prepare` first."""
        return self._key

    def prepare(self) -> None:
        """Read the key, or create a new one if it is missing or damaged. Raises OSError.

        With a new key, no artifact verifies. Each is made again at the next run of its program.
        """
        path = self._folder / KEY_FILE
        try:
            key = unseal(read_file(path, _MOST_BYTES), _Record).key
            if len(key) != _KEY_BYTES:
                raise ValueError(f"it has {len(key)} bytes")
        except FileNotFoundError:
            key = self._make()
        except ValueError as error:
            _log.error("%s is damaged (%s): a new key is created, and artifacts are made again", path, error)
            key = self._make()
        self._key = key

    def _make(self) -> bytes:
        key = os.urandom(_KEY_BYTES)
        replace_file(self._folder / KEY_FILE, seal(_Record(key=key)))
        return key
