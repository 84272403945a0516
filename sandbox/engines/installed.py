"""Versions of the installed engines."""

from __future__ import annotations

from sandbox.engines import ENGINES
from sandbox.engines.host.engine_host import host_of
from sandbox.jail.root import RootError
from sandbox.program import Engine


def installed_versions() -> dict[Engine, str]:
    """Return the version of each engine that can be used on this host: see `EngineHost.version`."""
    found: dict[Engine, str] = {}
    for name, spec in ENGINES.items():
        try:
            found[name] = host_of(spec).installed()
        except RootError:
            continue
    return found
