"""The zygote and its children: the part of promptlog that runs inside a QuickJS jail.

The standard library only, and as little of it as will do: every page that this process has is a page that a
fork has to copy the tables of. It is the jail's PID 1. It never reads a user byte: descriptor 0, the data
socket, belongs to the child of the moment; descriptor 1, the control socket, belongs to the zygote.

A child, forked ahead of time, gives up everything (`_confine`) and only then reads its one frame, runs it,
writes what came of it and exits. The zygote reaps it, reports its wait status and rusage, and forks the next.

Numbers on both sockets are big-endian. Control (SOCK_SEQPACKET, one packet a message):
    to the daemon    R                                              ready: the first blank child is there
                     E status:4 user_us:8 system_us:8 maxrss_kb:8   a child has ended
    to the zygote    K number:4                                     kill the child with this number
                     L number:4 cpu_ms:4 memory_bytes:8             the same, and give these limits to the
                                                                    next one, and only to it
Children are numbered from 0, so that a message about one that has just ended does not hit the next.
Data (SOCK_STREAM): see `_read_job` and `_send`.
"""

import _ctypes
import gc
import posix
import resource
import select
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

# There is no typing module in the jail.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DATA, CONTROL = 0, 1
JSBOX = "/app/_jsbox.abi3.so"
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CLOCK_PROCESS_CPUTIME_ID = 2
SIGKILL, SIGXCPU, ENOMEM = 9, 24, 12
TIMER_CREATE, TIMER_SETTIME = {"x86_64": (222, 223), "aarch64": (107, 110)}[sys.argv[3]]

# The engine has no way to change its heap limit later, and a run may ask for less or more memory than the
# next, so the engine's own limit is off, and the kernel's RLIMIT_AS on the child is the limit.
ENGINE_HEAP_BYTES = 0
ENGINE_STACK_BYTES = 1024 * 1024
ENGINE_VALUE_BYTES = 64 * 1024 * 1024

# A body that parses between all three of these brackets closes none of them. Let `}` be the first brace that
# closes the wrapper's: it is the same one in each, since up to it they read alike. What follows it must be an
# operator, a comma or `)` in the first, never `}`; a comma or `}` in the second; a class member, `;` or `}`
# in the third. No token is all of that.
CHECKS = (
    ('(async function (prompt, env) {"use strict";\n', "\n})"),
    ('({async program(prompt, env) {"use strict";\n', "\n}})"),
    ("(class {async program(prompt, env) {\n", "\n}})"),
)
BODY = (
    '__promptlog_end((async function (prompt, env) {"use strict";\n',
    '\n;return typeof result === "undefined" ? void 0 : result;\n})(...__promptlog_begin()))',
)
MODULE = 'import("program"); __promptlog_module(import("program"))'
UNSETTLED = "promise never settled (no pending jobs)"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # not generic at run time
    _type_ = "l"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = _Long


