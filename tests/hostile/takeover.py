"""A promptlogd whose children can be taken over: for tests alone, run as a program of its own.

Its cell is promptlog's, built with -DTAKEOVER: takeover.c has a hook where a child has read its job, after the second
filter, in a child's exact position. A program that holds `//TAKEOVER ` and a command does not reach the engine; native
code runs instead:

    S NR ARGUMENT...   the system call NR; the result is written as the bad result's text: its value, or -errno
    I NR               the same without arguments through `int 0x80`, the 32-bit entry (x86-64)
    W HEX              write these bytes on the data socket, then exit with status 0
    H HEX              the same, then wait for input that never comes
    E HEX              the same again and again, without end
    X HEX CODE         the same once, then exit with this status
    R HEX COUNT        write these bytes so many times in one go, then the result 1, and exit

Arguments are numbers, or names of buffers that hold: path, a file that is there; zero, 4096 zero bytes; code, the
address of mapped code; unix and inet, socket addresses; iovec, one that points to zero.
With --no-second-filter before the daemon's own arguments children are not confined by the second filter.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.engines.quickjs.host import host, root
from sandbox.limits import Limits


def cell() -> Path:
    """Return the binary that can be taken over. It is built if it is not in the cache of builds."""
    beside = root.cell().with_name("quickjs-cell-takeover")
    if beside.is_file():
        return beside
    from cell_build import checkout

    return checkout.build(Path(__file__).parents[2], ["TAKEOVER"]) / "quickjs-cell"


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
