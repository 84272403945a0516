"""What a child tells the kernel to give up before it reads a user byte, and the C library's functions for that.

In the jail; the standard library only. What is handed to the kernel is made once, in the zygote.
"""

import _ctypes
import sys
from _ctypes import byref, dlsym
from posix import _exit

CONTROL = 1
SIGXCPU, ENOMEM = 24, 12
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CLOCK_PROCESS_CPUTIME_ID = 2
RLIMIT_CPU, RLIMIT_NPROC, RLIMIT_AS = 0, 6, 9
CLOSE, PRLIMIT64, TIMER_CREATE, TIMER_SETTIME, PRCTL, CLONE = {
    "x86_64": (3, 302, 222, 223, 157, 56),
    "aarch64": (57, 261, 107, 110, 167, 220),
}[sys.argv[3]]


class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # not generic at run time
    _type_ = "l"


class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = Long


class Bytes(_ctypes.Array):  # type: ignore[type-arg]
    class _type_(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "B"

    _length_ = 4096


# Called with small numbers, which go as C ints, and with references to buffers (`byref`, made once): for neither does
# ctypes make an object.
libc = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # None: this process
syscall = Function(dlsym(libc, "syscall"))
poll = Function(dlsym(libc, "poll"))
wait4 = Function(dlsym(libc, "wait4"))
write_from = Function(dlsym(libc, "write"))
errno_location = Function(dlsym(libc, "__errno_location"))


def buffer(data: bytes) -> "Bytes":
    """A C buffer that holds these bytes. It must live as long as the kernel may read it."""
    buffer = Bytes()
    memoryview(buffer).cast("B")[: len(data)] = data
    return buffer


class Errno:
    """This thread's errno, where the C library leaves the kernel's refusal of memory."""

    def __init__(self) -> None:
        self._view = memoryview(Int.from_address(errno_location())).cast("B")

    def clear(self) -> None:
        self._view[:] = b"\0\0\0\0"

    def refused_memory(self) -> bool:
        return int.from_bytes(self._view, sys.byteorder) == ENOMEM


def native(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)


class Confinement:
    """What a child tells the kernel to give up everything that a run does not need, made ready in the zygote."""

    def __init__(self, filter_program: bytes) -> None:
        self._instructions = buffer(filter_program)
        self._program = buffer(native(len(filter_program) // 8, _ctypes.addressof(self._instructions)))
        # struct sigevent: value, signo, SIGEV_SIGNAL (0).
        self._event = buffer(native(0) + SIGXCPU.to_bytes(4, sys.byteorder) + bytes(52))
        self._timer = buffer(bytes(4))
        # One after another: struct itimerspec (interval, value) and struct rlimit of CPU, NPROC and AS.
        self._numbers = buffer(bytes(80))
        self._view = memoryview(self._numbers).cast("B")
        cpu, nproc, memory = (byref(self._numbers, offset) for offset in (32, 48, 64))
        # Files, cores and locked memory are at 0 in all of the jail; the zygote alone may fork. The timer that
        # a process makes first has the number 0; were it another, the second of these calls would fail.
        self.calls = (
            (CLOSE, CONTROL),
            (PRLIMIT64, 0, RLIMIT_CPU, cpu, 0),
            (PRLIMIT64, 0, RLIMIT_NPROC, nproc, 0),
            (PRLIMIT64, 0, RLIMIT_AS, memory, 0),
            (TIMER_CREATE, CLOCK_PROCESS_CPUTIME_ID, byref(self._event), byref(self._timer)),
            (TIMER_SETTIME, 0, 0, byref(self._numbers), 0),
            (PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, byref(self._program), 0, 0),
        )

    def set_limits(self, cpu_ms: int, memory_bytes: int) -> None:
        """Say what the next child gets."""
        timer = (0, 0, cpu_ms // 1000, cpu_ms % 1000 * 1000000)
        cpu_s = cpu_ms // 1000 + 2
        self._view[:80] = native(*timer, cpu_s, cpu_s + 1, 0, 0, memory_bytes, memory_bytes)

    def put_on(self) -> None:
        """Confine this process, a child. Nothing of a user's has been read yet."""
        call = syscall
        close, cpu, nproc, memory, make_timer, set_timer, filter = self.calls
        # One by one: a loop would make Python compile this anew (quicken it) in each child.
        if call(*close) or call(*cpu) or call(*nproc) or call(*memory):
            _exit(71)
        if call(*make_timer) or call(*set_timer) or call(*filter):
            _exit(71)
