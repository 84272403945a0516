"""Compiles and links the executables, describes them, and keeps everything in the cache.

The executables are the QuickJS cell, and `launch`, which starts the jails of every engine.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cell_build import cache, compiler, description, engine_source
from cell_build.compiler import Compiler

EXECUTABLE = "quickjs-cell"
LAUNCHER = "launch"
BUILD_FORMAT = "3"  # increase this if the steps below or the descriptions change, and the flags do not

OPTIMISED = ("-O2", "-g0", "-DNDEBUG", "-ffunction-sections", "-fdata-sections")
FLAGS = (*OPTIMISED, "-std=gnu11", "-D_GNU_SOURCE", "-fPIE", "-fstack-protector-strong")
# The engine allocates small objects from 4 KiB pools, one for each size, unless this macro is defined. promptlog's
# allocator has to see each object.
NO_POOLS = "-D__SANITIZE_ADDRESS__=1"
ENGINE_FLAGS = (*FLAGS, "-w", NO_POOLS)
CELL_FLAGS = (*FLAGS, "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-Wall", "-Wextra", "-Werror", "-Iengine")
LINK_FLAGS = ("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,--gc-sections", "-Wl,--build-id=none")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The inputs of a build."""

    engine: Mapping[str, bytes]
    sources: Mapping[str, bytes]
    launcher: bytes  # launch.c
    compiler: Compiler
    architecture: str
    flags: tuple[str, ...] = ()  # further flags, for variants that are tested
    cell_flags: tuple[str, ...] = ()  # further flags for promptlog's own files

    @cached_property
    def engine_build(self) -> str:
        """The name of the engine's sources and flags, which is the same for all compilers and architectures."""
        return _digest([*ENGINE_FLAGS, *self.flags, *_contents(self.engine)])[:32]

    @cached_property
    def build(self) -> str:
        """The name of all inputs of the cell. Two builds with the same name have the same bytes."""
        flags = (*CELL_FLAGS, *LINK_FLAGS, *self.compiler.compile_flags, *self.compiler.link_flags, *self.cell_flags)
        inputs = [BUILD_FORMAT, self.engine_build, self.compiler.identity, self.architecture, *flags]
        return _digest([*inputs, *_contents(self.sources)])[:32]

    def _folder(self, cache_folder: Path) -> Path:
        return cache_folder / "cells" / _digest([self.build, *_contents({f"{LAUNCHER}.c": self.launcher})])[:32]

    def kept(self, cache_folder: Path) -> Path | None:
        """Return the folder with the executables and descriptions, if an earlier build made it and it is undamaged."""
        folder = self._folder(cache_folder)
        try:
            facts = (folder / description.FACTS).read_text()
            executables = [(folder / name).read_bytes() for name in (EXECUTABLE, LAUNCHER)]
        except (OSError, UnicodeDecodeError):
            return None
        if any(hashlib.sha256(executable).hexdigest() not in facts for executable in executables):
            return None
        cache.mark_used(folder)
        return folder

    def make(self, cache_folder: Path) -> Path:
        """Compile what is not in the cache, link, and return the same folder as `kept`."""
        if self.compiler.is_zig:
            compiler.check_zig_is_installed()
        with tempfile.TemporaryDirectory(prefix="work-", dir=cache_folder) as name:
            work = Path(name)
            _write_all(work / "engine", self.engine)
            _write_all(work / "cell", self.sources)
            self._link(work, self._compile_all(work, cache_folder), cache_folder)
            self._make_launcher(work, cache_folder)
            executable, launcher = ((work / name).read_bytes() for name in (EXECUTABLE, LAUNCHER))
        folder = self._folder(cache_folder)
        cache.write(folder / EXECUTABLE, executable, mode=0o755)
        cache.write(folder / LAUNCHER, launcher, mode=0o755)
        facts = description.facts(self, executable, launcher)
        cache.write(folder / description.BILL_OF_MATERIALS, description.bill_of_materials(self, facts))
        cache.write(folder / description.FACTS, description.as_json(facts))  # written last, because `kept` looks for it
        return folder

    def _compile_all(self, work: Path, cache_folder: Path) -> list[str]:
        engine = [f"engine/{name}" for name in engine_source.C_FILES]
        cell = [f"cell/{name}" for name in sorted(self.sources) if name.endswith(".c")]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            prepared = threads.submit(self._prepare_linking, work, cache_folder)
            objects = list(threads.map(lambda unit: self._compile(unit, work, cache_folder), [*engine, *cell]))
            prepared.result()
        return objects

    def _compile(self, unit: str, work: Path, cache_folder: Path) -> str:
        """Compile one C file, or take its object from the cache. Return the object's name below `work`."""
        if unit.startswith("engine/"):
            flags, files = [*ENGINE_FLAGS], _contents(self.engine)
        else:
            flags, files = (
                [*CELL_FLAGS, *self.cell_flags, *self._names()],
                _contents(self.engine) + _contents(self.sources),
            )
        flags += (*self.flags, *self.compiler.compile_flags)
        inputs = [BUILD_FORMAT, self.compiler.identity, unit, *flags, *files]
        kept = cache_folder / "objects" / _digest(inputs)[:32]
        name = unit.replace("/", "-") + ".o"
        if kept.exists():
            (work / name).write_bytes(kept.read_bytes())
            cache.mark_used(kept)
        else:
            sys.stderr.write(f"promptlog: compiling {unit}\n")
            paths = [f"-ffile-prefix-map={work}=.", "-c", unit, "-o", name]
            self.compiler.run([*flags, *paths], work, cache_folder)
            cache.write(kept, (work / name).read_bytes())
        return name

    def _make_launcher(self, work: Path, cache_folder: Path) -> None:
        (work / f"{LAUNCHER}.c").write_bytes(self.launcher)
        compiled, linked = self.compiler.compile_flags, self.compiler.link_flags
        self.compiler.run(
            [*CELL_FLAGS, *compiled, *linked, *LINK_FLAGS, f"{LAUNCHER}.c", "-o", LAUNCHER], work, cache_folder
        )

    def _names(self) -> list[str]:
        """Return the macros with which the executable names its build and its engine."""
        engine = f"{engine_source.NAME} {engine_source.version(self.engine)}"
        named = {"CELL_BUILD": self.build, "CELL_ENGINE": engine, "CELL_ENGINE_BUILD": self.engine_build}
        return [f'-D{name}="{value}"' for name, value in named.items()]

    def _link(self, work: Path, objects: Iterable[str], cache_folder: Path, output: str = EXECUTABLE) -> None:
        arguments = [*self.compiler.link_flags, *LINK_FLAGS, *self.flags, *objects, "-lm", "-o", output]
        self.compiler.run(arguments, work, cache_folder)

    def _prepare_linking(self, work: Path, cache_folder: Path) -> None:
        """Let zig build its C library while other files compile. zig builds it when it links for the first time."""
        if not self.compiler.is_zig:
            return
        (work / "empty.c").write_text("int main(void) { return 0; }\n")
        self.compiler.run([*self.compiler.compile_flags, *FLAGS, "-c", "empty.c", "-o", "empty.o"], work, cache_folder)
        self._link(work, ["empty.o"], cache_folder, "empty")


def _contents(files: Mapping[str, bytes]) -> list[str]:
    return [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)]


def _digest(inputs: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(inputs)).encode()).hexdigest()


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
