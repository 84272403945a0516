"""Default paths of the socket and the state folder. Pure: the environment is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's socket and state folder."""

    socket: Path
    state_dir: Path


def default_paths(euid: int, environ: Mapping[str, str]) -> Paths:
    """Return the system's paths for root, and those of the XDG base directory specification for other users.

    A relative path in the environment is ignored, as that specification requires.
    """
    if euid == 0:
        return Paths(socket=Path("/run/promptlog/promptlog.sock"), state_dir=Path("/var/lib/promptlog"))
    home = _absolute(environ.get("HOME")) or Path("/")
    state_dir = (_absolute(environ.get("XDG_STATE_HOME")) or home / ".local/state") / "promptlog"
    runtime = _absolute(environ.get("XDG_RUNTIME_DIR"))
    folder = state_dir if runtime is None else runtime / "promptlog"
    return Paths(socket=folder / "promptlog.sock", state_dir=state_dir)


def _absolute(value: str | None) -> Path | None:
    return Path(value) if value is not None and value.startswith("/") else None
