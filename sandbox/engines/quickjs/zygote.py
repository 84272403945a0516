"""The zygote and its children: the part of promptlog that runs inside a QuickJS jail.

The standard library only, and as little of it as will do: every page that this process has is a page that a
fork has to copy the tables of. It is the jail's PID 1. It never reads a user byte: descriptor 0, the data
socket, belongs to the child of the moment; descriptor 1, the control socket, belongs to the zygote.

A child, forked ahead of time, gives up everything (`_confine`) and only then reads its one frame, runs it,
writes what came of it and exits. The zygote reaps it, reports its wait status and rusage, and forks the next.

Control (SOCK_SEQPACKET, one packet a message, numbers big-endian but for E's, which are the kernel's own):
    to the daemon    R                                              ready: the first blank child is there
                     E:4 status:4 user_s:8 user_us:8 system_s:8 system_us:8 maxrss_kib:8    a child has ended
    to the zygote    K number:4                                     kill the child with this number
                     L number:4 cpu_ms:4 memory_bytes:8             the same, and give these limits to the
                                                                    next one, and only to it
Children are numbered from 0, so that a message about one that has just ended does not hit the next.
Data (SOCK_STREAM): see `_read_job` and `_send`.

Most of what a run costs is the kernel's copying of pages that a child writes to, and to Python every object that
is looked at is written to. So the child's path is short, and what it needs is made in the zygote.
"""

import _ctypes
import gc
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from posix import _exit, read, write

# There is no typing module in the jail.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DATA, CONTROL = 0, 1
JSBOX = "/app/_jsbox.abi3.so"
SIGKILL, SIGXCPU, ENOMEM = 9, 24, 12
POLLIN = 1
READ_BYTES = 16384  # what most programs fit into; room for more would be room that every child has to make
REPORT_BYTES = 48
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CLOCK_PROCESS_CPUTIME_ID = 2
RLIMIT_CPU, RLIMIT_NPROC, RLIMIT_AS = 0, 6, 9
CLOSE, PRLIMIT64, TIMER_CREATE, TIMER_SETTIME, PRCTL, CLONE = {
    "x86_64": (3, 302, 222, 223, 157, 56),
    "aarch64": (57, 261, 107, 110, 167, 220),
}[sys.argv[3]]
CLONE_AS_FORK = 0x1200011  # CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD, the one clone that the policy has
FOREVER_MS = 0x7FFFFFFF

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
# What says where a body is wrong that is not wrong before its end.
LOOSE = 'async function __promptlog_loose(prompt, env) {"use strict";\n'
# What `quickjs_frame` (frames.py) puts behind it closes the call: the prompt, the env and the limits.
BODY = (
    '__promptlog_run(async function (prompt, env) {"use strict";\n',
    '\n;return typeof result === "undefined" ? void 0 : result;\n}',
)
EXPORTED = ("default", "const", "let", "var", "function", "class", "async")
NO_DEFAULT = "a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)"
MODULE = 'import("program"); __promptlog_run(import("program")'
KIND_TEXT = ord("B")
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


