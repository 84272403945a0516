"""A promptlogd whose children can be taken over: for tests alone, run as a program of its own.

Its zygote is promptlog's, with a hook put in where a child has read its job: after the second filter, in a child's
exact position. A program that holds `//TAKEOVER ` and a command does not reach the engine; native code runs instead:

    S NR ARGUMENT...   the system call NR; the result is written as the bad result's text: its value, or -errno
    I NR               the same without arguments through `int 0x80`, the 32-bit entry (x86-64)
    W HEX              write these bytes on the data socket, then exit with status 0
    H HEX              the same, then wait for input that never comes
    E HEX              the same again and again, without end
    X HEX CODE         the same once, then exit with this status
    R HEX COUNT        write these bytes so many times in one go, then the result 1, and exit

Arguments are numbers, or names of buffers that hold: path, a file that is there; zero, 4096 zero bytes; libc, the
address of mapped code; unix and inet, socket addresses; iovec, one that points to zero.
With --no-second-filter before the daemon's own arguments children are not confined by the second filter.
"""

from __future__ import annotations

import sys
from pathlib import Path

HOOK = """
import _ctypes
from sandbox.engines.quickjs.jail.confinement import Bytes, Int, errno_location, native

_errno_view = memoryview(Int.from_address(errno_location())).cast("B")
_zero = buffer(bytes(4096))
_path = buffer(b"/app/sandbox/engines/quickjs/jail/zygote.pyc\\0")
_unix = buffer((1).to_bytes(2, "little") + b"/run/promptlog/promptlog.sock\\0")
_inet = buffer((2).to_bytes(2, "little") + (80).to_bytes(2, "big") + bytes((127, 0, 0, 1)) + bytes(8))
_iovec = buffer(native(_ctypes.addressof(_zero), 16))
_names = {
    "zero": _ctypes.addressof(_zero), "path": _ctypes.addressof(_path), "unix": _ctypes.addressof(_unix),
    "inet": _ctypes.addressof(_inet), "iovec": _ctypes.addressof(_iovec),
    "libc": dlsym(libc, "malloc") & -4096,
}
_mmap = Function(dlsym(libc, "mmap"))
_code = _mmap(*map(Long, (0, 4096, 7, 0x22, -1, 0)))  # executable: the zygote may, a child may not

_read_the_job = _read_job
def _read_job(*reader):
    job = _read_the_job(*reader)
    at = job.find(b"//TAKEOVER ")
    if at < 0:
        return job
    command, *words = job[at + 11 :].split(b"\\n")[0].decode().split()
    if command == "S":
        numbers = [_names[word] if word in _names else int(word, 0) for word in words]
        numbers += [0] * (7 - len(numbers))
        result = syscall(*[Long(number - (1 << 64) if number >= 1 << 63 else number) for number in numbers])
        if result == -1:
            result = -int.from_bytes(_errno_view, "little")
        _send(b"b", b"%d" % result)
    elif command == "I":
        code = b"\\xb8" + int(words[0]).to_bytes(4, "little") + b"\\xcd\\x80\\x48\\x98\\xc3"
        memoryview(Bytes.from_address(_code)).cast("B")[: len(code)] = code
        _send(b"b", b"%d" % Function(_code)())
    else:
        data = bytes.fromhex(words[0]) if words else b""
        if command == "R":
            data = data * int(words[1]) + b"v\\0\\0\\0\\0011"
        while data and command == "R":
            data = data[posix.write(DATA, data) :]
        posix.write(DATA, data)
        while command == "E":
            posix.write(DATA, data)
        if command == "H":
            posix.read(DATA, 1)
        posix._exit(int(words[1]) if command == "X" else 0)
    posix._exit(0)

"""

FILTER = "            (PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, byref(self._program), 0, 0),\n"
NO_FILTER = "            (PRLIMIT64, 0, RLIMIT_NPROC, nproc, 0),\n"


def hooked(zygote: str) -> str:
    """Return the zygote's source with the hook in it."""
    start = zygote.index('if __name__ == "__main__"')
    return zygote[:start] + HOOK + zygote[start:]


def without_filter(confinement: str) -> str:
    """Return the source of what confines a child, less the second filter."""
    assert FILTER in confinement
    return confinement.replace(FILTER, NO_FILTER)


def main() -> None:
    """Run the daemon, its zygote's source replaced on its way into the jail's root."""
    changes = {"zygote.py": hooked}
    if "--no-second-filter" in sys.argv:
        sys.argv.remove("--no-second-filter")
        changes["confinement.py"] = without_filter
    from promptlogd.__main__ import main as daemon
    from sandbox.engines.quickjs.host import root

    compile_as_it_is = root._compile

    def compile_changed(source: Path, target: Path, shown_as: str) -> None:
        change = changes.get(source.name)
        if change is None:
            compile_as_it_is(source, target, shown_as)
            return
        changed = target.with_name(f"changed-{source.name}")
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(change(source.read_text()))
        compile_as_it_is(changed, target, shown_as)
        changed.unlink()

    root._compile = compile_changed
    daemon()


if __name__ == "__main__":
    main()
