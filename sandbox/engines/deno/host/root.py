"""Builds the root folder of a Deno jail: Deno, its libraries and the runner, and nothing else.

A program can read every file in it, because an import needs no permission.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from sandbox.engines.deno import SPEC
from sandbox.jail.root import (
    LIBRARIES,
    EngineMissing,
    Root,
    RootError,
    build,
    copy,
    copy_libraries,
    find_loader,
    write,
)
from sandbox.trusted_path import UntrustedPath, check_trusted

DENO = "/bin/deno"
RUNNER = "/app/runner.js"
IMPORT_MAP = "/app/imports.json"


def build_root(folder: Path, deno: Path) -> Root:
    """Create and fill `folder`, which must not exist, and return the root. Takes 100 ms, or copies 100 MB.

    Raises RootError.
    """
    return build(folder, lambda folder: _fill(folder, deno))


def deno_executable() -> Path:
    """Return the Deno executable installed with promptlog. Raises EngineMissing, or RootError if others may replace it.

    The package that finds it also searches $HOME, which may be another user's, for example with sudo.
    """
    try:
        from deno import find_deno_bin

        found = Path(find_deno_bin())
        check_trusted(found)
    except (ImportError, FileNotFoundError):
        raise EngineMissing("the engine deno", f"it is not installed; run: pip install '{SPEC.requirement}'") from None
    except UntrustedPath as error:
        raise RootError("the engine deno", error.why) from error
    return found


# glibc reads this file to find the main thread's stack (pthread_getattr_np). Without it, Deno's TypeScript parser
# crashes at an `if`. The real file would reveal the address layout to a program, which can import it.
_MAPS = b"00001000-00010000 ---p 00000000 00:00 0\n00010000-ffffffffffffffff rw-p 00000000 00:00 0 [stack]\n"


def _fill(folder: Path, deno: Path) -> Root:
    for path in (folder / "bin", folder / "app", folder / LIBRARIES[1:], folder / "proc/self"):
        path.mkdir(parents=True, mode=0o755)
    target = folder / DENO[1:]
    try:
        os.link(deno, target)  # 100 MB, shared with the installation on disk and in memory
        if target.stat().st_mode & 0o005 != 0o005:
            raise PermissionError("others may not run it")
    except OSError:
        target.unlink(missing_ok=True)
        copy(deno, target, 0o755)
    loader = find_loader(deno)
    copy_libraries(loader, deno, folder)
    copy(Path(loader), folder / loader[1:], 0o755)
    # Deno needs the path of its executable, but there is no /proc in the jail.
    (folder / "proc/self/exe").symlink_to(DENO)
    write(folder / "proc/self/maps", _MAPS)
    engines = resources.files("sandbox.engines")
    modules, surplus = _of_this_deno(deno, folder)
    console, contract, inspect, formats, check, runner = (
        (engines / name).read_text("utf-8") for name in (*_SHARED, "deno/jail/check.js", "deno/jail/runner.js")
    )
    # To look for these in the jail would take a thirtieth of a start; to parse what checks a source, or what shows
    # objects in the console, a twentieth each.
    made = [
        f"const {name} = {json.dumps(value)};"
        for name, value in (("ofThisDeno", surplus), ("checkText", check), ("inspectText", inspect + formats))
    ]
    write(folder / RUNNER[1:], "\n".join((console, contract, *made, runner)).encode())
    write(folder / IMPORT_MAP[1:], json.dumps({"imports": dict.fromkeys(modules)}).encode())
    return Root(path=folder)


_SHARED = ("jail/console.js", "jail/contract.js", "jail/inspect.js", "jail/format.js")
_ALONE = ("--no-config", "--no-lock", "--no-npm", "--no-remote")
"""Options that prevent Deno from reading files in the current folder and its parents."""


def _of_this_deno(deno: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of Node's modules in this Deno, and of its WebGPU globals.

    A null in an import map refuses each of the modules (process, fs, ...).
    """
    script = (
        "import {builtinModules} from 'node:module'; const names = Object.getOwnPropertyNames(globalThis);"
        "console.log(JSON.stringify([builtinModules, names.filter((name) => name.startsWith('GPU'))]))"
    )
    cache = folder / "cache"
    done = subprocess.run(
        [deno, "eval", *_ALONE, "--ext=js", script],
        env={
            "DENO_DIR": str(cache),
            "DENO_NO_PACKAGE_JSON": "1",
            "DENO_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        cwd=folder,
    )
    shutil.rmtree(cache, ignore_errors=True)
    modules, surplus = json.loads(done.stdout)
    names = [name.removeprefix("node:") for name in modules]
    return [prefix + name for name in names for prefix in ("node:", "")], surplus
