"""Reads the configuration: one file, and the files in a drop-in folder beside it, which override it."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from promptlogd.access import Access, access_of
from promptlogd.config import Config, ConfigError, checked, converted, front_uids

MAX_FILE_BYTES = 1 << 20
_MOST_FILES = 100
"""In a drop-in folder."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and where it came from."""

    config: Config
    files: list[str] = []
    """All that were read, in this order."""
    sources: dict[str, str] = {}
    """Setting -> the last file that has it. The others have their defaults."""
    fronts: frozenset[int] = frozenset()
    """The uids of `server.fronts`: looked up here, since that may wait for another host."""
    access: Access
    """Rights and quotas, looked up here as well."""


def load(path: Path) -> Config:
    """Read a configuration. Raises ConfigError that names file, setting, and what would be right."""
    return load_files(path).config


def load_files(path: Path) -> Loaded:
    """Read a file, then each file `*.toml` in the folder `path`.d by name: the last one that has a setting decides.

    Raises ConfigError that names file, setting, and what would be right.
    """
    folder = Path(f"{path}.d")
    files = [path, *_drop_ins(folder)]
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for file in files:
        table = _read(file)
        converted(table, str(file))  # so that an error names the file that has it
        _merge(merged, table, "", _shown(file), sources)
    where = str(path) if len(files) == 1 else f"{path} with {folder}"
    config = checked(merged, where)
    try:
        fronts = front_uids(config.server)
    except KeyError as error:
        raise ConfigError(
            f"{where}: server.fronts: there is no user {error.args[0]!r}; make it, or give a uid"
        ) from None
    return Loaded(
        config=config, files=list(map(_shown, files)), sources=sources, fronts=fronts, access=access_of(config, where)
    )


def _shown(file: Path) -> str:
    """Return a path as text for clients, also if it is not UTF-8."""
    return os.fsencode(file).decode("utf-8", "replace")


def _drop_ins(folder: Path) -> list[Path]:
    try:
        found = sorted(
            file for file in folder.iterdir() if file.name.endswith(".toml") and not file.name.startswith(".")
        )
    except FileNotFoundError:
        if os.path.islink(folder):  # to a folder that is gone, or not mounted: its settings would be missing
            raise ConfigError(f"{folder} is a symbolic link to a folder that does not exist") from None
        return []
    except OSError as error:
        raise ConfigError(f"can't read the folder {folder}: {error.strerror}") from error
    if len(found) > _MOST_FILES:
        raise ConfigError(f"{folder} has {len(found)} files; the most is {_MOST_FILES}")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a FIFO must not block
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"the configuration {path} is not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes: that is no configuration")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number with too many digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _merge(merged: dict[str, Any], table: dict[str, Any], place: str, file: str, sources: dict[str, str]) -> None:
    """Override earlier settings with those of a file. The file was checked, so its tables are sections."""
    for key, value in table.items():
        if isinstance(value, dict):
            _merge(merged.setdefault(key, {}), value, f"{place}{key}.", file, sources)
        else:
            merged[key] = value
            sources[f"{place}{key}"] = file
