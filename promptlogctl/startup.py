"""Set-up before other imports: opens closed standard streams, and makes Ctrl-C end the command at any time.

This module imports little, because Ctrl-C before `end_at_interrupt` prints a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CANCELLED = 3
"""Exit code of a command that was ended by Ctrl-C."""


def open_closed_streams() -> None:
    """Replace closed standard streams, as after `>&-` in a shell.

    Otherwise the next file or socket gets the descriptor, and sys.stdout is None. Reading from the replaced standard
    input and writing to the replaced standard output fail with EBADF. Writes to standard error are lost.
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
    """Make SIGINT end the process at once, with a message. An ignored SIGINT stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def interrupt_raises() -> Iterator[None]:
    """Context manager: SIGINT raises KeyboardInterrupt, for code that must cancel or remove something.

    Afterwards SIGINT is ignored, because nothing is left to cancel and the exit code is known.
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
