"""One context of the engine: what is evaluated in it before any program is known, checks and runs.

In the jail; the standard library only.
"""

from sandbox.engines.quickjs.jail.confinement import Errno
from sandbox.engines.quickjs.jail.source import (
    NO_DEFAULT,
    Found,
    Refused,
    clear,
    exports,
    place,
    without_nul,
)

# There is no typing module in the jail.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Send(Protocol):
        """Send one frame: see zygote.py."""

        def __call__(self, kind: bytes, payload: bytes) -> None: ...


# The engine has no way to change its heap limit later, and a run may ask for less or more memory than the
# next, so the engine's own limit is off, and the kernel's RLIMIT_AS on the child is the limit.
ENGINE_HEAP_BYTES = 0
ENGINE_STACK_BYTES = 1024 * 1024
ENGINE_VALUE_BYTES = 64 * 1024 * 1024

MODULE = 'import("program"); __promptlog_run(import("program")'
UNSETTLED = "promise never settled (no pending jobs)"


def joined(*fields: bytes) -> bytes:
    """Return fields as they stand in a payload: each behind its size."""
    return b"".join([len(field).to_bytes(4, "big") + field for field in fields])


class Engine:
    """One context with scripts in it, the prelude first, and the host's side of the hooks that this uses."""

    def __init__(self, runtime_type: "Any", send: "Send", *scripts: str) -> None:
        self._runtime = runtime_type(
            memory_limit=ENGINE_HEAP_BYTES,
            max_stack_size=ENGINE_STACK_BYTES,
            max_value_bytes=ENGINE_VALUE_BYTES,
        )
        self._errno = Errno()
        self._job: Any = None
        self.send = send
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
            self.send(b"s", b"M" + joined(first.encode(), b""))
        else:
            self._exception(first, message, stack)

    def _exception(self, name: str, message: str, stack: str) -> None:
        if self.out_of_memory(name, message):
            self.send(b"m", b"")
        else:
            self.send(b"x", joined(name.encode(), message.encode(), stack.encode()))

    def out_of_memory(self, name: str, message: str) -> bool:
        """Whether an error is the engine's own for lack of memory.

        The text alone says nothing, a program can throw any: the kernel must have refused memory as well.
        """
        engines_own = (
            (name == "InternalError" and message == "out of memory")
            or (not name and message == "thrown: null")
            or message == "host function failed: MemoryError"
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

    def check(self, source: str, brackets: "list[str]") -> str:
        """Return the form of a program: B for a body, M for a module. Raises Refused.

        `brackets`: three pairs, and a text that opens a body and does not close it (the daemon's wrapper.py).
        """
        source = without_nul(source)
        loose = brackets[6]
        first = error = self._parse(brackets[0] + source + brackets[1])
        for at in (2, 4):
            error = self._parse(brackets[at] + source + brackets[at + 1]) if error is None else error
        if error is None:
            return "B"
        # What parses in one and not in the next closes the wrapper: its declarations are the context's now.
        if first is not None and (export := exports(source)) is not None:
            line, column, opens = export
            try:
                self._runtime.check_syntax(source, module=True)
            except Exception as exc:
                # A body in which nothing is wrong before the export is none.
                if opens or getattr(first, "message", "") == "unsupported keyword: export":
                    raise Refused("M", clear(exc, source)) from None
            else:
                if "default" in source:
                    return "M"
                raise Refused("M", Found(NO_DEFAULT, line, column))
        if place(error)[0] > source.count("\n") + 2:
            error = self._in_its_own_text(loose, source, error)
        raise Refused("B", clear(error, source, lines_above=1))

    def _in_its_own_text(self, loose: str, source: str, error: BaseException) -> BaseException:
        """Return what is wrong with a body in which the engine noticed nothing before the bracket's end."""
        own = self._parse(loose + source)
        if own is None:
            # It closes the bracket. A function is declared, and not run: the last character of its text is where.
            try:
                text = self._eval("__promptlog_loose.toString()")[len(loose) : -1]
            except Exception:
                return error
            before = text[text.rfind("\n") + 1 :]
            return Found("Unexpected token '}'", text.count("\n") + 2, len(before.encode()) + 1)
        return own

    def touch(self) -> None:
        """Break the pages that every run writes to out of the zygote's, while there is no run to wait for it."""
        self._eval("(async () => 0)()")

    def run(self, text: str) -> None:
        """Evaluate a program that has its arguments, and send what came of it."""
        try:
            said = self._eval(without_nul(text))
            if said is None:
                # The engine lost the string for lack of memory: there is nothing else that the prelude returns.
                self.send(b"m", b"")
            elif said > '"':
                self.send(b"v", said.encode())
            else:
                # It begins with a "!", which sorts before the first character of any JSON text.
                self._end(*said[1:].split("\0", 3))
        except BaseException as error:
            self._broken(error)

    def run_with(self, form: str, code: str, arguments: str, prompt: str, env: str) -> None:
        """Run a wrapped body (B) or a module (M), with a prompt and an env that the arguments may leave out."""
        self._job = (prompt, env)
        if form == "B":
            self.run(code + arguments)
            return
        try:
            self._runtime.add_static_module("program", without_nul(code))
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
            self.send(b"m", b"")
            return
        name = getattr(error, "name", None) or "Error"
        stack = getattr(error, "stack", None) or ""
        self.send(b"x", joined(name.encode(), message.encode("utf-8", "replace"), stack.encode("utf-8", "replace")))
