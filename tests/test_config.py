"""The configuration: bounds, and errors that say what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from promptlogd.config import Config, ConfigError, LimitsError, load
from promptlogd.config_reference import config_reference
from promptlogd.wire.messages import LimitsAsked
from promptlogd.wire.paths import default_paths
from sandbox.limits import MIB


def _load(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "promptlog.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    """Everything has a default."""
    assert _load(tmp_path, "") == Config()


def test_settings_are_read(tmp_path: Path) -> None:
    """Sections and nested sections reach the record."""
    config = _load(tmp_path, "[limits.default]\ncpu_ms = 20\n[pool]\ncells = 3\nisolation = 'jail'\n")
    assert config.limits_for(None).cpu_ms == 20
    assert (config.cells, config.concurrent, config.pool.isolation) == (3, 3, "jail")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sever]\n", "did you mean server"),
        ("[limits.default]\ncpu = 1", "did you mean limits.default.cpu_ms"),
        ("[pool]\nzzzzzz = 1", "known: cells"),
        ("[pool]\ncells = 0", "cells"),
        ("[pool]\ncells = 'x'", "cells"),
        ("[server]\nsocket_mode = '999'", "socket_mode"),
        ("[limits.default]\ncpu_ms = 20000", "above limits.max.cpu_ms"),
        ("[engines]\ndefault = 'v8'", "default"),
        ("pool = 3", "pool"),
        ("= nonsense", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"a" * (1 << 21), "larger"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, says: str) -> None:
    """Unknown keys, wrong types, values out of range and files that are no TOML are refused by name."""
    with pytest.raises(ConfigError, match=says):
        _load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is a ConfigError."""
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_limits_are_bounded() -> None:
    """A run may ask for less or more within the bounds, and is told the bound beyond them."""
    config = Config()
    assert config.limits_for(LimitsAsked(cpu_ms=10)).cpu_ms == 10
    with pytest.raises(LimitsError, match="10000"):
        config.limits_for(LimitsAsked(cpu_ms=10_001))
    with pytest.raises(LimitsError, match="least"):
        config.limits_for(LimitsAsked(memory_bytes=1))


def test_default_paths() -> None:
    """Root has the system's paths, others those of the XDG specification."""
    assert str(default_paths(0, {}).socket) == "/run/promptlog/promptlog.sock"
    user = default_paths(1000, {"HOME": "/h", "XDG_RUNTIME_DIR": "/r"})
    assert (str(user.socket), str(user.state_dir)) == ("/r/promptlog/promptlog.sock", "/h/.local/state/promptlog")
    assert str(default_paths(1000, {"HOME": "/h"}).socket) == "/h/.local/state/promptlog/promptlog.sock"


def test_the_reference_is_up_to_date() -> None:
    """docs/config.md is what the generator writes."""
    written = Path(__file__).parents[1] / "docs/config.md"
    assert written.read_text("utf-8") == config_reference(), "run: make docs"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nsocket_mode = 600", "server.socket_mode: expected an octal mode as a string"),
        ("[engines]\ndefault = 'v8'", "there is: 'quickjs', 'deno'"),
        ("[limits.default]\ncpu_ms = 0", "limits.default.cpu_ms: Expected"),
        (
            "[engines]\ndefault = 'deno'\n[limits.max]\nmemory_mb = 48\n[limits.default]\nmemory_mb = 48",
            "limits.max.memory_mb is 48, and deno, the default engine, needs 64",
        ),
    ],
)
def test_a_wrong_value_is_told_by_its_setting(tmp_path: Path, text: str, says: str) -> None:
    """The message names the setting as it stands in the file, and what would be right."""
    with pytest.raises(ConfigError, match=re.escape(says)):
        _load(tmp_path, text)


def test_an_engine_gets_the_memory_that_it_needs(tmp_path: Path) -> None:
    """A default that is less than an engine can start with is raised for that engine, up to the maximum alone."""
    small = _load(tmp_path, "[limits.default]\nmemory_mb = 32")
    assert small.limits_for(None).memory_bytes == 32 * MIB
    for asked in (None, LimitsAsked(), LimitsAsked(cpu_ms=10)):
        assert small.limits_for(asked, "deno").memory_bytes == 64 * MIB
    with pytest.raises(LimitsError, match="least it may be on deno"):
        small.limits_for(LimitsAsked(memory_bytes=32 * MIB), "deno")
    none = _load(tmp_path, "[limits.default]\nmemory_mb = 32\n[limits.max]\nmemory_mb = 48")
    for nothing in (None, LimitsAsked()):
        with pytest.raises(LimitsError, match="least it may be on deno"):
            none.limits_for(nothing, "deno")


def test_wall_time_follows_cpu_time() -> None:
    """A run that asks for more CPU than the default wall time gets twice that, within the maximum."""
    config = Config()
    assert config.limits_for(LimitsAsked(cpu_ms=100)).wall_ms == 1000
    assert config.limits_for(LimitsAsked(cpu_ms=5000)).wall_ms == 10_000
    assert config.limits_for(LimitsAsked(cpu_ms=5000, wall_ms=100)).wall_ms == 100
