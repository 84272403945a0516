"""Collects the wheels that a root installs without a network: promptlog's own, built here, and its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy import cache

REQUIREMENT = "promptlog[deno,http,metrics]"
_REPOSITORY = Path(__file__).parents[2]
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_PIP_S = 600


def build(folder: Path) -> Path:
    """Build promptlog's wheel in a folder, and return its path. It fits all versions of Python."""
    subprocess.run([*_PIP, "wheel", "--no-deps", f"--wheel-dir={folder}", str(_REPOSITORY)], check=True, timeout=_PIP_S)
    (wheel,) = folder.glob("promptlog-*.whl")
    return wheel


def collect(python: str, own: Path, folder: Path) -> list[Path]:
    """Put promptlog's wheel, and those it needs in this version of Python, into a folder. Return their paths.

    pip looks for new versions. Those that were downloaded earlier are cached.
    """
    kept = cache.folder() / f"wheels-{python}"
    command = [*_PIP, "download", "--only-binary=:all:", f"--python-version={python}", f"--dest={folder}"]
    command += [f"--find-links={kept}", f"{REQUIREMENT} @ {own.as_uri()}", "pytest>=8.3"]
    subprocess.run(command, check=True, timeout=_PIP_S)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("promptlog-*"))
    return sorted(folder.iterdir())