# Called with small numbers, which go as C ints, and with references to buffers (`byref`, made once): for neither does
# ctypes make an object.
_libc = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # None: this process
_syscall = _Function(_ctypes.dlsym(_libc, "syscall"))
_poll = _Function(_ctypes.dlsym(_libc, "poll"))
_wait4 = _Function(_ctypes.dlsym(_libc, "wait4"))
_write = _Function(_ctypes.dlsym(_libc, "write"))
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
    """What a child tells the kernel to give up everything that a run does not need, made ready in the zygote."""

    def __init__(self, filter_program: bytes) -> None:
        self._instructions = _buffer(filter_program)
        self._program = _buffer(_native(len(filter_program) // 8, _ctypes.addressof(self._instructions)))
        # struct sigevent: value, signo, SIGEV_SIGNAL (0).
        self._event = _buffer(_native(0) + SIGXCPU.to_bytes(4, sys.byteorder) + bytes(52))
        self._timer = _buffer(bytes(4))
        # One after another: struct itimerspec (interval, value) and struct rlimit of CPU, NPROC and AS.
        self._numbers = _buffer(bytes(80))
        self._view = memoryview(self._numbers).cast("B")
        cpu, nproc, memory = (_ctypes.byref(self._numbers, offset) for offset in (32, 48, 64))
        # Files, cores and locked memory are at 0 in all of the jail; the zygote alone may fork. The timer that
        # a process makes first has the number 0; were it another, the second of these calls would fail.
        self.calls = (
            (CLOSE, CONTROL),
            (PRLIMIT64, 0, RLIMIT_CPU, cpu, 0),
            (PRLIMIT64, 0, RLIMIT_NPROC, nproc, 0),
            (PRLIMIT64, 0, RLIMIT_AS, memory, 0),
            (TIMER_CREATE, CLOCK_PROCESS_CPUTIME_ID, _ctypes.byref(self._event), _ctypes.byref(self._timer)),
            (TIMER_SETTIME, 0, 0, _ctypes.byref(self._numbers), 0),
            (PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, _ctypes.byref(self._program), 0, 0),
        )

    def set_limits(self, cpu_ms: int, memory_bytes: int) -> None:
        """Say what the next child gets."""
        timer = (0, 0, cpu_ms // 1000, cpu_ms % 1000 * 1000000)
        cpu_s = cpu_ms // 1000 + 2
        self._view[:80] = _native(*timer, cpu_s, cpu_s + 1, 0, 0, memory_bytes, memory_bytes)

    def put_on(self) -> None:
        """Confine this process, a child. Nothing of a user's has been read yet."""
        call = _syscall
        close, cpu, nproc, memory, make_timer, set_timer, filter = self.calls
        # One by one: a loop would make Python compile this anew (quicken it) in each child.
        if call(*close) or call(*cpu) or call(*nproc) or call(*memory):
            _exit(71)
        if call(*make_timer) or call(*set_timer) or call(*filter):
            _exit(71)


def _read_job(read: "Callable[[int, int], bytes]" = read) -> bytes:
    """The one frame: its size in eight digits, kind:1 and what belongs to the kind.

    B the text to evaluate, arguments included. For the other kinds the lengths:4 of code, arguments, prompt and
    env, then these: L run a body, M run a module, both checked before; S check a source and run it; C check and
    wrap a source. The arguments are what stands behind the code when it is run. The prompt and the env are there
    if they are too long to stand in the arguments.
    """
    data = read(DATA, READ_BYTES)
    while missing := 8 - len(data) if len(data) < 8 else int(data[:8]) - len(data):
        part = read(DATA, missing)
        if not part:
            _exit(0)
        data += part
    return data


def _fields(data: bytes) -> list[str]:
    fields = []
    end = 25
    for at in (9, 13, 17, 21):
        start, end = end, end + int.from_bytes(data[at : at + 4], "big")
        fields.append(data[start:end].decode())
    return fields


def _send(kind: bytes, *fields: bytes, write: "Callable[[int, bytes | memoryview], int]" = write) -> None:
    """One frame to the daemon: kind:1 length:4, then the fields, each with its length:4 unless it is the only one.

    kind: l log line (level digit first), v value, o size of a value that is too large, b bad result, w wrapped
    code, and x exception, m exception for lack of memory, s syntax error, all three with the fields
    name, message, stack.
    """
    payload = fields[0]
    if len(fields) > 1:
        payload = b"".join([len(field).to_bytes(4, "big") + field for field in fields])
    data = kind + len(payload).to_bytes(4, "big") + payload
    written = write(DATA, data)
    while written < len(data):
        written += write(DATA, memoryview(data)[written:])


class _Refused(Exception):
    """The source is no program. Holds the engine's error."""


class _Found(Exception):
    """An error with a place that we found ourselves, in the form of the engine's: a column counts bytes, from 1."""

    name = "SyntaxError"

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        self.message = message
        self.stack = f"    at eval_script:{line}:{column}\n" if line else ""


class _Engine:
    """One context with scripts in it, the prelude first, and the host's side of the hooks that this uses."""

    def __init__(self, runtime_type: "Any", *scripts: str) -> None:
        self._runtime = runtime_type(
            memory_limit=ENGINE_HEAP_BYTES,
            max_stack_size=ENGINE_STACK_BYTES,
            max_value_bytes=ENGINE_VALUE_BYTES,
        )
        self._errno = _Errno()
        self._job: Any = None
        self.send = _send
        self._eval = self._runtime.eval
        self._runtime.bind_function("__promptlog_take", self._take)
        self._runtime.bind_function("__promptlog_log", self._log)
        # As a module, so that its frames in a stack have a name of their own.
        for number, script in enumerate(scripts):
            name = "promptlog:prelude" + str(number or "")
            self._runtime.add_static_module(name, script)
            # A number: at an object that is no ArrayBuffer, jsbox leaves an exception for the next import to find.
            self._runtime.eval('import("' + name + '").then(() => 0)')

    def _take(self) -> "Any":
        return self._job

    def _log(self, level: int, text: str) -> None:
        # A program can get hold of this function (CallSite.getFunction): any level and any text may come.
        self.send(b"l", (b"%d" % level if level in (0, 1, 2, 3, 4) else b"1") + text.encode())

    def _end(self, kind: str, first: str, message: str, stack: str) -> None:
        if kind in ("o", "b"):
            self.send(kind.encode(), first.encode())
        elif kind == "s":
            self.send(b"s", b"SyntaxError", first.encode(), b"")
        else:
            self._exception(first, message, stack)

    def _exception(self, name: str, message: str, stack: str) -> None:
        kind = b"m" if self.out_of_memory(name, message) else b"x"
        self.send(kind, name.encode(), message.encode(), stack.encode())

    def out_of_memory(self, name: str, message: str) -> bool:
        """Whether an error is the engine's own for lack of memory.

        The text alone says nothing, a program can throw any: the kernel must have refused memory as well.
        """
        engines_own = (name == "InternalError" and message == "out of memory") or (
            not name and message == "thrown: null"
        )
        return engines_own and self._errno.refused_memory()

    def clear_errno(self) -> None:
        """Forget what failed before; from here on ENOMEM says that the kernel refused memory."""
        self._errno.clear()

    def _parse(self, text: str) -> BaseException | None:
        """Return what is wrong with a script. Its first statement throws, so that no other is ever executed.

        In the run's own context: `check_syntax` makes one for each call, which takes seven times as long.
        """
        try:
            self._eval("throw 0;" + text)
        except Exception as error:
            if getattr(error, "name", "") is None and getattr(error, "message", "") == "0":
                return None
            return error
        return RuntimeError("the engine did not throw")

    def check(self, source: str) -> str:
        """Return the wrapped code: B and a script that runs the body, or M and the module. Raises _Refused."""
        first = error = self._parse(CHECKS[0][0] + source + CHECKS[0][1])
        for before, after in CHECKS[1:]:
            error = self._parse(before + source + after) if error is None else error
        if error is None:
            return "B" + BODY[0] + source + BODY[1]
        # What parses in one and not in the next closes the wrapper: its declarations are the context's now.
        if first is not None and (export := _exports(source)) is not None:
            line, column, opens = export
            try:
                self._runtime.check_syntax(source, module=True)
            except Exception as exc:
                if opens:
                    raise _Refused("M", _clear(exc, source)) from None
            else:
                if "default" in source:
                    return "M" + source
                raise _Refused("M", _Found(NO_DEFAULT, line, column))
        if _place(error)[0] > source.count("\n") + 2:
            error = self._in_its_own_text(source, error)
        raise _Refused("B", _clear(error, source, lines_above=1))

    def _in_its_own_text(self, source: str, error: BaseException) -> BaseException:
        """Return what is wrong with a body in which the engine noticed nothing before the bracket's end."""
        own = self._parse(LOOSE + source)
        if own is None:
            # It closes the bracket. A function is declared, and not run: the last character of its text is where.
            try:
                text = self._eval("__promptlog_loose.toString()")[len(LOOSE) : -1]
            except Exception:
                return error
            before = text[text.rfind("\n") + 1 :]
            return _Found("Unexpected token '}'", text.count("\n") + 2, len(before.encode()) + 1)
        return own

    def touch(self) -> None:
        """Break the pages that every run writes to out of the zygote's, while there is no run to wait for it."""
        self._eval("(async () => 0)()")

    def run(self, text: str) -> None:
        """Evaluate a program that has its arguments, and send what came of it."""
        try:
            said = self._eval(text)
            if said is None:
                # The engine lost the string for lack of memory: there is nothing else that the prelude returns.
                self.send(b"m", b"InternalError", b"out of memory", b"")
            elif said > '"':
                self.send(b"v", said.encode())
            else:
                # It begins with a "!", which sorts before the first character of any JSON text.
                self._end(*said[1:].split("\0", 3))
        except BaseException as error:
            self._broken(error)

    def run_with(self, wrapped: str, arguments: str, prompt: str, env: str) -> None:
        """Run a wrapped body or module, with a prompt and an env that the arguments leave out, maybe."""
        self._job = (prompt, env)
        if wrapped[0] == "B":
            self.run(wrapped[1:] + arguments)
            return
        try:
            self._runtime.add_static_module("program", wrapped[1:])
        except BaseException as error:
            self._broken(error)
        else:
            self.run(MODULE + arguments)

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


def _clear(error: BaseException, source: str, lines_above: int = 0) -> BaseException:
    """Return an error that says what it means."""
    if getattr(error, "message", None) == "unexpected token in expression: ''":
        return _Found("Unexpected end of input", *_place(error))
    if getattr(error, "message", None) == "Maximum call stack size exceeded":
        return _Found("it is nested too deeply")
    line, column = _place(error)
    lines = source.split("\n")
    if 0 < line - lines_above <= len(lines):
        at = lines[line - lines_above - 1].lstrip()
        if at[:6] == "import" and at[6:7] in (" ", "{", "*", '"', "'"):
            return _Found("a program has its own text alone, and can not import", line, column)
    return error


def _place(error: BaseException) -> tuple[int, int]:
    """Return the line and column of an error of the parser's, or (0, 0)."""
    parts = str(getattr(error, "stack", None)).split("\n")[0].split(":")
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return int(parts[1]), int(parts[2])
    return 0, 0


def _exports(source: str) -> tuple[int, int, bool] | None:
    """Return what makes a text look like a module: an export's line and column, and whether it opens its line.

    One that does goes before one that does not, which a text or a comment may hold as well.
    """
    found = None
    for number, line in enumerate(source.split("\n"), 1):
        at = line.find("export")
        while at >= 0:
            rest = line[at + 6 : at + 64].lstrip()
            if rest[:1] in ("", "{", "*") or rest.startswith(EXPORTED):
                if not line[:at].strip():
                    return number, at + 1, True
                found = found or (number, len(line[:at].encode()) + 1, False)
            at = -1 if found else line.find("export", at + 6)
    return found


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


def _child(engine: _Engine, confinement: _Confinement) -> None:
    engine.touch()
    confinement.put_on()
    _take_a_job(engine, _read_job())
    _exit(0)


def _take_a_job(engine: _Engine, data: bytes) -> None:
    if data[8] == KIND_TEXT:
        engine.run(data[9:].decode())
    else:
        _run_or_check(engine, data)


def _rehearse(engine: _Engine) -> None:
    """Do in the zygote what each child does, on a job of our own, so that Python's caches have what it looks up."""
    engine.send = lambda kind, *fields: _send(kind, *fields, write=lambda descriptor, data: len(data))
    job = b"%08d%b" % (8 + 1 + 5, b"B'\"x\"'")
    for _ in range(2):
        engine.touch()
        _take_a_job(engine, _read_job(lambda descriptor, size: job))
    engine.send = _send


def _run_or_check(engine: _Engine, data: bytes) -> None:
    kind = data[8:9]
    code, arguments, prompt, env = _fields(data)
    if kind == b"L":
        wrapped = "B" + code
    elif kind == b"M":
        wrapped = "M" + code
    else:
        try:
            wrapped = engine.check(_without_nul(code))
        except _Refused as refused:
            form, error = refused.args
            name = getattr(error, "name", None) or type(error).__name__
            message = getattr(error, "message", None) or str(error)
            stack = getattr(error, "stack", None) or ""
            kind = b"m" if isinstance(error, MemoryError) or engine.out_of_memory(name, message) else b"s"
            _send(kind, (form + name).encode(), message.encode("utf-8", "replace"), stack.encode("utf-8", "replace"))
            return
        if kind == b"C":
            _send(b"w", wrapped.encode())
            return
    engine.run_with(wrapped, arguments, prompt, env)


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
    engine.touch()
    engine.run_with(wrapped, ", void 0, void 0, 100, 100, 1, 2, 3)", "x", "{}")


def main(cpu_ms: int, memory_bytes: int) -> None:
    loader = ExtensionFileLoader("_jsbox", JSBOX)
    spec = ModuleSpec("_jsbox", loader, origin=JSBOX)
    jsbox = loader.create_module(spec)
    loader.exec_module(jsbox)
    scripts = {}
    for name in ("contract", "prelude", "web", "encoding", "builtins"):
        with open("/app/" + name + ".js", encoding="utf-8") as file:
            scripts[name] = file.read()
    with open("/app/filter.bpf", "rb") as file:
        confinement = _Confinement(file.read())
    prelude = scripts["contract"] + scripts["prelude"]
    # In this order, so that what lives stands together, and the holes that the other leaves behind it.
    engine = _Engine(jsbox.Runtime, scripts["web"] + scripts["encoding"] + prelude, scripts["builtins"])
    _warm_up(_Engine(jsbox.Runtime, prelude))
    _rehearse(engine)
    posix.close(2)
    # struct pollfd (fd, events, revents), of control and of the child's pidfd.
    waited = _buffer(CONTROL.to_bytes(4, sys.byteorder) + bytes((POLLIN, 0, 0, 0, 0, 0, 0, 0, POLLIN, 0, 0, 0)))
    events = memoryview(waited).cast("B")
    # E, and behind it what wait4 fills in: the status, and struct rusage, of which the head is told.
    report = _buffer(b"E" + bytes(255))
    status, rusage = _ctypes.byref(report, 4), _ctypes.byref(report, 8)
    poll_arguments = (_ctypes.byref(waited), 2, FOREVER_MS)
    report_arguments = (CONTROL, _ctypes.byref(report), REPORT_BYTES)
    clone_arguments = (CLONE, CLONE_AS_FORK, 0, 0, 0, 0)
    default = (cpu_ms, memory_bytes)
    confinement.set_limits(*default)
    engine.clear_errno()
    gc.collect()
    # Pages that nobody uses any more would be copied in the tables of every child, and torn down with it.
    _Function(_ctypes.dlsym(_libc, "malloc_trim"))(_Long(0))
    gc.freeze()
    gc.disable()

    child, child_arguments = _child, (engine, confinement)
    special = False
    number = watched = -1
    while True:
        number += 1
        # The system call itself: the C library's fork, and Python's even more, mend locks and threads, of which there
        # are none here, on pages that the child would have to copy.
        pid = _syscall(*clone_arguments)
        if pid == 0:
            try:
                # A plain call Python would compile for its callee, anew in each child.
                child(*child_arguments)
            except MemoryError:
                _exit(72)
            finally:
                _exit(70)
        if pid < 0:
            _exit(73)
        if number == 0:
            write(CONTROL, b"R")
        pidfd = posix.pidfd_open(pid)
        if pidfd != watched:
            watched = pidfd
            events[8:12] = pidfd.to_bytes(4, sys.byteorder)
        other_limits = None
        while True:
            _poll(*poll_arguments)
            if events[6]:
                message = read(CONTROL, 64)
                if not message:
                    _exit(0)
                if int.from_bytes(message[1:5], "big") == number:
                    if message[:1] == b"L":
                        other_limits = (int.from_bytes(message[5:9], "big"), int.from_bytes(message[9:17], "big"))
                    posix.kill(pid, SIGKILL)
            if events[14]:
                break
        posix.close(pidfd)
        _wait4(pid, status, 0, rusage)
        _write(*report_arguments)
        if other_limits is not None:
            confinement.set_limits(*other_limits)
            special = True
        elif special:
            confinement.set_limits(*default)
            special = False


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
