"""A receiver of journald's native protocol, and a daemon whose standard error is a journal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
from promptlogd import log_writer
log_writer.JOURNAL_SOCKET = sys.argv.pop(1)
from promptlogd.__main__ import main
main()
"""


def fields_of(data: bytes) -> dict[str, str]:
    """Parse a datagram as journald does."""
    fields = {}
    while data:
        end = data.index(b"\n")
        name, equals, value = data[:end].partition(b"=")
        data = data[end + 1 :]
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[8 + length :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields[name.decode()] = value.decode()
    return fields


def start_logging_to(journal: Path, folder: Path, *, config: str = "") -> subprocess.Popen[bytes]:
    """Start a daemon as systemd does: its standard error is the journal, which receives on the socket `journal`.

    Returns once the daemon serves clients.
    """
    (folder / "promptlog.toml").write_text(config)
    command = [sys.executable, "-c", _SCRIPT, str(journal), "--config", str(folder / "promptlog.toml")]
    command += ["--socket", str(folder / "s"), "--state-dir", str(folder / "state"), "--exit-with-parent"]
    reading, writing = os.pipe()
    with (folder / "log").open("wb") as log:
        status = os.fstat(log.fileno())
        variables = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command += ["--ready-fd", str(writing)]
        process = subprocess.Popen(command, stderr=log, env=variables, pass_fds=(writing,))
    os.close(writing)
    with os.fdopen(reading) as ready:
        assert ready.readline() == "ready\n", (folder / "log").read_text()
    return process
