"""Installs promptlog in a root of each Debian release that is named, boots it, and tests it from inside.

A `Machine` describes what depends on how the root is booted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deb_build import __main__ as deb_build
from deb_build.release import RELEASES
from tests.deploy import cache, job, root, wheels
from tests.deploy.architecture import Architecture

_REPOSITORY = Path(__file__).parents[2]
FILES = (
    *(f"tests/deploy/{name}.py" for name in ("__init__", "inside", "inside_deb", "emulated")),
    "tests/__init__.py",
    "container/seccomp.json",
    "docs/operations",
)
"""Files and folders of this checkout that the tests of the service need."""

_SCRIPT = """\
export CHECKS_COMMAND_S={command_s:.0f} PYTHONPATH=/checks
cd /checks
check() {{
    python="$1"
    shift
    timeout --signal=INT {pytest_s:.0f} "$python" -m pytest -p no:cacheprovider --durations=10 --verbose --color=no \\
        {options} "$@"
}}
{script}"""


class Boot(Protocol):
    """Boots a root, runs a shell script in it, prints the script's output as it comes, and returns its exit code.

    The root has the folder /shared already. Files of the machine are made in `folder`: `console` and, after the end of
    the script, `journal`. Raises TimeoutError after `seconds`, and RuntimeError if the machine ends before the script.
    """

    def __call__(self, root: Path, folder: Path, script: str, *, seconds: float) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of machine, and what is tested in it."""

    name: str
    boot: Boot
    boot_s: float
    """Part of the machine's time limit that is reserved for the boot. pytest has the rest of it. If that ends, pytest
    prints the failures so far."""

    command_s: float
    """Time limit of a command that a test runs."""

    script: str
    """Shell commands. `check PYTHON FILE...` runs the tests of these files."""

    root_packages: tuple[str, ...]
    foreign: Architecture | None = None
    """The machine type, if it is not this host's."""

    test_requirements: tuple[str, ...] = ("pytest>=8.3",)
    """Python packages that the tests need."""

    files: tuple[str, ...] = FILES
    """Files and folders of this checkout that the tests need. They are in the folder /checks of the machine."""

    prepare: Callable[[Path], None] | None = None
    """Makes further files in the folder that becomes /checks."""

    needs_deb: bool
    """Whether the tests install promptlog's Debian package, too."""

    tools: tuple[str, ...]
    """Commands that must be on this host."""

    tools_from: str
    """The Debian packages that contain these commands."""


def main(machine: Machine) -> int:
    """Test each release that the command line names. Return 0 if all tests pass."""
    parser = argparse.ArgumentParser()
    parser.add_argument("releases", nargs="+", choices=sorted(RELEASES), metavar="RELEASE")
    parser.add_argument("--options", default="", help="further options of pytest in the machine")
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit of each machine")
    arguments = parser.parse_args()
    missing = [tool for tool in machine.tools if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"this requires root, and {', '.join(machine.tools)}: apt-get install {machine.tools_from}")
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # with the clean-up below
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache.folder()) as name:
        with _step("promptlog's wheel"):
            wheel = wheels.build(Path(name), machine.foreign)
        return max(_check(machine, release, wheel, arguments) for release in arguments.releases)


def _check(machine: Machine, release: str, wheel: Path, arguments: argparse.Namespace) -> int:
    """Build, boot and test one release, and return the exit code of its script."""
    script = _SCRIPT.format(
        command_s=machine.command_s,
        pytest_s=max(1.0, arguments.seconds - machine.boot_s),
        options=arguments.options,
        script=machine.script,
    )
    folder = wheel.parent / release
    folder.mkdir()
    with _step(f"{release}: all"):
        _prepare(machine, release, wheel, folder)
        try:
            with _step(f"{release}: the machine"):
                code = machine.boot(folder / "root", folder, script, seconds=arguments.seconds)
        except TimeoutError:
            print(job.tail(folder / "console"), flush=True)
            raise
        finally:
            for log in ("console", "journal"):  # of the last run, to look at after a failure
                if (folder / log).exists():
                    shutil.copy(folder / log, cache.folder() / f"{release}-{machine.name}-{log}.txt")
            shutil.rmtree(folder)
    print(f"--- {release}: exit code {code}", flush=True)
    return code


def _prepare(machine: Machine, release: str, wheel: Path, folder: Path) -> None:
    """Make folder/root, with promptlog and its tests."""
    target = folder / "root"
    with _step(f"{release}: the wheels"):
        python = RELEASES[release].python
        found = wheels.collect(python, machine.foreign, wheel, machine.test_requirements, folder / "wheels")
    with _step(f"{release}: the root"):
        recipe = root.Recipe(
            name=machine.name,
            release=release,
            packages=machine.root_packages,
            test_requirements=machine.test_requirements,
            foreign=machine.foreign,
        )
        root.make(target, recipe, found)
    if machine.needs_deb:
        with _step(f"{release}: the Debian package"):
            deb_build.build(release, folder, folder / "wheels").rename(target / "shared/promptlog.deb")
    checks = target / "checks"
    for name in machine.files:
        source, copied = _REPOSITORY / name, checks / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copied)
    if machine.prepare is not None:
        machine.prepare(checks)


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Print how long the block took."""
    began = time.monotonic()
    try:
        yield
    finally:
        print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
