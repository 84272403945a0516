"""Maps positions in QuickJS's stacks to the submitted program. Pure.

A body is `eval_script`, after one line of wrapper. A module is `program`. Code that the program created with eval is
`<input>`. The engine counts columns in bytes.
"""

from __future__ import annotations

import re

from sandbox.engines.host.columns import STACK_LINES, Text, indent_of, split_end, split_frame

_PLACE = re.compile(r"(eval_script|program|check|<input>):(\d{1,9}):(\d{1,9})\)?")
_OURS = "promptlog:"
MAPPINGS = 1


def position(stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
    """Return (line, column) of a syntax error. A position past the end of the source becomes its end."""
    for text in stack.split("\n", STACK_LINES):
        if frame := _frame(text):
            _, _, line, column = frame
            line -= 0 if module else 1
            if line < 1:
                return 1, 1
            line, column = source.of_quickjs(line, column)
            if not source.has_line(line) and (end := source.end()):
                return end
            return line, column
    return None, None


def shown(stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
    """Return the stack mapped to the submitted program, and the position of its first frame in the program."""
    lines: list[str] = []
    first: tuple[int, int] | None = None
    for whole in stack.removesuffix("\n").split("\n", STACK_LINES):
        text, end = split_end(whole)
        indent = indent_of(text)
        if _OURS in text and text.startswith("at ", len(indent)):
            if lines and lines[-1].strip() == "at apply (native)":
                lines.pop()  # how the prelude calls
            if lines:
                lines[-1] += end
            continue
        frame = _frame(text)
        if frame is None or frame[1] == "<input>":
            lines.append(whole)
            continue
        function, file, line, column = frame
        line -= 1 if file == "eval_script" else 0
        if line >= 1 and function != "<eval>":
            line, column = source.of_quickjs(line, column)
            first = first or (line, column)
            lines.append(f"{indent}at {function or '<anonymous>'} ({source_name}:{line}:{column}){end}")
        elif lines:
            lines[-1] += end
    return "\n".join(lines), *(first or (None, None))


def logged(text: str, source_name: str, source: Text, *, mapped: int) -> str:
    """Return a console line with its stacks mapped to the program. `mapped` is 0."""
    return shown(text, source_name, source)[0]


def _frame(text: str) -> tuple[str | None, str, int, int] | None:
    """Return function, file, line and column of a frame; None if the text is not a frame of a program."""
    parts = split_frame(text)
    place = None if parts is None else _PLACE.fullmatch(parts[1])
    if parts is None or place is None:
        return None
    file, line, column = place.groups()
    return parts[0], file, int(line), int(column)