class _Bytes(_ctypes.Array):  # type: ignore[type-arg]
    class _type_(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "B"

    _length_ = 4096


_libc = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # None: this process
_syscall = _Function(_ctypes.dlsym(_libc, "syscall"))
_prctl = _Function(_ctypes.dlsym(_libc, "prctl"))
_errno_location = _Function(_ctypes.dlsym(_libc, "__errno_location"))


def _buffer(data: bytes) -> "_Bytes":
    """A C buffer that holds these bytes. It must live as long as the kernel may read it."""
    buffer = _Bytes()
    memoryview(buffer).cast("B")[: len(data)] = data
    return buffer


class _Errno:
    """This thread's errno, where the C library leaves the kernel's refusal of memory."""

    def __init__(self) -> None:
        self._view = memoryview(_Int.from_address(_errno_location())).cast("B")

    def clear(self) -> None:
        self._view[:] = b"\0\0\0\0"

    def refused_memory(self) -> bool:
        return int.from_bytes(self._view, sys.byteorder) == ENOMEM


def _native(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)


class _Confinement:
    """What `_confine` hands to the kernel, made once in the zygote, so that a child writes to few new pages."""

    def __init__(self, filter_program: bytes) -> None:
        self._instructions = _buffer(filter_program)
        self.program = _buffer(_native(len(filter_program) // 8, _ctypes.addressof(self._instructions)))
        # struct sigevent: value, signo, SIGEV_SIGNAL (0); struct itimerspec: interval, value.
        self.event = _buffer(_native(0) + SIGXCPU.to_bytes(4, sys.byteorder) + bytes(52))
        self.timer = _Int(-1)
        self.value = _buffer(bytes(32))
        self._view = memoryview(self.value).cast("B")

    def set_cpu_ms(self, cpu_ms: int) -> None:
        """Let the timer go off after so much CPU time."""
        self._view[:32] = _native(0, 0, cpu_ms // 1000, cpu_ms % 1000 * 1000000)


def _confine(confinement: _Confinement, cpu_ms: int, memory_bytes: int) -> None:
    """Give up everything that a run does not need. Nothing of a user's has been read yet."""
    posix.close(CONTROL)
    setrlimit = resource.setrlimit
    setrlimit(resource.RLIMIT_CPU, (cpu_ms // 1000 + 2, cpu_ms // 1000 + 3))
    # Files, cores and locked memory are at 0 in all of the jail; the zygote alone may fork.
    setrlimit(resource.RLIMIT_NPROC, (0, 0))
    setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    confinement.set_cpu_ms(cpu_ms)
    timer = confinement.timer
    if (
        _syscall(_Long(TIMER_CREATE), _Long(CLOCK_PROCESS_CPUTIME_ID), confinement.event, _ctypes.byref(timer)) != 0
        or _syscall(_Long(TIMER_SETTIME), _Long(timer.value), _Long(0), confinement.value, _Long(0)) != 0
        or _prctl(_Long(PR_SET_SECCOMP), _Long(SECCOMP_MODE_FILTER), confinement.program, _Long(0), _Long(0)) != 0
    ):
        posix._exit(71)


def _read(count: int) -> bytes:
    parts = []
    while count:
        part = posix.read(DATA, count)
        if not part:
            posix._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_job() -> tuple[bytes, int, int, bytes, bytes, bytes]:
    """The one frame: kind:1 result_bytes:4 log_bytes:4 and the lengths:4 of code, prompt and env, then these.

    kind: r run wrapped code, s check and run a source, c check and wrap a source, q exit.
    """
    header = _read(21)
    numbers = [int.from_bytes(header[i : i + 4], "big") for i in range(1, 21, 4)]
    result_bytes, log_bytes, *lengths = numbers
    code, prompt, env = [_read(length) for length in lengths]
    return header[:1], result_bytes, log_bytes, code, prompt, env


def _send(kind: bytes, *fields: bytes) -> None:
    """One frame to the daemon: kind:1 length:4, then the fields, each with its length:4 unless it is the only one.

    kind: l log line (level digit first), v value, o size of a value that is too large, b bad result, w wrapped
    code, and x exception, m exception for lack of memory, s syntax error, all three with the fields
    name, message, stack.
    """
    if len(fields) > 1:
        payload = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    else:
        payload = fields[0]
    data = memoryview(kind + len(payload).to_bytes(4, "big") + payload)
    while data:
        data = data[posix.write(DATA, data) :]


class _Refused(Exception):
    """The source is no program. Holds the engine's error."""


class _Engine:
    """One context with the prelude in it, and the host's side of the hooks that the prelude uses."""

    def __init__(self, runtime_type: "Any", prelude: str) -> None:
        self._runtime = runtime_type(
            memory_limit=ENGINE_HEAP_BYTES,
            max_stack_size=ENGINE_STACK_BYTES,
            max_value_bytes=ENGINE_VALUE_BYTES,
        )
        self._errno = _Errno()
        self._finished = False
        self._job: Any = None
        self.send = _send
        self._runtime.bind_function("__promptlog_take", self._take)
        self._runtime.bind_function("__promptlog_log", self._log)
        self._runtime.bind_function("__promptlog_done", self._done)
        # As a module, so that its frames in a stack have a name of their own.
        self._runtime.add_static_module("promptlog:prelude", prelude)
        self._runtime.eval('import("promptlog:prelude")')

    def _take(self) -> "Any":
        return self._job

    def _log(self, level: int, text: str) -> None:
        self.send(b"l", (b"%d" % level) + text.encode())

    def _done(self, kind: str, first: str, message: str, stack: str) -> None:
        if self._finished:
            return
        self._finished = True
        if kind == "v":
            value = first.encode()
            if len(value) > self._job[2]:
                self.send(b"o", b"%d" % len(value))
            else:
                self.send(b"v", value)
        elif kind in ("o", "b"):
            self.send(kind.encode(), first.encode())
        elif kind == "s":
            self.send(b"s", b"SyntaxError", first.encode(), b"")
        else:
            self._exception(first, message, stack)

    def _exception(self, name: str, message: str, stack: str) -> None:
        # The text alone says nothing, a program can throw any: the kernel must have refused memory as well.
        out_of_memory = (name == "InternalError" and message == "out of memory") or (
            not name and message == "thrown: null"
        )
        kind = b"m" if out_of_memory and self._errno.refused_memory() else b"x"
        self.send(kind, name.encode(), message.encode(), stack.encode())

    def check(self, source: str) -> str:
        """Return the wrapped code: B and a script that runs the body, or M and the module. Raises _Refused."""
        error: BaseException | None = None
        for before, after in CHECKS:
            try:
                self._runtime.check_syntax(before + source + after)
            except Exception as exc:
                error = exc
                break
        else:
            return "B" + BODY[0] + source + BODY[1]
        if "export" in source:
            try:
                self._runtime.check_syntax(source, module=True)
            except Exception as exc:
                raise _Refused("M", exc) from None
            if _has_default_export(source):
                return "M" + source
        raise _Refused("B", error)

    def touch(self) -> None:
        """Break the pages that every run writes to out of the zygote's, while there is no run to wait for it."""
        self._runtime.eval("(async () => 0)()")

    def run(self, wrapped: str, prompt: str, env: str, result_bytes: int, log_bytes: int, seed: bytes) -> None:
        seeds = [int.from_bytes(seed[i : i + 4], "little") - 2**31 for i in (0, 4, 8)]
        self._job = [prompt, env, result_bytes, log_bytes, *seeds]
        code = wrapped[1:]
        self._errno.clear()
        try:
            if wrapped[0] == "M":
                self._runtime.add_static_module("program", code)
                self._runtime.eval(MODULE)
            else:
                self._runtime.eval(code)
        except BaseException as error:
            if not self._finished:
                self._finished = True
                self._broken(error)
        if not self._finished:
            self.send(b"m", b"InternalError", b"out of memory", b"")

    def _broken(self, error: BaseException) -> None:
        """The engine gave up outside of the program's own code."""
        message = getattr(error, "message", None) or str(error)
        if message == UNSETTLED:
            message = "the program waits for a promise that nothing can settle"
        elif isinstance(error, MemoryError) or self._errno.refused_memory():
            self.send(b"m", b"InternalError", b"out of memory", b"")
            return
        name = getattr(error, "name", None) or "Error"
        stack = getattr(error, "stack", None) or ""
        self.send(b"x", name.encode(), message.encode("utf-8", "replace"), stack.encode("utf-8", "replace"))


def _has_default_export(source: str) -> bool:
    at = source.find("export")
    while at >= 0:
        rest = source[at + 6 :].lstrip()
        if rest.startswith("default") or (rest.startswith("{") and "default" in rest[: rest.find("}") + 1]):
            return True
        at = source.find("export", at + 6)
    return False


def _without_nul(source: str) -> str:
    r"""The engine takes no NUL byte in its text: write it as the escape \x00, which is one too where it may stand."""
    if "\0" not in source:
        return source
    parts = source.split("\0")
    text = parts[0]
    for part in parts[1:]:
        slashes = len(text) - len(text.rstrip("\\"))
        text = (text[:-1] if slashes % 2 else text) + "\\x00" + part
    return text


def _child(engine: _Engine, confinement: _Confinement, limits: tuple[int, int]) -> None:
    seed = posix.urandom(12)
    engine.touch()
    _confine(confinement, *limits)
    kind, result_bytes, log_bytes, code, prompt, env = _read_job()
    if kind == b"q":
        posix._exit(0)
    wrapped = code.decode()
    if kind != b"r":
        try:
            wrapped = engine.check(_without_nul(wrapped))
        except _Refused as refused:
            form, error = refused.args
            name = getattr(error, "name", None) or type(error).__name__
            message = getattr(error, "message", None) or str(error)
            stack = getattr(error, "stack", None) or ""
            kind = b"m" if isinstance(error, MemoryError) or "out of memory" in message else b"s"
            _send(kind, (form + name).encode(), message.encode("utf-8", "replace"), stack.encode("utf-8", "replace"))
            posix._exit(0)
        if kind == b"c":
            _send(b"w", wrapped.encode())
            posix._exit(0)
    engine.run(wrapped, prompt.decode(), env.decode() or "{}", result_bytes, log_bytes, seed)
    posix._exit(0)


def _warm_up(engine: _Engine) -> None:
    """Walk every path once in a context that is thrown away: what is made lazily can't be made after the filter."""
    engine.send = lambda *fields: None
    for source in ("console.log(1); const result = {a: [1]}", "throw new TypeError(prompt)"):
        wrapped = engine.check(source)
    for bad in ("}", "export default 1;", "export default }"):
        try:
            engine.check(bad)
        except _Refused as refused:
            str(getattr(refused.args[1], "stack", ""))
    engine.run(wrapped, "x", "{}", 100, 100, bytes(12))


def main(cpu_ms: int, memory_bytes: int) -> None:
    loader = ExtensionFileLoader("_jsbox", JSBOX)
    spec = ModuleSpec("_jsbox", loader, origin=JSBOX)
    jsbox = loader.create_module(spec)
    loader.exec_module(jsbox)
    with open("/app/prelude.js", encoding="utf-8") as file:
        prelude = file.read()
    with open("/app/filter.bpf", "rb") as file:
        confinement = _Confinement(file.read())
    _warm_up(_Engine(jsbox.Runtime, prelude))
    engine = _Engine(jsbox.Runtime, prelude)
    posix.close(2)
    gc.collect()
    # Pages that nobody uses any more would be copied in the tables of every child, and torn down with it.
    _Function(_ctypes.dlsym(_libc, "malloc_trim"))(_Long(0))
    gc.freeze()
    gc.disable()

    default = (cpu_ms, memory_bytes)
    limits = default
    poll = select.poll()
    poll.register(CONTROL, select.POLLIN)
    number = -1
    while True:
        number += 1
        pid = posix.fork()
        if pid == 0:
            try:
                _child(engine, confinement, limits)
            except MemoryError:
                posix._exit(72)
            finally:
                posix._exit(70)
        limits = default
        if number == 0:
            posix.write(CONTROL, b"R")
        pidfd = posix.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
        ended = False
        while not ended:
            for descriptor, _ in poll.poll():
                if descriptor == pidfd:
                    ended = True
                    continue
                message = posix.read(CONTROL, 64)
                if not message:
                    posix._exit(0)
                if int.from_bytes(message[1:5], "big") != number:
                    continue
                if message[:1] == b"L":
                    limits = (int.from_bytes(message[5:9], "big"), int.from_bytes(message[9:17], "big"))
                posix.kill(pid, SIGKILL)
        poll.unregister(pidfd)
        posix.close(pidfd)
        _, status, usage = posix.wait4(pid, 0)
        posix.write(
            CONTROL,
            b"E"
            + status.to_bytes(4, "big")
            + int(usage.ru_utime * 1000000).to_bytes(8, "big")
            + int(usage.ru_stime * 1000000).to_bytes(8, "big")
            + usage.ru_maxrss.to_bytes(8, "big"),
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
