"""Runs systemctl and other commands of the host, to install and remove the service."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from promptlogctl.cli.units import UnitsError

_COMMAND_S = 90.0
"""Time limit of one command. Stopping a service takes up to TimeoutStopSec=."""

_WORDS = 2000


def run(*command: str, allowed: Sequence[int] = (0,)) -> None:
    """Run a command of the host. If its exit code is not allowed, raises UnitsError with its output."""
    line = " ".join(command)
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=_COMMAND_S, stdin=subprocess.DEVNULL, cwd="/"
        )
    except subprocess.TimeoutExpired:
        raise UnitsError(f"{line} did not end within {_COMMAND_S:g} s") from None
    except OSError as error:
        raise UnitsError(f"can't run {line}: {error.strerror}") from None
    if done.returncode not in allowed:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-_WORDS:]
        raise UnitsError(f"{line} failed: {said or f'exit code {done.returncode}'}")


def systemctl(*arguments: str, of_user: bool, allowed: Sequence[int] = (0,)) -> None:
    """Run systemctl(1) for the system, or for this user. Raises UnitsError."""
    run("systemctl", *(("--user",) if of_user else ()), "--no-ask-password", *arguments, allowed=allowed)


PACKAGED = Path("/usr/lib/systemd/system/promptlogd.service")
"""The unit of a Debian package of promptlog."""


def check_unpackaged(instead: str) -> None:
    """Raise UnitsError if a package has installed the service. `instead`: the command to use."""
    if PACKAGED.exists():
        raise UnitsError(f"a Debian package has installed the service; use {instead}")


def check_systemd(*, of_user: bool) -> None:
    """Raise UnitsError if systemd does not run here, or this user may not install a service."""
    if not Path("/run/systemd/system").is_dir():
        raise UnitsError("systemd does not run on this host; --print shows the units, for use elsewhere")
    if of_user and not os.environ.get("XDG_RUNTIME_DIR"):
        raise UnitsError(
            "there is no systemd of this user: XDG_RUNTIME_DIR is not set; log in as this user, or run: "
            "machinectl shell USER@"
        )
    if not of_user and os.geteuid() != 0:
        raise UnitsError("this requires root: sudo promptlogctl ...; or --user for a service of your own")
