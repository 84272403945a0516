"""Collects the wheels that a root installs without a network: promptlog's own, built here, and its dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy import cache
from tests.deploy.architecture import Architecture

REQUIREMENT = "promptlog[deno,http,metrics]"
_REPOSITORY = Path(__file__).parents[2]
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_PIP_S = 600
_GLIBC = range(17, 37)
"""The minor versions of glibc 2 whose wheels run in each root. Debian 12 has 2.36."""


def build(folder: Path, foreign: Architecture | None) -> Path:
    """Build promptlog's wheel in a folder, and return its path. It fits all versions of Python."""
    chosen = {} if foreign is None else {"PROMPTLOG_ARCH": foreign.machine, "PROMPTLOG_COMPILER": "zig"}
    command = [*_PIP, "wheel", "--no-deps", f"--wheel-dir={folder}", str(_REPOSITORY)]
    subprocess.run(command, check=True, timeout=_PIP_S, env={**os.environ, **chosen})
    (wheel,) = folder.glob("promptlog-*.whl")
    return wheel


def collect(
    python: str, foreign: Architecture | None, own: Path, test_requirements: tuple[str, ...], folder: Path
) -> list[Path]:
    """Put promptlog's wheel, and those that it and its tests need in this version of Python, into a folder.

    Returns their paths. pip looks for new versions. Those that were downloaded earlier are cached.
    """
    kept = cache.folder() / (f"wheels-{python}" + ("" if foreign is None else f"-{foreign.debian}"))
    command = [*_PIP, "download", "--only-binary=:all:", f"--python-version={python}", f"--dest={folder}"]
    if foreign is not None:
        command += [f"--platform=manylinux_2_{minor}_{foreign.machine}" for minor in _GLIBC]
        command += [f"--platform=manylinux2014_{foreign.machine}"]
    command += [f"--find-links={kept}", f"{REQUIREMENT} @ {own.as_uri()}", *test_requirements]
    subprocess.run(command, check=True, timeout=_PIP_S)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("promptlog-*"))
    return sorted(folder.iterdir())
