"""Describes the executables: a file of facts beside the cell, and the wheel's bill of materials (SBOM)."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cell_build import engine_source

if TYPE_CHECKING:
    from cell_build.cell import Cell

FACTS = "quickjs-cell.json"
BILL_OF_MATERIALS = "quickjs-cell.cdx.json"
LIBC_LICENCES = {"glibc": ("LGPL-2.1-or-later",), "musl": ("MIT",)}


def facts(cell: Cell, executable: bytes, launcher: bytes) -> dict[str, str]:
    """Return the facts for the daemon's replies and `--version`.

    `build` names the cell's inputs, `engine_build` those of the engine.
    """
    return {
        "engine": engine_source.NAME,
        "engine_version": engine_source.version(cell.engine),
        "engine_build": cell.engine_build,
        "build": cell.build,
        "architecture": cell.architecture,
        "compiler": cell.compiler.name,
        "libc": " ".join(cell.compiler.libc),
        "sha256": hashlib.sha256(executable).hexdigest(),
        "launcher_sha256": hashlib.sha256(launcher).hexdigest(),
    }


def bill_of_materials(cell: Cell, said: dict[str, str]) -> bytes:
    """Return the bill of materials of both executables as CycloneDX 1.6, with the engine's licence."""
    engine, version = said["engine"], said["engine_version"]
    libc, libc_version = cell.compiler.libc
    components: list[dict[str, Any]] = [
        {
            "type": "library",
            "name": engine,
            "version": version,
            "purl": f"pkg:github/quickjs-ng/quickjs@v{version}",
            "licenses": [{"license": {"id": "MIT", "text": {"content": engine_source.licence(cell.engine)}}}],
        },
        {
            "type": "library",
            "name": libc,
            "version": libc_version,
            "purl": f"pkg:generic/{libc}@{libc_version.partition(' ')[0]}",
            "licenses": [{"license": {"id": licence}} for licence in LIBC_LICENCES.get(libc, ())],
        },
        {
            "type": "application",
            "name": "launch",
            "version": said["launcher_sha256"][:32],
            "hashes": [{"alg": "SHA-256", "content": said["launcher_sha256"]}],
        },
    ]
    executable = {
        "type": "application",
        "name": "quickjs-cell",
        "version": said["build"],
        "hashes": [{"alg": "SHA-256", "content": said["sha256"]}],
    }
    return as_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": executable},
            "components": components,
        }
    )


def as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
