"""Build the root folder of a QuickJS jail: the interpreter, its libraries, the engine, and nothing else."""

from __future__ import annotations

import importlib.util
import os
import platform
import py_compile
import sys
from importlib import resources
from pathlib import Path
from typing import get_args

from sandbox.engines.quickjs.host import filter as second_filter
from sandbox.engines.quickjs.host.scripts import PLATFORM
from sandbox.engines.quickjs.host.wrapper import BRACKETS
from sandbox.jail.root import Root, RootError, build, copy, copy_libraries, find_loader, write

PYTHON = "/python/bin/python3"
"""The interpreter, inside the jail."""

IMPORTED = "/app"
"""Where the zygote's own modules are, in folders as in the package: they have one name in the jail and outside."""

ZYGOTE = "/app/sandbox/engines/quickjs/jail/zygote.pyc"

# What the zygote imports beside what is built into the interpreter, and what starting an interpreter takes.
_EXTENSIONS = ("_ctypes",)
_MODULES = ("__init__", "confinement", "engine", "source", "zygote")
_PACKAGES = ("", "engines/", "engines/quickjs/")
"""Packages above the zygote's own. In the jail there is nothing in them."""

_ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")


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
    return build(folder, _fill)


def _fill(folder: Path) -> Root:
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
    loader = find_loader(executable)
    for source, target in binaries.items():
        copy(source, target, 0o755)
        copy_libraries(loader, source, folder)
    copy(Path(loader), folder / loader[1:], 0o755)

    encodings = Path(os.path.realpath(_require("encodings"))).parent
    for name in _ENCODINGS:
        _compile(encodings / f"{name}.py", library / "encodings" / f"{name}.pyc", f"encodings/{name}.py")
    package = resources.files("sandbox.engines.quickjs.jail")
    modules = {f"engines/quickjs/jail/{name}.py": package / f"{name}.py" for name in _MODULES}
    modules |= {f"{name}__init__.py": package / "__init__.py" for name in _PACKAGES}
    for name, module in modules.items():
        with resources.as_file(module) as source:
            _compile(source, folder / IMPORTED[1:] / "sandbox" / f"{name}c", f"sandbox/{name}")
    contract = resources.files("sandbox.engines") / "jail/contract.js"
    write(folder / "app/contract.js", contract.read_bytes())
    write(folder / "app/platform.js", b"".join((package / f"{name}.js").read_bytes() for name in PLATFORM))
    for name in ("prelude", "builtins"):
        write(folder / f"app/{name}.js", (package / f"{name}.js").read_bytes())
    write(folder / "app/brackets", BRACKETS.encode())
    write(folder / "app/filter.bpf", second_filter.assemble(machine()))
    return Root(path=folder)


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


def _compile(source: Path, target: Path, shown_as: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        py_compile.compile(
            str(source),
            cfile=str(target),
            dfile=shown_as,
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except py_compile.PyCompileError as error:
        raise RootError(str(source), str(error)) from error
    target.chmod(0o644)
