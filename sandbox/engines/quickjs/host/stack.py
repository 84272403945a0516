"""Where a program failed, from the engine's account of it: QuickJS's stacks in terms of the program as submitted. Pure.

A body is `eval_script`, below one line of wrapper; a module is `program`. Lines of code that the program made with
eval have `<input>`. The engine counts columns in bytes.
"""

from __future__ import annotations

import re

from sandbox.engines.host.columns import FRAME_CHARACTERS, STACK_LINES, Text

_FRAME = re.compile(
    r"^ *at (?:(?P<function>.*) \()?(?P<file>eval_script|program|check|<input>)"
    r":(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?$"
)
_OURS = "promptlog:"
MAPPINGS = 1


def position(stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
    """Return (line, column) of a syntax error. One past the end of the source is moved to its end."""
    for text in stack.split("\n", STACK_LINES):
        if frame := _frame(text):
            place, last = (int(frame["line"]) - (0 if module else 1), int(frame["column"])), source.end()
            if place[0] < 1:
                return 1, 1
            return (place[0], source.of_bytes(*place)) if place[0] <= last[0] else last
    return None, None


def shown(stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
    """Return the stack in terms of the program as submitted, and the place of its first frame there."""
    lines: list[str | tuple[str, tuple[int, int]]] = []
    for text in stack.removesuffix("\n").split("\n", STACK_LINES):
        if _OURS in text and text.startswith("    at "):
            if lines and isinstance(lines[-1], str) and lines[-1].strip() == "at apply (native)":
                lines.pop()  # how the prelude calls
            continue
        frame = _frame(text)
        if frame is None or frame["file"] == "<input>":
            lines.append(text)
            continue
        line = int(frame["line"]) - (1 if frame["file"] == "eval_script" else 0)
        if line >= 1 and frame["function"] != "<eval>":
            lines.append((frame["function"] or "<anonymous>", (line, int(frame["column"]))))
    places = [(line[1][0], source.of_bytes(*line[1])) for line in lines if not isinstance(line, str)]
    columns = iter(places)
    own = "\n".join(
        line if isinstance(line, str) else "    at {} ({}:{}:{})".format(line[0], source_name, *next(columns))
        for line in lines
    )
    return own, *(places[0] if places else (None, None))


def logged(text: str, source_name: str, source: Text, *, mapped: int) -> str:
    """Return a console line with the stacks in it in terms of the program. `mapped` is 0."""
    return shown(text, source_name, source)[0]


def _frame(line: str) -> re.Match[str] | None:
    return _FRAME.match(line) if len(line) <= FRAME_CHARACTERS else None
