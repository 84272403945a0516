"""Runs in a jail under Deno's policy, in the place of Deno: makes one system call and says what came of it.

    native.py NR ARGUMENT...    as in takeover.py; prints the result, or -errno

Standard library of a QuickJS jail only: `_ctypes`, no `ctypes`.
"""

import _ctypes
import posix
import sys


class _Long(_ctypes._SimpleCData):
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _Bytes(_ctypes.Array):
    class _type_(_ctypes._SimpleCData):
        _type_ = "B"

    _length_ = 4096


def _buffer(data: bytes) -> _Bytes:
    buffer = _Bytes()
    memoryview(buffer).cast("B")[: len(data)] = data
    return buffer


def main() -> None:
    libc = _ctypes.dlopen(None, 2)
    syscall = _Function(_ctypes.dlsym(libc, "syscall"))
    zero, path = _buffer(bytes(4096)), _buffer(b"/app/filter.bpf\0")
    unix = _buffer((1).to_bytes(2, "little") + b"/run/promptlog/promptlog.sock\0")
    inet = _buffer((2).to_bytes(2, "little") + (80).to_bytes(2, "big") + bytes((127, 0, 0, 1)) + bytes(8))
    iovec = _buffer(_ctypes.addressof(zero).to_bytes(8, "little") + (16).to_bytes(8, "little"))
    names = {
        name: _ctypes.addressof(buffer)
        for name, buffer in {"zero": zero, "path": path, "unix": unix, "inet": inet, "iovec": iovec}.items()
    }
    names["libc"] = _ctypes.dlsym(libc, "malloc") & -4096
    numbers = [names[word] if word in names else int(word, 0) for word in sys.argv[1:]]
    numbers += [0] * (7 - len(numbers))
    result = syscall(*[_Long(number - (1 << 64) if number >= 1 << 63 else number) for number in numbers])
    posix.write(2, b"%d" % (-_ctypes.get_errno() if result == -1 else result))


main()
