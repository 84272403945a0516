"""Where the socket and the state are unless somebody says otherwise. Pure: the environment comes as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's socket, and the folder that holds its store."""

    socket: Path
    state_dir: Path


def default_paths(euid: int, environ: Mapping[str, str]) -> Paths:
    """Return root's paths for root, else those of the XDG base directory specification."""
    if euid == 0:
        return Paths(socket=Path("/run/promptlog/promptlog.sock"), state_dir=Path("/var/lib/promptlog"))
    home = environ.get("HOME") or "/"
    state_home = environ.get("XDG_STATE_HOME") or str(Path(home) / ".local/state")
    state_dir = Path(state_home) / "promptlog"
    runtime = environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "promptlog" if runtime else state_dir
    return Paths(socket=folder / "promptlog.sock", state_dir=state_dir)
