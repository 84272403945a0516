"""Build the root folder of a QuickJS jail: the cell, one static binary, and nothing else."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sandbox.jail.root import Root, RootError, build, copy

CELL = "/quickjs-cell"
"""The cell, inside the jail."""


def build_root(folder: Path) -> Root:
    """Fill `folder`, which must not exist, and return what was made.

    Raises RootError if the cell is not where it should be, or the disk is full.
    """
    return build(folder, _fill)


def cell() -> Path:
    """Return the cell's binary. Raises RootError."""
    path = Path(str(resources.files("sandbox.engines.quickjs") / "jail/quickjs-cell"))
    if not path.is_file():
        raise RootError(f"the QuickJS cell {path}", "install promptlog again: docs/building.md has the ways")
    return path


def _fill(folder: Path) -> Root:
    folder.mkdir(parents=True, mode=0o755)
    copy(cell(), folder / CELL[1:], 0o755)
    return Root(path=folder)
