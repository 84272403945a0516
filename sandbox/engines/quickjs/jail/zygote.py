"""The zygote and its children: the part of promptlog that runs inside a QuickJS jail.

The standard library only, and as little of it as will do: every page that this process has is a page that a
fork has to copy the tables of. It is the jail's PID 1. It never reads a user byte: descriptor 0, the data
socket, belongs to the child of the moment; descriptor 1, the control socket, belongs to the zygote.

A child, forked ahead of time, gives up everything (`_confine`) and only then reads its one frame, runs it,
writes what came of it and exits. The zygote reaps it, reports its wait status and rusage, and forks the next.

Control (SOCK_SEQPACKET, one packet a message, numbers big-endian but for E's, which are the kernel's own):
    to the daemon    R                                              ready: the first blank child is there
                     E:4 status:4 user_s:8 user_us:8 system_s:8 system_us:8 maxrss_kib:8    a child has ended
                     U:4 and the same        the same, and it left unread what it was sent: the zygote ends, too,
                                             since the next child would take the rest for its own job
    to the zygote    K number:4                                     kill the child with this number
                     L number:4 cpu_ms:4 memory_bytes:8             the same, and give these limits to the
                                                                    next one, and only to it
Children are numbered from 0, so that a message about one that has just ended does not hit the next.
Data (SOCK_STREAM): see `_read_job` and `_send`.

Most of what a run costs is the kernel's copying of pages that a child writes to, and to Python every object that
is looked at is written to. So the child's path is short, and what it needs is made in the zygote.
"""

import gc
import posix
import sys
from _ctypes import byref, dlsym
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from posix import _exit, read, write

sys.path.insert(0, "/app")

from sandbox.engines.quickjs.jail.confinement import (
    CLONE,
    CONTROL,
    Confinement,
    Function,
    Long,
    buffer,
    libc,
    poll,
    syscall,
    wait4,
    write_from,
)
from sandbox.engines.quickjs.jail.engine import Engine, joined
from sandbox.engines.quickjs.jail.source import Refused

DATA = 0
JSBOX = "/app/_jsbox.abi3.so"
SIGKILL = 9
POLLIN = 1
READ_BYTES = 16384  # what most programs fit into; room for more would be room that every child has to make
REPORT_BYTES = 48
CLONE_AS_FORK = 0x1200011  # CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD, the one clone that the policy has
FOREVER_MS = 0x7FFFFFFF
KIND_TEXT = ord("B")
UNREAD = ord("U")


def _read_job() -> bytes:
    """The one frame: j, the size of the rest in 4 bytes, kind:1 and what belongs to the kind.

    B the text to evaluate, arguments included. For the other kinds the lengths:4 of code, arguments, prompt, env and
    brackets, then these: L run a wrapped body, M run a module, both checked before; S check a source and run it; C
    check a source. The arguments are what stands behind the code when it is run. The prompt and the env are there if
    they are too long to stand in the arguments. The brackets are what a source is checked and wrapped in."""
    data = read(DATA, READ_BYTES)
    while missing := 5 - len(data) if len(data) < 5 else 5 + int.from_bytes(data[1:5], "big") - len(data):
        part = read(DATA, missing)
        if not part:
            _exit(0)
        data += part
    return data


def _fields(data: bytes) -> list[str]:
    fields = []
    end = 26
    for at in (6, 10, 14, 18, 22):
        start, end = end, end + int.from_bytes(data[at : at + 4], "big")
        fields.append(data[start:end].decode())
    return fields


def _send(kind: bytes, payload: bytes) -> None:
    """One frame to the daemon: kind:1, the size of the payload in 4 bytes, the payload.

    l log line, its level (one digit) first; v value; o size of a value that is too large; b message for a result that
    is not JSON; x exception: the fields name, message, stack; m no memory; s syntax error: form:1, the fields message
    and stack; f the form of a source that was checked."""
    data = kind + len(payload).to_bytes(4, "big") + payload
    written = write(DATA, data)
    while written < len(data):
        written += write(DATA, memoryview(data)[written:])


def _child(engine: Engine, confinement: Confinement) -> None:
    engine.touch()
    confinement.put_on()
    data = _read_job()
    if data[5] == KIND_TEXT:
        engine.run(data[6:].decode())
    else:
        _run_or_check(engine, data)
    _exit(0)


