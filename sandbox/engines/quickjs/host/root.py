"""Build the root folder of a QuickJS jail: the cell, one static binary, the scripts that it evaluates, its filter."""

from __future__ import annotations

import platform
from importlib import resources
from pathlib import Path
from typing import get_args

from sandbox.engines.quickjs.host import filter as second_filter
from sandbox.engines.quickjs.host.scripts import PLATFORM
from sandbox.jail.root import Root, RootError, build, copy, write

CELL = "/quickjs-cell"
"""The cell, inside the jail."""


def machine() -> second_filter.Machine:
    """Return this host's machine. Raises RootError for one that has no second filter."""
    name = platform.machine()
    for known in get_args(second_filter.Machine):
        if name == known:
            return name  # type: ignore[return-value]  # narrowed by the comparison just above
    raise RootError(name, f"only {' and '.join(get_args(second_filter.Machine))} are supported")


def build_root(folder: Path) -> Root:
    """Fill `folder`, which must not exist, and return what was made.

    Raises RootError if the cell is not where it should be, or the disk is full.
    """
    return build(folder, _fill)


def cell() -> Path:
    """Return the cell's binary. Raises RootError."""
    path = Path(str(resources.files("sandbox.engines.quickjs") / "jail/quickjs-cell"))
    if not path.is_file():
        raise RootError(f"the QuickJS cell {path}", "reinstall it with: pip install --force-reinstall promptlog")
    return path


def _fill(folder: Path) -> Root:
    folder.mkdir(parents=True, mode=0o755)
    copy(cell(), folder / CELL[1:], 0o755)
    engines = resources.files("sandbox.engines")
    jail = engines / "quickjs/jail"
    platform_scripts = [jail / f"{name}.js" for name in PLATFORM]
    prelude = [*platform_scripts, engines / "jail/contract.js", jail / "prelude.js"]
    write(folder / "prelude.js", b"".join(script.read_bytes() for script in prelude))
    write(folder / "builtins.js", (jail / "builtins.js").read_bytes())
    write(folder / "filter.bpf", second_filter.assemble(machine()))
    return Root(path=folder)
