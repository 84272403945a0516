"""The engines. To add one takes a folder beside these and a line in this list."""

from sandbox.engines.deno import SPEC as DENO
from sandbox.engines.quickjs import SPEC as QUICKJS
from sandbox.engines.spec import EngineSpec

ENGINES: dict[str, EngineSpec] = {spec.name: spec for spec in (QUICKJS, DENO)}
"""By name. The first is the default of the configuration."""

__all__ = ["ENGINES", "EngineSpec"]
