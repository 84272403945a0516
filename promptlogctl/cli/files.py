"""Files that the user names: reading them, and the language of a program's file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from promptlogctl.client import Language

MAX_FILE_BYTES = 16 << 20
_TYPES = re.compile(
    r"[\w)?\]][ \t]*:[ \t]*(?:string|number|boolean|any|unknown|void|never)\b"
    r"|^[ \t]*(?:export[ \t]+)?(?:interface|enum|type|declare|namespace)[ \t]+\w"
    r"|\bas[ \t]+(?:any|const|unknown|string|number)\b",
    re.MULTILINE,
)

FILE = click.Path(allow_dash=True, readable=False)
"""The path of a file, with shell completion. `read_text` reports errors."""

LANGUAGE = click.option(
    "--language",
    type=click.Choice(["javascript", "typescript"]),
    help="The language of the program. Default: from the file's extension, else javascript.",
)


class Source:
    """A program's text as the user knows it, for error messages. `language`: if given by the user."""

    def __init__(self, name: str, text: str | None, language: Language | None = None) -> None:
        self.name = name
        self.text = text
        self.language = language

    @property
    def looks_like_typescript(self) -> bool:
        """Whether this text seems to have types, and no language was given."""
        return self.language is None and self.text is not None and _TYPES.search(self.text) is not None


def read_text(path: str, what: str) -> str:
    """Read a file, or standard input for `-`. Raises click.UsageError if it is too large, not UTF-8, or unreadable."""
    if not path:
        raise click.UsageError(f"the path of the {what} is empty")
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"can't read the {what} {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"the {what} {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"the {what} {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None


def language_of(path: str) -> Language | None:
    """Return the language for a file's extension; None if unknown."""
    ending = Path(path).suffix.lower()
    if ending in (".tsx", ".jsx"):
        raise click.UsageError(f"{path}: JSX is not supported; build it first, or give --language")
    if ending in (".ts", ".mts", ".cts"):
        return "typescript"
    return "javascript" if ending in (".js", ".mjs", ".cjs") else None
