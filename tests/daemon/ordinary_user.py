"""Starts commands as an ordinary user when root runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

NOBODY = 65534


def ordinary_user(folder: Path) -> list[str]:
    """Give a folder to the user nobody, and return the arguments that run a command as nobody; none if not root.

    The command keeps CAP_DAC_READ_SEARCH, so that it can read a Python below root's home.
    """
    if os.geteuid() != 0:
        return []
    os.chown(folder, NOBODY, NOBODY)
    kept = "-all,+dac_read_search"
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*become, f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
