"""Where a program failed, from the engine's account of it: QuickJS's stacks in terms of the program as submitted. Pure.

A body is `eval_script`, below one line of wrapper; a module is `program`. Lines of code that the program made with
eval have `<input>`.
"""

from __future__ import annotations

import re

_FRAME = re.compile(
    r"^ *at (?:(?P<function>.*) \()?(?P<file>eval_script|program|check|<input>)"
    r":(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?$"
)
_OURS = "promptlog:"


def position(stack: str, *, module: bool, end: tuple[int, int] | None) -> tuple[int | None, int | None]:
    """Return (line, column) of what does not parse. `end`: that of the program, where it is known.

    What the engine noticed in our bracket, below it or above, is at the program's end, or at its start.
    """
    for text in stack.splitlines():
        if frame := _FRAME.match(text):
            line, column = int(frame["line"]) - (0 if module else 1), int(frame["column"])
            if line < 1:
                return 1, 1
            return (line, column) if end is None or line <= end[0] else end
    return None, None


def end(source: bytes) -> tuple[int, int]:
    """Return the line and the column behind a program's last character, as `position` counts them."""
    last = source[source.rfind(b"\n") + 1 :]
    return source.count(b"\n") + 1, len(last.decode("utf-8", "replace")) + 1


def shown(stack: str, source_name: str) -> tuple[str, int | None, int | None]:
    """Return the stack in terms of the program as submitted, and the place of its first frame there."""
    lines: list[str] = []
    place: tuple[int, int] | None = None
    for text in stack.splitlines():
        if _OURS in text:
            if lines and lines[-1].strip() == "at apply (native)":
                lines.pop()  # how the prelude calls
            continue
        frame = _FRAME.match(text)
        if frame is None or frame["file"] == "<input>":
            lines.append(text)
            continue
        line = int(frame["line"]) - (1 if frame["file"] == "eval_script" else 0)
        if line < 1 or frame["function"] == "<eval>":
            continue
        column = int(frame["column"])
        place = place or (line, column)
        function = frame["function"] or "<anonymous>"
        lines.append(f"    at {function} ({source_name}:{line}:{column})")
    return "\n".join(lines), *(place or (None, None))
