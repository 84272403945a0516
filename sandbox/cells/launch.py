"""Become nsjail, tied to the daemon's life and in a cgroup. Run as a script, by the daemon, in a process of its own.

Usage: launch.py PARENT CGROUP_FILE... -- COMMAND ARGUMENT...

Both must happen between the fork and nsjail's start. The daemon has threads, and Python code between fork and exec can
deadlock in such a process (fork(2)). So this script does it, after an exec. The standard library only.
"""

import os
import signal
import sys
from _ctypes import FUNCFLAG_CDECL, CFuncPtr, dlopen, dlsym

PR_SET_PDEATHSIG = 1


RTLD_NOW = 2


class CFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL


def main(parent: int, files: list[str], command: list[str]) -> None:
    # Without this, an nsjail whose daemon died would keep starting processes. The signal comes when the thread that
    # forked ends (prctl(2)). By way of `_ctypes`, since importing `ctypes` takes as long as Python's own start.
    prctl = CFunction(dlsym(dlopen(None, RTLD_NOW), "prctl"))  # type: ignore[arg-type]  # None: this process
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        return  # the daemon died before prctl took effect
    path = ""
    try:
        for path in files:
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)
        path = command[0]
        os.execve(path, command, {})  # Python itself has put LC_CTYPE into its environment
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


if __name__ == "__main__":
    end = sys.argv.index("--")
    main(int(sys.argv[1]), sys.argv[2:end], sys.argv[end + 1 :])
