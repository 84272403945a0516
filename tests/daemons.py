"""Daemons with their own settings, and cgroups of this host, for tests."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 20.0


@contextmanager
def configured_daemon(config: str, *, environment: dict[str, str] | None = None) -> Iterator[Path]:
    """Start a daemon with this configuration in a new folder, yield its socket, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="promptlog-") as name:
        folder = Path(name)
        (folder / "promptlog.toml").write_text(config)
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "promptlogd", "--config", str(folder / "promptlog.toml")]
        command += ["--socket", str(folder / "socket"), "--state-dir", str(folder / "state")]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [*command, "--ready-fd", str(writing), "--exit-with-parent"],
                pass_fds=(writing,),
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        os.close(writing)
        try:
            ready, _, _ = select.select([reading], [], [], _START_S)
            assert ready, "it did not start"
            assert os.read(reading, 16) == b"ready\n", (folder / "log").read_text()
            yield folder / "socket"
        finally:
            os.close(reading)
            daemon.terminate()
            daemon.wait()


def cgroups(prefix: str) -> set[Path]:
    """Return all cgroups on this host, v1 or v2, whose names have this prefix. Cgroups may vanish during the search."""
    return {
        Path(parent, name)
        for parent, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(prefix)
    }
