"""Builds of a source tree: its C files, the engine, and the compiler that the user wants."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cell_build import cache, cell, compiler, description, embedded, engine_source
from cell_build.cell import Cell

SOURCE_FOLDER = "sandbox/engines/quickjs/jail"  # also the executable's place, in the tree and in the wheel
FILES = ((cell.EXECUTABLE, 0o755), (description.FACTS, 0o644))  # what belongs there, with its mode
# The engine relies on undefined behaviour that is harmless, so UBSan looks at promptlog's files alone.
SANITIZED = ("-g", "-fsanitize=address", "-fno-omit-frame-pointer")
SANITIZED_CELL = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-U_FORTIFY_SOURCE")


def inputs(root: Path, engine: engine_source.Files) -> Cell:
    """What the executable of this source tree is made of."""
    architecture = compiler.target_architecture()
    chosen = compiler.choose(architecture)
    files = sources(root) | embedded.headers(root, architecture)
    return Cell(engine=engine, sources=files, compiler=chosen, architecture=architecture)


def sources(root: Path) -> dict[str, bytes]:
    """promptlog's own C files and headers."""
    folder = root / SOURCE_FOLDER
    return {path.name: path.read_bytes() for path in sorted((*folder.glob("*.c"), *folder.glob("*.h")))}


def build(root: Path, defines: Sequence[str] = (), sanitized: bool = False) -> Path:
    """Build the executable, or a variant for tests.  Returns the folder in the cache that holds it."""
    cache_folder = cache.open_folder()
    engine = engine_source.find(cache_folder) or engine_source.fetch(cache_folder)
    wanted = inputs(root, engine)
    wanted = replace(wanted, cell_flags=tuple(f"-D{name}" for name in defines))
    if sanitized:  # the sanitizers need a dynamic executable; symbols stay in it
        dynamic = replace(wanted.compiler, link_flags=("-pie", "-fsanitize=address,undefined"))
        wanted = replace(wanted, compiler=dynamic, flags=SANITIZED, cell_flags=wanted.cell_flags + SANITIZED_CELL)
    return wanted.kept(cache_folder) or wanted.make(cache_folder)


def put(made: Path, folder: Path) -> None:
    """Copy the executable and the facts about it from the cache."""
    for name, mode in FILES:
        cache.write(folder / name, (made / name).read_bytes(), mode)


def main() -> None:
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(
        prog="python -m cell_build",
        description="Put the QuickJS cell into the source tree, or a variant of it for tests into another folder.",
    )
    parser.add_argument("--output", type=Path, default=root / SOURCE_FOLDER, metavar="FOLDER")
    parser.add_argument("--define", action="append", default=[], metavar="NAME", help="a macro for promptlog's files")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan; the executable is not static")
    options = parser.parse_args()
    put(build(root, options.define, options.sanitize), options.output)
    print(options.output / cell.EXECUTABLE)
