"""Build the root folder of a QuickJS jail: the interpreter, its libraries, the engine, and nothing else.

The folder is made afresh at each start of the daemon, so it can't be stale, and mounted read-only as `/` of
every jail. Nothing here starts a jail or knows nsjail. The one program run here is the dynamic loader, to list
libraries (ld.so(8), `--list`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import py_compile
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import get_args

import msgspec

from sandbox.engines.quickjs import filter as second_filter
from sandbox.engines.quickjs.scripts import PLATFORM
from sandbox.trusted_path import UntrustedPath, check_trusted

PYTHON = "/python/bin/python3"
"""The interpreter, inside the jail."""

IMPORTED = "/app"
"""Where the zygote's own modules are, in folders as in the package: they have one name in the jail and outside."""

ZYGOTE = "/app/sandbox/engines/quickjs/zygote.pyc"
LIBRARIES = "/lib"
DENO = "/bin/deno"
RUNNER = "/app/runner.js"
IMPORT_MAP = "/app/imports.json"

# What the zygote imports beside what is built into the interpreter, and what starting an interpreter takes.
_EXTENSIONS = ("_ctypes",)
_OURS = ("__init__", "confinement", "engine", "source", "zygote")
_IN_THE_JAIL = ("__init__.py", "engines/__init__.py", *(f"engines/quickjs/{name}.py" for name in _OURS))
_ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")


class RootError(Exception):
    """The root of the jail can't be built from what this host has."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"can't build the jail's root: {what}: {why}")
        self.what = what
        self.why = why


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A finished root folder."""

    path: Path
    loader: str
    """The dynamic loader's path, inside the jail as outside of it."""


class DenoMissing(RootError):
    """The engine Deno is not installed."""


def machine() -> second_filter.Machine:
    """Return this host's machine. Raises RootError for one that has no second filter."""
    name = platform.machine()
    for known in get_args(second_filter.Machine):
        if name == known:
            return name  # type: ignore[return-value]  # narrowed by the comparison just above
    raise RootError(name, f"only {' and '.join(get_args(second_filter.Machine))} are supported")


