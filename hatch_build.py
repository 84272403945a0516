"""hatchling's build hook: every wheel of promptlog, also that of an editable installation, gets the QuickJS cell.

How the executable is made: `cell_build/`.  What can be set, and what can go wrong: docs/building.md.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # a build starts without the project's folder on the path

from cell_build import cache, checkout, compiler, description, engine_source


class CustomBuildHook(BuildHookInterface[Any]):
    """Named by hatchling."""

    def dependencies(self) -> list[str]:
        """What this build has to install: nothing, if the executable is in the cache."""
        root = Path(self.root)
        if not checkout.sources(root):  # until the cell is written in C
            return []
        cache_folder = cache.open_folder()
        engine = engine_source.find(cache_folder)
        inputs = checkout.inputs(root, engine or {})
        zig = [compiler.ZIG_REQUIREMENT] if inputs.compiler.is_zig else []
        if engine is None:
            return ["pip>=23.1", *zig]  # isolated builds have no pip of their own
        return [] if inputs.kept(cache_folder) else zig

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the executable, and tell hatchling where it belongs."""
        root = Path(self.root)
        if not checkout.sources(root):
            return
        made = checkout.build(root)
        if version == "editable":
            checkout.put(made, root / checkout.SOURCE_FOLDER)
        else:
            files = {str(made / name): f"{checkout.SOURCE_FOLDER}/{name}" for name, _ in checkout.FILES}
            build_data["force_include"].update(files)
        build_data["sbom_files"].append(str(made / description.BILL_OF_MATERIALS))
        build_data["pure_python"] = False
        # A static executable needs no C library of the machine.
        build_data["tag"] = "py3-none-manylinux2014_{0}.musllinux_1_1_{0}".format(compiler.target_architecture())
