"""Runs a process on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Terminal:
    """A pseudo-terminal with a process on it."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches the process
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        """Type this text on the keyboard of the terminal."""
        os.write(self._ours, text.encode())

    def read(self, until: str, seconds: float = 30) -> str:
        """Return everything that was shown until this text appeared. Fail if it does not appear in time."""
        ends = time.monotonic() + seconds
        while until not in self.seen:
            assert select.select([self._ours], [], [], max(0, ends - time.monotonic()))[0], self.seen
            self.seen += os.read(self._ours, 65536).decode()
        return self.seen

    def rest(self) -> str:
        """Wait until the process ends, and return everything that it showed."""
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: the process has closed the terminal
                break
            if not data:
                break
            self.seen += data.decode()
        self.process.wait(30)
        return self.seen

    def close(self) -> None:
        """Kill the process and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(
    socket: Path, *command: str, columns: int = 80, variables: dict[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a command on a terminal of its own with this socket. Kill the command when the block ends."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"TERM": "xterm", "PROMPTLOG_SOCKET": str(socket), **(variables or {})}
    opened = Terminal(list(command), environment, columns)
    try:
        yield opened
    finally:
        opened.close()
