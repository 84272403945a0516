"""A promptlogd whose children can be taken over. For tests only; runs as a separate program.

Its cell is promptlog's, built with -DTAKEOVER. takeover.c adds a hook at the point where a child has read its job and
installed the second filter. If the program contains `//TAKEOVER ` and a command, the child runs native code instead of
the engine:

S NR ARGUMENT...   makes system call NR; returns the result, or -errno, as the text of the bad result
I NR               the same without arguments through `int 0x80`, the 32-bit entry (x86-64)
W HEX              writes these bytes to the data socket, then exits with status 0
H HEX              the same, then waits for input that never arrives
E HEX              writes these bytes again and again, without end
X HEX CODE         writes these bytes once, then exits with this status
R HEX COUNT        writes these bytes COUNT times in one write, then the result 1, and exits

Arguments are numbers, or names of buffers: path, the path of an existing file; zero, 4096 zero bytes; code, the
address of mapped code; unix and inet, socket addresses; iovec, one that points to zero.
With --no-second-filter before the daemon's own arguments, the second filter does not confine children.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cell_build import checkout
from cell_build.cell import EXECUTABLE
from sandbox.engines.quickjs.host import host, root
from sandbox.limits import Limits

CELL_VARIABLE = "PROMPTLOG_TAKEOVER_CELL"
"""The environment variable with the path of the executable, for a machine that cannot build it."""


def cell() -> Path:
    """Return the executable that can be taken over. It is built once, and kept in the build cache."""
    if made := os.environ.get(CELL_VARIABLE):
        return Path(made)
    return checkout.build(Path(__file__).parents[2], defines=["TAKEOVER"]) / EXECUTABLE


def main() -> None:
    """Run the daemon with this cell."""
    from promptlogd.__main__ import main as daemon

    taken_over = cell()
    root.cell = lambda: taken_over
    if "--no-second-filter" in sys.argv:
        sys.argv.remove("--no-second-filter")
        command = host._command

        def without_filter(default: Limits) -> list[str]:
            return [*command(default), "no-filter"]

        host._command = without_filter
    daemon()


if __name__ == "__main__":
    main()
