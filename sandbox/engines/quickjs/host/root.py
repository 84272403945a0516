"""Builds the root folder of a QuickJS jail: the cell, one static executable, and nothing else."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sandbox.jail.root import Root, RootError, build, copy

CELL = "/quickjs-cell"
"""Path of the cell inside the jail."""


def build_root(folder: Path) -> Root:
    """Create and fill `folder`, which must not exist, and return the root.

    Raises RootError if the cell is missing, or the disk is full.
    """
    return build(folder, _fill)


def cell() -> Path:
    """Return the path of the cell's executable. Raises RootError."""
    path = Path(str(resources.files("sandbox.engines.quickjs") / "jail/quickjs-cell"))
    if not path.is_file():
        raise RootError(f"the QuickJS cell {path}", "reinstall promptlog: see docs/building.md")
    return path


def _fill(folder: Path) -> Root:
    folder.mkdir(parents=True, mode=0o755)
    copy(cell(), folder / CELL[1:], 0o755)
    return Root(path=folder)
