"""A program's text: where and why it is not a program. Pure.

In the jail; the standard library only.
"""

EXPORTED = ("default", "const", "let", "var", "function", "class", "async")
NO_DEFAULT = "a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)"


class Refused(Exception):
    """The source is no program. Holds the engine's error."""


class Found(Exception):
    """An error with a place that we found ourselves, in the form of the engine's: a column counts bytes, from 1."""

    name = "SyntaxError"

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        self.message = message
        self.stack = f"    at eval_script:{line}:{column}\n" if line else ""


def clear(error: BaseException, source: str, lines_above: int = 0) -> BaseException:
    """Return an error that says what it means."""
    if getattr(error, "message", None) == "unexpected token in expression: ''":
        return Found("Unexpected end of input", *place(error))
    if getattr(error, "message", None) == "Maximum call stack size exceeded":
        return Found("it is nested too deeply")
    line, column = place(error)
    lines = source.split("\n")
    if 0 < line - lines_above <= len(lines):
        at = lines[line - lines_above - 1].lstrip()
        if at[:6] == "import" and at[6:7] in (" ", "{", "*", '"', "'"):
            return Found("a program has its own text alone, and can not import", line, column)
    return error


def place(error: BaseException) -> tuple[int, int]:
    """Return the line and column of an error of the parser's, or (0, 0)."""
    parts = str(getattr(error, "stack", None)).split("\n")[0].split(":")
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return int(parts[1]), int(parts[2])
    return 0, 0


def exports(source: str) -> tuple[int, int, bool] | None:
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


def without_nul(source: str) -> str:
    r"""Return a text with the escape \x00 for each NUL: the engine takes no NUL, and the escape may stand there too."""
    if "\0" not in source:
        return source
    parts = source.split("\0")
    for number, part in enumerate(parts[:-1]):
        # Behind an odd number of backslashes the NUL is escaped already: the last of them goes.
        if (len(part) - len(part.rstrip("\\"))) % 2:
            parts[number] = part[:-1]
    return "\\x00".join(parts)
