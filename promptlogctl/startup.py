"""What a command needs before anything else is imported: open standard streams, and an end at Ctrl-C at any time.

It imports little, since Ctrl-C before `end_at_interrupt` is a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CANCELLED = 3
"""The exit code of a command that Ctrl-C ended."""


def open_closed_streams() -> None:
    """Put something in the place of standard streams that are closed, as after `>&-` in a shell.

    Otherwise the next file or socket gets the descriptor, and sys.stdout is None. A read from such a standard input,
    and a write to such a standard output, fails with EBADF. What is written to standard error is lost.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(opened := os.open(os.devnull, flags), descriptor)
            if opened != descriptor:
                os.close(opened)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def end_at_interrupt() -> None:
    """Let SIGINT end the process at once, with a line that says so. A SIGINT that is ignored stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def interrupt_raises() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt instead, for code that has something to cancel or to remove.

    Afterwards it is ignored: there is nothing left to cancel, and the exit code is known.
    """
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    line = b'{"error":{"code":"cancelled","message":"cancelled","detail":{}}}\n'
    try:
        os.write(*((1, line) if "--json" in sys.argv else (2, b"error: cancelled\n")))
    except OSError:
        pass
    os._exit(CANCELLED)
