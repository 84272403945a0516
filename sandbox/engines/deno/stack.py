"""Where a program failed, from V8's stacks as Deno writes them, in terms of the program as submitted. Pure.

A body that is JavaScript is `program.js`, below three lines of wrapper; what is loaded as a module is a blob, below as
many as the runner says in the stack's first line. Deno maps what TypeScript became to what it was.
V8 counts columns in UTF-16 code units, Deno's parser (swc) in characters, of which a tab is two.
"""

from __future__ import annotations

import re

from sandbox.engines.columns import end, of_characters

_WRAPPER_LINES = 3
_FRAME = re.compile(
    r"^ *at (?:(?P<function>.*) \()?(?P<file>program\.js, <anonymous>|blob:null/[0-9a-f-]{36})"
    r":(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?$"
)
_PLACE = re.compile(r"^    at (?P<parser>swc|v8):(?P<line>\d{1,9}):(?P<column>\d{1,9})$")
_OURS = re.compile(r"file:///app/runner\.js|\((?:ext|node|checkin):|at (?:ext|node|checkin):")
_UNNAMED = re.compile(r"(?:async )?(?:\w+\.)?(?:eval|default)(?: \[as \w+\])?")


def position(stack: str, *, module: bool, source: bytes) -> tuple[int | None, int | None]:
    """Return (line, column) of what does not parse. What was noticed past the source's end is there."""
    found = _PLACE.match(stack)
    if found is None:
        return None, None
    line, column, last = int(found["line"]) - (0 if module else 1), int(found["column"]), end(source)
    if line < 1:
        return 1, 1
    if line > last[0]:
        return last
    return line, of_characters(source, line, column) if found["parser"] == "swc" else column


def shown(stack: str, source_name: str, source: bytes) -> tuple[str, int | None, int | None]:
    """Return the stack in terms of the program as submitted, and the place of its first frame there.

    What Deno puts behind TypeScript's own text (decorators' helpers) is none of the author's.
    """
    first, _, rest = stack.partition("\n")
    blob_lines = 1 if first == "1" else 0
    last = end(source)[0]
    lines: list[str] = []
    place: tuple[int, int] | None = None
    for text in rest.splitlines():
        if not text.startswith("    at "):
            if lines:
                lines.append(text)
            continue  # the name and the message stand above the frames
        if _OURS.search(text):
            continue
        frame = _FRAME.match(text)
        if frame is None:
            lines.append(text)
            continue
        line = int(frame["line"]) - (_WRAPPER_LINES if frame["file"].startswith("program") else blob_lines)
        if not 1 <= line <= last:
            continue
        column = int(frame["column"])
        place = place or (line, column)
        function = frame["function"]
        if function is None or _UNNAMED.fullmatch(function):
            function = "<anonymous>"
        lines.append(f"    at {function} ({source_name}:{line}:{column})")
    return "\n".join(lines), *(place or (None, None))
