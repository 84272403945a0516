"""Collects the wheels that a root installs without a network: promptlog's own, built here, and its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.root import cache_folder

_REPOSITORY = Path(__file__).parents[2]
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_PIP_S = 600


def collect(python: str, folder: Path) -> None:
    """Put all wheels for this version of Python into a folder. Third-party wheels are cached between runs."""
    own = folder / "own"
    own.mkdir(parents=True)
    subprocess.run([*_PIP, "wheel", "--no-deps", f"--wheel-dir={own}", str(_REPOSITORY)], check=True, timeout=_PIP_S)
    (wheel,) = own.iterdir()
    kept = cache_folder() / f"wheels-{python}"
    command = [*_PIP, "download", "--only-binary=:all:", f"--python-version={python}", f"--dest={kept}"]
    command += [f"--find-links={kept}", f"{wheel}[deno,http,metrics]", "pytest>=8.3"]
    subprocess.run(command, check=True, timeout=_PIP_S)
    for other in kept.glob("promptlog-*"):
        other.unlink()
    for each in kept.iterdir():
        shutil.copy(each, folder)
    shutil.move(wheel, folder)
    own.rmdir()
