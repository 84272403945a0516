"""The folder that is kept between runs, because building a Debian root takes minutes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

_DIGITS = 12


def folder() -> Path:
    """Return the folder. It may be removed whenever no test runs."""
    wanted = os.environ.get("XDG_CACHE_HOME", "")
    path = (Path(wanted) if wanted.startswith("/") else Path.home() / ".cache") / "promptlog" / "deploy"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def archive(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """Return the tar file with this name and recipe. If it is not cached, `make` creates it at the given path.

    A cached tar file with the same name and another recipe is then removed.
    """
    path = folder() / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:_DIGITS]}.tar"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder()) as beside:
            made = Path(beside, "root.tar")
            make(made)
            for other in folder().glob(f"{name}-{'?' * _DIGITS}.tar"):
                other.unlink()
            made.replace(path)
    return path
