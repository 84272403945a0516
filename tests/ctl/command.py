"""Runs promptlogctl in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def ctl(socket: Path | str, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promptlogctl with this socket, and return its exit code and output."""
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket)}
    command = [sys.executable, "-m", "promptlogctl", *arguments]
    return subprocess.run(command, input=input, capture_output=True, env=environment, timeout=60)
