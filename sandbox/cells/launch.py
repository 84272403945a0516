"""Become nsjail, tied to the daemon's life and in a cgroup. Run as a script, by the daemon, in a process of its own.

Usage: launch.py PARENT CGROUP_FILE... -- COMMAND ARGUMENT...

Both must happen between the fork and nsjail's start. The daemon has threads, and code that a process with threads runs
between fork and exec can hang (fork(2)). So it is done here, after an exec. The standard library only.
"""

import os
import signal
import sys
from _ctypes import FUNCFLAG_CDECL, CFuncPtr, dlopen, dlsym

PR_SET_PDEATHSIG = 1


class Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL


def main(parent: int, files: list[str], command: list[str]) -> None:
    # nsjail would start process after process for nobody. The signal comes when the thread that forked ends (prctl(2)).
    prctl = Function(dlsym(dlopen(None, 2), "prctl"))  # type: ignore[arg-type]  # None: this process
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        return  # the daemon ended before the kernel knew that we wait for that
    at = ""
    try:
        for at in files:
            descriptor = os.open(at, os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)
        at = command[0]
        os.execv(at, command)
    except OSError as error:
        sys.exit(f"{at}: {error.strerror}")


if __name__ == "__main__":
    end = sys.argv.index("--")
    main(int(sys.argv[1]), sys.argv[2:end], sys.argv[end + 1 :])
