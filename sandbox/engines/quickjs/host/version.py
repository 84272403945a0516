"""The installed version of QuickJS, from the file that the build puts next to the cell."""

from __future__ import annotations

import msgspec

from sandbox.engines.quickjs.host.root import cell
from sandbox.engines.quickjs.host.wrapper import DIGEST
from sandbox.jail.root import RootError

_BUILD_DIGITS = 12


class _Facts(msgspec.Struct):
    """The description of the cell, written by `cell_build/description.py`."""

    engine: str
    engine_version: str
    build: str


def installed() -> str:
    """Return the engine's name and version, and the first digits of the cell's build. Raises RootError."""
    facts = _facts()
    return f"{facts.engine} {facts.engine_version}+{facts.build[:_BUILD_DIGITS]}"


def artifact_build() -> str:
    """Return the build of artifacts: the cell's build, and the wrapper. Raises RootError.

    Bytecode depends only on the engine and the wrapper. But the build covers all of the cell's C files, because after
    a security fix, bytecode that was forged through the vulnerability must not be loaded.
    """
    return f"{_facts().build}-{DIGEST}"


def _facts() -> _Facts:
    path = cell().with_suffix(".json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Facts)
    except (OSError, ValueError) as error:
        raise RootError(f"{path}, which names the engine's version", f"{error}; reinstall promptlog") from error
