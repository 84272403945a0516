"""hatchling's build hook: every wheel of promptlog, also that of an editable installation, gets the QuickJS cell.

How the executable is made: `cell_build/`.  What can be set, and what can go wrong: docs/building.md.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # a build starts without the project's folder on the path

from cell_build import cache, cell, compiler, description, engine_source


class CustomBuildHook(BuildHookInterface[Any]):
    """Named by hatchling."""

    def dependencies(self) -> list[str]:
        """What this build has to install: nothing, if the executable is in the cache."""
        sources = cell.sources(Path(self.root))
        if not sources:  # until the cell is written in C
            return []
        architecture = compiler.target_architecture()
        chosen = compiler.choose(architecture)
        zig = [compiler.ZIG_REQUIREMENT] if chosen.is_zig else []
        cache_folder = cache.open_folder()
        engine = engine_source.find(cache_folder)
        if engine is None:
            return ["pip>=23.1", *zig]  # isolated builds have no pip of their own
        inputs = cell.Cell(engine=engine, sources=sources, compiler=chosen, architecture=architecture)
        return [] if inputs.kept(cache_folder) else zig

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the executable, and tell hatchling where it belongs."""
        sources = cell.sources(Path(self.root))
        if not sources:
            return
        architecture = compiler.target_architecture()
        cache_folder = cache.open_folder()
        engine = engine_source.find(cache_folder) or engine_source.fetch(cache_folder)
        chosen = compiler.choose(architecture)
        inputs = cell.Cell(engine=engine, sources=sources, compiler=chosen, architecture=architecture)
        made = inputs.kept(cache_folder) or inputs.make(cache_folder)
        for name, mode in ((cell.EXECUTABLE, 0o755), (description.FACTS, 0o644)):
            place = f"{cell.SOURCE_FOLDER}/{name}"
            if version == "editable":
                cache.write(Path(self.root, place), (made / name).read_bytes(), mode)
            else:
                build_data["force_include"][str(made / name)] = place
        build_data["sbom_files"].append(str(made / description.BILL_OF_MATERIALS))
        build_data["pure_python"] = False
        # A static executable needs no C library of the machine.
        build_data["tag"] = f"py3-none-manylinux2014_{architecture}.musllinux_1_1_{architecture}"
