"""A private daemon for the length of one command."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogctl.errors import NotStarted

_START_S = 20.0
_STOP_S = 10.0


@contextmanager
def private_daemon(state_dir: Path | None) -> Iterator[Path]:
    """Start a daemon and give its socket; stop it, and remove what was temporary, at the end. Raises NotStarted.

    Should this process be killed, the daemon stops by itself (`--exit-with-parent`).
    """
    folder = Path(tempfile.mkdtemp(prefix="promptlog-"))
    socket = folder / "socket"
    log = folder / "log"
    reading, writing = os.pipe()
    try:
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "promptlogd",
                    "--socket",
                    str(socket),
                    "--state-dir",
                    str(state_dir or folder / "state"),
                    "--ready-fd",
                    str(writing),
                    "--exit-with-parent",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(writing,),
                start_new_session=True,
            )
        try:
            os.close(writing)
            ready, _, _ = select.select([reading], [], [], _START_S)
            if not ready or os.read(reading, 16) != b"ready\n":
                said = log.read_text("utf-8", "replace").strip().splitlines()
                raise NotStarted(str(socket), said[-1] if said else "it said nothing; try: promptlogctl doctor")
            yield socket
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)
