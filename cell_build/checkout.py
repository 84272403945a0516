"""Builds the executables of a source tree from its C files and the engine, with the compiler that the user wants."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cell_build import cache, cell, compiler, description, embedded, engine_source
from cell_build.cell import Cell

SOURCE_FOLDER = "sandbox/engines/quickjs/jail"  # the executable's folder too, in the tree and in the wheel
LAUNCHER_FOLDER = "sandbox/cells"
FILES = (  # folder, name and mode of each file
    (SOURCE_FOLDER, cell.EXECUTABLE, 0o755),
    (SOURCE_FOLDER, description.FACTS, 0o644),
    (LAUNCHER_FOLDER, cell.LAUNCHER, 0o755),
)
# The engine relies on harmless undefined behaviour, so UBSan checks only promptlog's files.
SANITIZED = ("-g", "-fsanitize=address", "-fno-omit-frame-pointer")
SANITIZED_CELL = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-U_FORTIFY_SOURCE")


def inputs(root: Path, engine: engine_source.Files) -> Cell:
    """Return the inputs of this source tree's executable."""
    architecture = compiler.target_architecture()
    chosen = compiler.choose(architecture)
    files = sources(root) | embedded.headers(root, architecture, engine)
    launcher = (root / LAUNCHER_FOLDER / f"{cell.LAUNCHER}.c").read_bytes()
    return Cell(engine=engine, sources=files, launcher=launcher, compiler=chosen, architecture=architecture)


def sources(root: Path) -> dict[str, bytes]:
    """Return promptlog's own C files and headers."""
    folder = root / SOURCE_FOLDER
    return {path.name: path.read_bytes() for path in sorted((*folder.glob("*.c"), *folder.glob("*.h")))}


def build(root: Path, defines: Sequence[str] = (), sanitized: bool = False) -> Path:
    """Build the executable, or a variant for tests. Return the folder in the cache that contains it."""
    cache_folder = cache.open_folder()
    engine = engine_source.find(cache_folder) or engine_source.fetch(cache_folder)
    wanted = inputs(root, engine)
    wanted = replace(wanted, cell_flags=tuple(f"-D{name}" for name in defines))
    if sanitized:  # the sanitizers need a dynamic executable with symbols
        dynamic = replace(wanted.compiler, link_flags=("-pie", "-fsanitize=address,undefined"))
        wanted = replace(wanted, compiler=dynamic, flags=SANITIZED, cell_flags=wanted.cell_flags + SANITIZED_CELL)
    return wanted.kept(cache_folder) or wanted.make(cache_folder)


def put(made: Path, root: Path) -> None:
    """Copy the executables and their description from the cache to their places in a source tree."""
    for folder, name, mode in FILES:
        cache.write(root / folder / name, (made / name).read_bytes(), mode)


def put_cell(made: Path, folder: Path) -> None:
    """Copy the cell and its description to another folder."""
    for place, name, mode in FILES:
        if place == SOURCE_FOLDER:
            cache.write(folder / name, (made / name).read_bytes(), mode)


def main() -> None:
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(
        prog="python -m cell_build",
        description="Put the QuickJS cell into the source tree, or a variant of it for tests into another folder.",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="put only the cell there, not in the source tree")
    parser.add_argument("--define", action="append", default=[], metavar="NAME", help="a macro for promptlog's files")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan; the executable is not static")
    options = parser.parse_args()
    made = build(root, options.define, options.sanitize)
    if options.output is None:
        put(made, root)
    else:
        put_cell(made, options.output)
    print((options.output or root / SOURCE_FOLDER) / cell.EXECUTABLE)
