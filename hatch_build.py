"""Build hook of hatchling: adds the QuickJS cell and `launch`, which starts jails, to every wheel.

The hook also runs for an editable installation. It adds the editor of the web page as well, if that can be fetched.
`cell_build/` makes the executables, `page_build/` fetches the editor, and docs/building.md describes settings and
errors.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # a build starts without the project's folder in sys.path

import page_build
from cell_build import cache, checkout, compiler, description, engine_source


class CustomBuildHook(BuildHookInterface[Any]):
    """The hook. hatchling loads the subclass of BuildHookInterface in this file."""

    def dependencies(self) -> list[str]:
        """Return the packages that this build needs. There are none if the executable is cached."""
        root = Path(self.root)
        cache_folder = cache.open_folder()
        engine = engine_source.find(cache_folder)
        inputs = checkout.inputs(root, engine or {})
        zig = [compiler.ZIG_REQUIREMENT] if inputs.compiler.is_zig else []
        deno = page_build.requirements(cache_folder)
        if engine is None:
            return ["pip>=23.1", *zig, *deno]  # isolated builds have no pip of their own
        return deno if inputs.kept(cache_folder) else [*zig, *deno]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the executables, and tell hatchling where they belong."""
        root = Path(self.root)
        made = checkout.build(root)
        if version == "editable":
            checkout.put(made, root)
        else:
            files = {str(made / name): f"{folder}/{name}" for folder, name, _ in checkout.FILES}
            build_data["force_include"].update(files)
        editor = page_build.find_or_fetch(cache.open_folder())
        if editor is not None and version == "editable":
            page_build.copy_to(editor, root / page_build.FOLDER)
        elif editor is not None:
            build_data["force_include"].update(
                {str(path): f"{page_build.FOLDER}/{path.name}" for path in editor.iterdir()}
            )
        build_data["sbom_files"].append(str(made / description.BILL_OF_MATERIALS))
        build_data["pure_python"] = False
        # A static executable needs no C library of the machine, so the wheel fits glibc and musl.
        build_data["tag"] = "py3-none-manylinux2014_{0}.musllinux_1_1_{0}".format(compiler.target_architecture())
