"""Small inputs of a build: a stand-in for the engine that compiles quickly, and a program to link with it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from cell_build import compiler, engine_source
from cell_build.cell import Cell

STAND_IN_ENGINE = {
    **{name: f"int {Path(name).stem}_is_linked(void) {{ return 1; }}\n" for name in engine_source.C_FILES},
    **dict.fromkeys(engine_source.HEADERS, ""),
    "quickjs.c": "/*\n * An engine.\n *\n * Copyright (c) somebody\n */\nint quickjs_is_linked(void) { return 1; }\n",
    "quickjs.h": "#define QJS_VERSION_MAJOR 9\n#define QJS_VERSION_MINOR 8\n#define QJS_VERSION_PATCH 7\n",
}
PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "program.h"

int main(int argc, char **argv)
{
    char small[8];
    if (argc > 2 && !strcmp(argv[1], "strcpy"))
        strcpy(small, argv[2]);
    else if (argc > 2)
        for (volatile int i = 0; argv[2][i]; i++)
            ((volatile char *)small)[i] = argv[2][i];
    printf("%s %s %d\\n", CELL_ENGINE, CELL_BUILD, quickjs_is_linked());
    return 0;
}
"""
LAUNCHER = {"launch.c": "int main(void) { return 0; }\n"}
SOURCES = {"program.c": PROGRAM, "program.h": "int quickjs_is_linked(void);\n"}


def encoded(files: Mapping[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def small_cell(changed: Mapping[str, str] | None = None) -> Cell:
    """Return a build of the small inputs with this machine's compiler; `changed` replaces some of the inputs."""
    architecture = compiler.target_architecture()
    return Cell(
        engine=encoded(STAND_IN_ENGINE),
        sources=encoded({**SOURCES, **(changed or {})}),
        launcher=LAUNCHER["launch.c"].encode(),
        compiler=compiler.choose(architecture),
        architecture=architecture,
    )


def archive(
    path: Path, members: Mapping[str, bytes | tarfile.TarInfo], packaging: Mapping[str, bytes] | None = None
) -> Path:
    """Write a .tar.gz with `members` in the sdist's engine folder, and `packaging` beside that folder."""
    engine = {f"{engine_source.ENGINE_FOLDER}/{name}": content for name, content in members.items()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**engine, **(packaging or {})}.items():
            member = tarfile.TarInfo(f"{engine_source.SDIST_FOLDER}/{name}")
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                content.name = member.name
                tar.addfile(content)
    return path
