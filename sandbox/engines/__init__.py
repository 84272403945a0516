"""The list of engines. To add an engine, add a folder next to the others and a line to this list."""

from sandbox.engines.deno import SPEC as DENO
from sandbox.engines.quickjs import SPEC as QUICKJS
from sandbox.engines.spec import EngineSpec

ENGINES: dict[str, EngineSpec] = {spec.name: spec for spec in (QUICKJS, DENO)}
"""Engines by name. The first is the default of the configuration."""

__all__ = ["ENGINES", "EngineSpec"]