def _run_or_check(engine: Engine, data: bytes) -> None:
    kind = data[5:6]
    code, arguments, prompt, env, brackets = _fields(data)
    if kind in (b"L", b"M"):
        engine.run_with("B" if kind == b"L" else "M", code, arguments, prompt, env)
        return
    texts = brackets.split("\0")
    try:
        form = engine.check(code, texts)
    except Refused as refused:
        refused_form, error = refused.args
        name = getattr(error, "name", None) or type(error).__name__
        message = getattr(error, "message", None) or str(error)
        stack = getattr(error, "stack", None) or ""
        if isinstance(error, MemoryError) or engine.out_of_memory(name, message):
            _send(b"m", b"")
        else:
            fields = joined(message.encode("utf-8", "replace"), stack.encode("utf-8", "replace"))
            _send(b"s", refused_form.encode() + fields)
        return
    if kind == b"C":
        _send(b"f", form.encode())
        return
    if form == "B":
        code = texts[7] + code + texts[8]
    engine.run_with(form, code, arguments, prompt, env)


def _warm_up(engine: Engine, brackets: "list[str]") -> None:
    """Walk every path once in a context that is thrown away: what is made lazily can't be made after the filter."""
    engine.send = lambda kind, payload: None
    for source in ("console.log(1); const result = {a: [1]}", "throw new TypeError(prompt)"):
        engine.check(source, brackets)
    for bad in ("}", "export default 1;", "export default }"):
        try:
            engine.check(bad, brackets)
        except Refused as refused:
            str(getattr(refused.args[1], "stack", ""))
    engine.touch()
    code = brackets[7] + source + brackets[8]
    engine.run_with("B", code, ", void 0, void 0, 100, 100, 1, 2, 3)", "x", "{}")


def main(cpu_ms: int, memory_bytes: int) -> None:
    loader = ExtensionFileLoader("_jsbox", JSBOX)
    spec = ModuleSpec("_jsbox", loader, origin=JSBOX)
    jsbox = loader.create_module(spec)
    loader.exec_module(jsbox)
    scripts = {}
    for name in ("platform", "contract", "prelude", "builtins"):
        with open("/app/" + name + ".js", encoding="utf-8") as file:
            scripts[name] = file.read()
    with open("/app/brackets", encoding="utf-8") as file:
        brackets = file.read().split("\0")
    with open("/app/filter.bpf", "rb") as file:
        confinement = Confinement(file.read())
    prelude = scripts["contract"] + scripts["prelude"]
    # In this order, so that what lives stands together, and the holes that the other leaves behind it.
    engine = Engine(jsbox.Runtime, _send, scripts["platform"] + prelude, scripts["builtins"])
    _warm_up(Engine(jsbox.Runtime, _send, prelude), brackets)
    posix.close(2)
    # struct pollfd (fd, events, revents), of control and of the child's pidfd.
    waited = buffer(CONTROL.to_bytes(4, sys.byteorder) + bytes((POLLIN, 0, 0, 0, 0, 0, 0, 0, POLLIN, 0, 0, 0)))
    events = memoryview(waited).cast("B")
    unread = buffer(DATA.to_bytes(4, sys.byteorder) + bytes((POLLIN, 0, 0, 0)))
    # E, and behind it what wait4 fills in: the status, and struct rusage, of which the head is told.
    report = buffer(b"E" + bytes(255))
    status, rusage = byref(report, 4), byref(report, 8)
    poll_arguments = (byref(waited), 2, FOREVER_MS)
    report_kind = memoryview(report).cast("B")
    report_arguments = (CONTROL, byref(report), REPORT_BYTES)
    unread_arguments = (byref(unread), 1, 0)
    clone_arguments = (CLONE, CLONE_AS_FORK, 0, 0, 0, 0)
    default = (cpu_ms, memory_bytes)
    confinement.set_limits(*default)
    engine.clear_errno()
    gc.collect()
    # Pages that nobody uses any more would be copied in the tables of every child, and torn down with it.
    Function(dlsym(libc, "malloc_trim"))(Long(0))
    gc.freeze()
    gc.disable()

    child, child_arguments = _child, (engine, confinement)
    special = False
    number = watched = -1
    while True:
        number += 1
        # The system call itself: the C library's fork, and Python's even more, mend locks and threads, of which there
        # are none here, on pages that the child would have to copy.
        pid = syscall(*clone_arguments)
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
            poll(*poll_arguments)
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
        wait4(pid, status, 0, rusage)
        if poll(*unread_arguments):
            report_kind[0] = UNREAD
            write_from(*report_arguments)
            _exit(0)
        write_from(*report_arguments)
        if other_limits is not None:
            confinement.set_limits(*other_limits)
            special = True
        elif special:
            confinement.set_limits(*default)
            special = False


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
