"""The version of Deno that is installed."""

from __future__ import annotations

from importlib import metadata

from sandbox.engines.deno.host.root import deno_executable


def installed() -> str:
    """Return Deno's name and version, from the package that has its executable. Raises RootError if it is missing."""
    deno_executable()
    return f"deno {metadata.version('deno')}"
