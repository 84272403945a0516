"""Builds root folders of jails: functions that all engines use.

A root is created again at each start of the daemon, so it is never stale. It is mounted read-only as `/` of every jail.
Nothing here starts a jail. The only program that is executed here is the dynamic loader, to list libraries (ld.so(8),
`--list`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

LIBRARIES = "/lib"
"""Folder of a jail's shared libraries."""


class RootError(Exception):
    """The root of a jail cannot be built on this host."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"can't build the jail's root: {what}: {why}")
        self.what = what
        self.why = why


class EngineMissing(RootError):
    """The engine is not installed. `why` has the command that installs it."""


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A finished root folder."""

    path: Path


def build(folder: Path, fill: Callable[[Path], Root]) -> Root:
    """Create and fill `folder`, which must not exist, and return the root. After an error, the folder is removed.

    Raises RootError.
    """
    try:
        root = fill(folder)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RootError(getattr(error, "filename", None) or str(folder), str(error)) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return root


def find_loader(executable: Path) -> str:
    """Return the path of the dynamic loader of an executable. Raises RootError for a static one."""
    for line in _list([str(executable)], {"LD_TRACE_LOADED_OBJECTS": "1"}):
        path = line.split()[0]
        if path.startswith("/") and "ld-" in path:
            return path
    raise RootError(str(executable), "its dynamic loader is unknown; a static Python is not supported")


def copy_libraries(loader: str, binary: Path, folder: Path) -> None:
    """Copy the libraries that the loader lists for a binary into a root. Raises RootError, OSError."""
    for soname, path in _libraries(loader, binary).items():
        copy(path, folder / LIBRARIES[1:] / soname, 0o755)


def _libraries(loader: str, binary: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for line in _list([loader, "--list", str(binary)], {}):
        soname, arrow, rest = line.partition(" => ")
        if not arrow:
            continue
        if rest.startswith("not found"):
            raise RootError(str(binary), f"its library {soname} is missing")
        path = Path(rest.rsplit(" (", 1)[0])
        if str(path) != loader:
            found[Path(soname).name] = path
    return found


def _list(command: list[str], environment: dict[str, str]) -> list[str]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False, cwd="/")
    if done.returncode != 0:
        raise RootError(command[-1], f"the dynamic loader says: {done.stderr.strip()[:500]}")
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def copy(source: Path, target: Path, mode: int) -> None:
    """Copy a file into a root, unless it exists."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)


def write(target: Path, data: bytes) -> None:
    """Write a file that all users can read."""
    target.write_bytes(data)
    target.chmod(0o644)
