"""The settings in force: what a reload changes, what it leaves, and the source of each value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from promptlogd.config import Config, ConfigError
from promptlogd.settings import Settings, flat, is_reloaded


def _described(settings: Settings) -> dict[str, tuple[Any, str, Any]]:
    return {name: (value, source, pending) for name, value, source, pending in settings.describe()}


def _reload(settings: Settings) -> tuple[list[str], list[str]]:
    loaded = settings.read_again()
    assert loaded is not None
    done = settings.adopt(loaded)
    return done.changed, done.pending


def test_the_settings_that_a_reload_changes(tmp_path: Path) -> None:
    """Limits change, memory and cells wait for a restart, and the source of each value is reported."""
    path = tmp_path / "promptlog.toml"
    path.write_text("[limits.default]\ncpu_ms = 20\nmemory_mb = 64\n")
    settings = Settings.read(path)
    settings.override("server.socket", "/s", "--socket")
    seen: list[Config] = []
    settings.on_change(seen.append)
    path.write_text("[limits.default]\ncpu_ms = 30\nmemory_mb = 96\n[pool]\ncells = 3\n")
    assert _reload(settings) == (["limits.default.cpu_ms"], ["limits.default.memory_mb", "pool.cells"])
    assert seen == [settings.config]
    default = settings.config.limits.default
    assert (default.cpu_ms, default.memory_mb, settings.config.pool.cells) == (30, 64, None)
    described = _described(settings)
    assert described["limits.default.cpu_ms"] == (30, str(path), None)
    assert described["limits.default.memory_mb"] == (64, str(path), 96)
    assert described["pool.cells"] == (None, "default", 3)
    assert described["server.socket"] == ("/s", "--socket", None)
    assert described["limits.max.cpu_ms"] == (10_000, "default", None)
    path.write_text("")
    assert _reload(settings) == (["limits.default.cpu_ms"], ["limits.default.memory_mb"])
    assert settings.config.limits.default.cpu_ms == 50
    assert _reload(settings) == ([], ["limits.default.memory_mb"])
    assert len(seen) == 2


def test_an_invalid_file_changes_nothing(tmp_path: Path) -> None:
    """An error is raised before any setting is changed."""
    path = tmp_path / "promptlog.toml"
    path.write_text("[limits.default]\ncpu_ms = 20\n")
    settings = Settings.read(path)
    path.write_text("[limits.default]\ncpu_ms = 30\nwall = 1\n")
    with pytest.raises(ConfigError, match=re.escape("did you mean limits.default.wall_ms?")):
        settings.read_again()
    assert settings.config.limits.default.cpu_ms == 20
    assert Settings.read(None).read_again() is None


def test_the_reloaded_settings_exist() -> None:
    """Each setting that a reload changes exists, and none is about memory, cells or files."""
    names = [name for name, _ in flat(Config())]
    assert len([name for name in names if is_reloaded(name)]) == 54
    for fixed in ("limits.max.memory_mb", "pool.cells", "server.socket", "server.state_dir", "engines.disabled"):
        assert fixed in names
        assert not is_reloaded(fixed)
