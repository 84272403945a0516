"""Maps positions in V8's stacks, as Deno writes them, to the submitted program. Pure.

A JavaScript body is `program.js`, after three lines of wrapper. Code that is loaded as a module is `program:module`.
Deno maps stacks of transpiled TypeScript back to the source; see `logged` for the mappings. V8 counts columns in UTF-16
code units. Deno's parser (swc) counts characters, and a tab as two.
"""

from __future__ import annotations

import re

from sandbox.engines.host.columns import STACK_LINES, Text, indent_of, split_end, split_frame

_WRAPPER_LINES = 3
MAPPINGS = 3
_FRAME_PLACE = re.compile(r"(?P<file>program\.js, <anonymous>|program:module):(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?")
_PLACE = re.compile(r"^    at (?P<parser>swc|v8):(?P<line>\d{1,9}):(?P<column>\d{1,9})$")
_OURS = (
    *("file:///app/runner.js", "file:///app/inspect.js", "file:///app/check.js"),
    *("(ext:", "(node:", "(checkin:", "at ext:", "at node:", "at checkin:"),
)
_OURS_CHARACTERS = 128
"""Characters at the end of a frame that contain its position. The function's name before it is chosen by the
program."""

_UNNAMED = re.compile(r"(?:async )?(?:\w++\.)?(?:eval|default)(?: \[as \w++\])?")
_UNNAMED_CHARACTERS = 512
"""A longer name was chosen by the program."""


def position(stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
    """Return (line, column) of a syntax error. A position past the end of the source becomes its end."""
    found = _PLACE.match(stack)
    if found is None:
        return None, None
    line, column = int(found["line"]) - (0 if module else 1), int(found["column"])
    if line < 1:
        return 1, 1
    line, column = source.of_deno(line, column, v8=found["parser"] == "v8")
    if not source.has_line(line) and (end := source.end()):
        return end
    return line, source.of_characters(line, column) if found["parser"] == "swc" else column


def shown(stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
    """Return the stack mapped to the submitted program, and the position of its first frame in the program.

    Frames in code that Deno appends to TypeScript (helpers of decorators) are not the author's.
    """
    mapped, _, rest = stack.partition("\n")
    return _mapped(rest, source_name, source, mapped=int(mapped) if mapped in ("1", "2") else 0)


def logged(text: str, source_name: str, source: Text, *, mapped: int) -> str:
    """Return a console line with its stacks mapped to the program.

    `mapped`: 0 for V8's lines; 1 if Deno maps to lines that are one too large; 2 if Deno maps to the program's lines.
    """
    return _mapped(text, source_name, source, mapped=mapped)[0]


def _mapped(text: str, source_name: str, source: Text, *, mapped: int) -> tuple[str, int | None, int | None]:
    lines: list[str] = []
    place: tuple[int, int] | None = None
    for whole in text.split("\n", STACK_LINES):
        own, end = split_end(whole)
        indent = indent_of(own)
        if own.startswith("at ", len(indent)) and _is_ours(own[-_OURS_CHARACTERS:]):
            if lines:
                lines[-1] += end
            continue
        parts = split_frame(own)
        found = _FRAME_PLACE.fullmatch(parts[1]) if parts is not None else None
        if parts is None or found is None:
            lines.append(whole)
            continue
        above = _WRAPPER_LINES if found["file"].startswith("program.js") else int(mapped == 1)
        line, column = source.of_deno(int(found["line"]) - above, int(found["column"]), v8=mapped == 0)
        if not source.has_line(line):
            if lines:
                lines[-1] += end
            continue
        place = place or (line, column)
        function = parts[0]
        if function is None or (len(function) <= _UNNAMED_CHARACTERS and _UNNAMED.fullmatch(function)):
            function = "<anonymous>"
        lines.append(f"{indent}at {function} ({source_name}:{line}:{column}){end}")
    return "\n".join(lines), *(place or (None, None))


def _is_ours(place: str) -> bool:
    """Whether a position is in promptlog's or Deno's code."""
    if "ext:" in place or "node:" in place or "checkin:" in place or "file:///app/" in place:
        return any(ours in place for ours in _OURS)
    return False
