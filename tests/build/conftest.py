"""Test builds use their own cache, and ignore the user's environment variables."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cell_build import cache, compiler, engine_source


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the test's builds."""
    for name in (engine_source.SOURCE_VARIABLE, compiler.COMPILER_VARIABLE, compiler.ARCHITECTURE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a build without a cache uses this until the process ends
    return cache.open_folder()


@pytest.fixture
def host_compiler(cache_folder: Path) -> compiler.Compiler:
    """The C compiler of this machine."""
    chosen = compiler.choose(compiler.target_architecture())
    if chosen.is_zig:
        pytest.skip("this machine has no C compiler that makes static-pie programs")
    return chosen
