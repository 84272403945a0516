"""Compiles the files of `make fuzz-cell` without linking or running them, because that would need clang."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cell_build import cache, compiler, engine_source
from tests.fuzz.cell import include_flags, target_files, write_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers that the files include."""
    folder = tmp_path_factory.mktemp("fuzz") / "engine"
    kept = cache.open_folder()
    write_engine(engine_source.find(kept) or engine_source.fetch(kept), folder)
    return folder


@pytest.mark.parametrize("path", target_files(), ids=lambda path: path.name)
def test_the_fuzz_target_compiles(engine: Path, path: Path) -> None:
    """Each file of the fuzz target compiles with the cell's current files, so it calls functions that still exist."""
    command = compiler.choose(compiler.target_architecture()).command
    flags = ("-std=gnu11", "-D_GNU_SOURCE", '-DCELL_ENGINE_BUILD="checked"', "-Wall", "-Wextra", "-Werror")
    done = subprocess.run(
        [*command, *flags, *include_flags(engine), "-fsyntax-only", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
