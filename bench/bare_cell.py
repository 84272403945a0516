"""The least cell that could be: what promptlog's own is measured against. No jail, no prelude, no checks.

    python -I -S -B bare_cell.py ENGINE.so FILTER.bpf

A Python zygote on two sockets (0 data, 1 control) forks a child ahead of time. The child caps its address space,
puts on the second seccomp filter, reads one frame (length:4, JavaScript), evaluates it, writes the string that comes
out and exits. The zygote waits for it and writes its status. Limits, outcomes and the wrapping of programs are missing.
"""

import _ctypes
import gc
import posix
import resource
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

loader = ExtensionFileLoader("_jsbox", sys.argv[1])
jsbox = loader.create_module(ModuleSpec("_jsbox", loader, origin=sys.argv[1]))
loader.exec_module(jsbox)
runtime = jsbox.Runtime(memory_limit=0, max_stack_size=1 << 20, max_value_bytes=1 << 26)
runtime.eval("1")


class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = Long


class Buffer(_ctypes.Array):  # type: ignore[type-arg]
    class _type_(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: N801
        _type_ = "B"

    _length_ = 4096


def buffer(data: bytes) -> Buffer:
    """Return a C buffer that holds these bytes."""
    made = Buffer()
    memoryview(made).cast("B")[: len(data)] = data
    return made


prctl = Function(_ctypes.dlsym(_ctypes.dlopen(None, 2), "prctl"))  # type: ignore[arg-type]
with open(sys.argv[2], "rb") as file:
    instructions = file.read()
held = buffer(instructions)
program = buffer((len(instructions) // 8).to_bytes(8, "little") + _ctypes.addressof(held).to_bytes(8, "little"))
prctl(Long(38), Long(1), Long(0), Long(0), Long(0))
gc.collect()
gc.freeze()
gc.disable()
while True:
    pid = posix.fork()
    if pid == 0:
        posix.close(1)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 27, 1 << 27))
        if prctl(Long(22), Long(2), program, Long(0), Long(0)):
            posix._exit(9)
        size = int.from_bytes(posix.read(0, 4), "big")
        if not size:
            posix._exit(1)
        posix.write(0, runtime.eval(posix.read(0, size).decode()).encode())
        posix._exit(0)
    _, status, _ = posix.wait4(pid, 0)
    if status:
        posix._exit(0)
    posix.write(1, b"E")
