"""The configuration in force. It is read at the start, and again on SIGHUP. Some settings change only at a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from promptlogd.access import Access, access_of
from promptlogd.config import Config, Quota, RightsSettings, front_uids
from promptlogd.config_files import Loaded, load_files

_RELOADED = {
    *("server.max_pipelined", "server.stall_s", "server.drain_s", "server.fronts"),
    "log.format",
    *("scheduler.queue", "scheduler.queue_mb", "scheduler.wait_s"),
    *("limits.source_kb", "limits.prompt_kb", "limits.env_kb", "limits.check_cpu_ms"),
    *(
        f"limits.{whose}.{what}"
        for whose in ("default", "max")
        for what in ("cpu_ms", "wall_ms", "result_kb", "log_kb")
    ),
    *(f"rights.{right}" for right in RightsSettings.__struct_fields__),
    *(f"quotas.{whose}.{what}" for whose in ("user", "tenant") for what in Quota.__struct_fields__),
    *("quotas.rules", "store.visibility"),
}
"""Settings that a reload changes. The others are built into what runs: sockets, cgroups, cells with their memory."""


def is_reloaded(setting: str) -> bool:
    """Whether a reload changes this setting."""
    return setting in _RELOADED


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of a reload: settings that changed, and settings whose new value requires a restart."""

    changed: list[str]
    pending: list[str]


class Settings:
    """The configuration in force."""

    def __init__(self, config: Config, *, path: Path | None = None, loaded: Loaded | None = None) -> None:
        """`path`: of the file that a reload reads. `loaded`: what was read of it at the start."""
        self.config = config
        self._path = path
        self._loaded = loaded or Loaded(config=config, fronts=front_uids(config.server), access=access_of(config))
        self._sources = self._loaded.sources
        """Of the values that the daemon was started with."""
        self._overridden: dict[str, tuple[str, str]] = {}
        self._on_change: list[Callable[[Config], None]] = []
        self._on_adopted: list[Callable[[], None]] = []

    @classmethod
    def read(cls, path: Path | None) -> Settings:
        """Read a configuration, or take the defaults. Raises ConfigError."""
        if path is None:
            return cls(Config())
        loaded = load_files(path)
        return cls(loaded.config, path=path, loaded=loaded)

    @property
    def fronts(self) -> frozenset[int]:
        """Uids that may name tenants."""
        return self._loaded.fronts

    @property
    def access(self) -> Access:
        """Rights and quotas in force."""
        return self._loaded.access

    @property
    def files(self) -> list[str]:
        """The files that were read last."""
        return self._loaded.files

    def override(self, setting: str, value: str, source: str) -> None:
        """Note a value that does not come from a file, such as a path, which need not be UTF-8."""
        self._overridden[setting] = (os.fsencode(value).decode("utf-8", "replace"), source)

    def on_change(self, call: Callable[[Config], None]) -> None:
        """Call this function with the new configuration after each reload that changed something."""
        self._on_change.append(call)

    def on_adopted(self, call: Callable[[], None]) -> None:
        """Call this function after each reload."""
        self._on_adopted.append(call)

    def read_again(self) -> Loaded | None:
        """Read the files again, and change nothing. Raises ConfigError. Waits for the disk; thread-safe."""
        return None if self._path is None else load_files(self._path)

    def adopt(self, loaded: Loaded) -> Reloaded:
        """Apply the settings that were read, except those that require a restart."""
        now, wanted = dict(flat(self.config)), dict(flat(loaded.config))
        differing = [setting for setting, value in wanted.items() if value != now[setting]]
        changed = [setting for setting in differing if is_reloaded(setting)]
        config = self.config
        for setting in changed:
            config = _replaced(config, setting.split("."), wanted[setting])
        self._loaded = loaded
        if changed:
            self.config = config
            for call in self._on_change:
                call(config)
        for told in self._on_adopted:
            told()
        return Reloaded(changed=changed, pending=[setting for setting in differing if not is_reloaded(setting)])

    def describe(self) -> Iterator[tuple[str, Any, str, Any]]:
        """Yield each setting, its value in force, that value's origin, and the value after a restart if it differs."""
        wanted = dict(flat(self._loaded.config))
        for setting, value in flat(self.config):
            if setting in self._overridden:
                value_now, source = self._overridden[setting]
                yield setting, value_now, source, None
            elif value != wanted[setting]:
                yield setting, value, self._sources.get(setting, "default"), wanted[setting]
            else:
                yield setting, value, self._loaded.sources.get(setting, "default"), None


def flat(record: msgspec.Struct, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a record, those of its sections included: `limits.default.cpu_ms`, 50."""
    for field in record.__struct_fields__:
        value = getattr(record, field)
        if isinstance(value, msgspec.Struct):
            yield from flat(value, f"{place}{field}.")
        else:
            yield f"{place}{field}", value


def _replaced(record: Any, path: list[str], value: Any) -> Any:
    first, *rest = path
    new = _replaced(getattr(record, first), rest, value) if rest else value
    return msgspec.structs.replace(record, **{first: new})