def build_root(folder: Path) -> Root:
    """Fill `folder`, which must not exist, and return what was made. Takes about 50 ms.

    Raises RootError if the interpreter, a library or the engine is not where it should be, or the disk is full.
    """
    try:
        return _build(folder)
    except (OSError, py_compile.PyCompileError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RootError(getattr(error, "filename", None) or str(folder), str(error)) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _build(folder: Path) -> Root:
    executable = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = folder / "python/lib" / version
    for path in (folder / "python/bin", library / "lib-dynload", library / "encodings", folder / "app", folder / "lib"):
        path.mkdir(parents=True, mode=0o755)
    (library / "os.py").touch()  # the landmark by which an interpreter knows its library; os itself is frozen

    binaries = {executable: folder / PYTHON[1:], engine(): folder / "app/_jsbox.abi3.so"}
    for name in _EXTENSIONS:
        origin = _origin(name)
        if origin is not None:
            binaries[origin] = library / "lib-dynload" / origin.name
    loader = _loader(executable)
    for source, target in binaries.items():
        _copy(source, target, 0o755)
        for soname, path in _libraries(loader, source).items():
            _copy(path, folder / LIBRARIES[1:] / soname, 0o755)
    _copy(Path(loader), folder / loader[1:], 0o755)

    encodings = Path(os.path.realpath(_require("encodings"))).parent
    for name in _ENCODINGS:
        _compile(encodings / f"{name}.py", library / "encodings" / f"{name}.pyc", f"encodings/{name}.py")
    package = resources.files("sandbox.engines.quickjs")
    for name in _IN_THE_JAIL:
        with resources.as_file(resources.files("sandbox") / name) as source:
            target = folder / IMPORTED[1:] / "sandbox" / f"{name}c"
            _compile(source, target, f"sandbox/{name}")
    _write(folder / "app/contract.js", (resources.files("sandbox.engines") / "contract.js").read_bytes())
    _write(folder / "app/platform.js", b"".join((package / f"{name}.js").read_bytes() for name in PLATFORM))
    for name in ("prelude", "builtins"):
        _write(folder / f"app/{name}.js", (package / f"{name}.js").read_bytes())
    _write(folder / "app/filter.bpf", second_filter.assemble(machine()))
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    return Root(path=folder, loader=loader)


def build_deno_root(folder: Path, deno: Path) -> Root:
    """Fill `folder`, which must not exist, with Deno, its libraries and the runner. About 100 ms, or a copy of 100 MB.

    A program can read each file in there (an import needs no permission), so there is nothing else. Raises RootError.
    """
    try:
        return _build_deno(folder, deno)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RootError(getattr(error, "filename", None) or str(folder), str(error)) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def deno_executable() -> Path:
    """Return the Deno that was installed beside promptlog. Raises DenoMissing, or RootError if others may replace it.

    The package that finds it looks below $HOME as well, which may be another user's, with sudo for example.
    """
    try:
        from deno import find_deno_bin

        found = Path(find_deno_bin())
        check_trusted(found)
    except (ImportError, FileNotFoundError):
        raise DenoMissing("the engine deno", "it is not installed; pip install 'deno>=2.9.8,<3'") from None
    except UntrustedPath as error:
        raise RootError("the engine deno", error.why) from error
    return found


# The C library looks here for the main thread's stack (pthread_getattr_np), without which Deno's parser of TypeScript
# ends the process at an `if`. The real one would tell a program, that can import it, where everything is.
_MAPS = b"00001000-00010000 ---p 00000000 00:00 0\n00010000-ffffffffffffffff rw-p 00000000 00:00 0 [stack]\n"


def _build_deno(folder: Path, deno: Path) -> Root:
    for path in (folder / "bin", folder / "app", folder / LIBRARIES[1:], folder / "proc/self"):
        path.mkdir(parents=True, mode=0o755)
    target = folder / DENO[1:]
    try:
        os.link(deno, target)  # 100 MB, shared with the installation and its pages in memory
        if target.stat().st_mode & 0o005 != 0o005:
            raise PermissionError("others may not run it")
    except OSError:
        target.unlink(missing_ok=True)
        _copy(deno, target, 0o755)
    loader = _loader(deno)
    for soname, path in _libraries(loader, deno).items():
        _copy(path, folder / LIBRARIES[1:] / soname, 0o755)
    _copy(Path(loader), folder / loader[1:], 0o755)
    # Deno asks where its executable is; there is no /proc in the jail.
    (folder / "proc/self/exe").symlink_to(DENO)
    _write(folder / "proc/self/maps", _MAPS)
    engines = resources.files("sandbox.engines")
    modules, surplus = _of_this_deno(deno, folder)
    contract, check, runner = (
        (engines / name).read_text("utf-8") for name in ("contract.js", "deno/check.js", "deno/runner.js")
    )
    # To look for these in the jail would take a thirtieth of a start; to parse what checks a source, a twentieth.
    made = f"const ofThisDeno = {json.dumps(surplus)};\nconst checkText = {json.dumps(check)};"
    _write(folder / RUNNER[1:], "\n".join((contract, made, runner)).encode())
    _write(folder / IMPORT_MAP[1:], json.dumps({"imports": dict.fromkeys(modules)}).encode())
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return Root(path=folder, loader=loader)


_ALONE = ("--no-config", "--no-lock", "--no-npm", "--no-remote")
"""So that Deno reads no file that it finds in the current folder or above it."""


def _of_this_deno(deno: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of Node's modules in this Deno, and of its globals for graphics.

    A null in an import map refuses each of the former (process, fs, ...).
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


def _require(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RootError(f"the module {name}", "this Python does not have it")
    return spec.origin


def _origin(name: str) -> Path | None:
    origin = _require(name)
    return None if origin in ("built-in", "frozen") else Path(origin)


def engine() -> Path:
    """Return the engine's shared object. Raises RootError."""
    package = Path(_require("jsbox")).parent
    found = sorted(package.glob("_jsbox*.so"))
    if len(found) != 1:
        raise RootError(f"the QuickJS engine in {package}", "reinstall it with: pip install --force-reinstall jsbox")
    return found[0]


def _loader(executable: Path) -> str:
    for line in _list([str(executable)], {"LD_TRACE_LOADED_OBJECTS": "1"}):
        path = line.split()[0]
        if path.startswith("/") and "ld-" in path:
            return path
    raise RootError(str(executable), "its dynamic loader is unknown; a static Python is not supported")


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


def _copy(source: Path, target: Path, mode: int) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)


def _compile(source: Path, target: Path, shown_as: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    py_compile.compile(
        str(source),
        cfile=str(target),
        dfile=shown_as,
        doraise=True,
        optimize=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    target.chmod(0o644)


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)
    target.chmod(0o644)
