"""How a test run by root starts a command as an ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

NOBODY = 65534


def ordinary_user(folder: Path) -> list[str]:
    """Give a folder to nobody, and return what goes before a command so that nobody runs it; nothing if not root.

    CAP_DAC_READ_SEARCH is kept, so that a Python below root's home can be read.
    """
    if os.geteuid() != 0:
        return []
    os.chown(folder, NOBODY, NOBODY)
    kept = "-all,+dac_read_search"
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*become, f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
