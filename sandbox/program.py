"""Programs and artifacts: plain records, independent of engines, messages and files."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Literal

import msgspec

Engine = str
"""The name of an engine, from the list in `sandbox.engines`."""

Language = Literal["javascript", "typescript"]
"""The language of a program."""


class Form(Enum):
    """How an engine runs a program's text."""

    BODY = "body"
    """As the body of an async function of `prompt` and `env`."""
    MODULE = "module"
    """As a module, by its default export."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """JavaScript or TypeScript that a client submitted. `entry` is the path of the file that is run."""

    hash: str
    """Lowercase hex SHA-256. For a program with one file: of its bytes exactly as submitted."""
    files: dict[str, bytes]
    entry: str
    language: Language
    engine: Engine

    @classmethod
    def of_text(cls, source: bytes, *, language: Language, engine: Engine) -> Program:
        """Return the program with this one file."""
        entry = "program.ts" if language == "typescript" else "program.js"
        hash = hashlib.sha256(source).hexdigest()
        return cls(hash=hash, files={entry: source}, entry=entry, language=language, engine=engine)

    @property
    def source(self) -> bytes:
        """The text of the entry file."""
        return self.files[self.entry]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check. It is stored, so that runs do not repeat the check."""

    form: Form
    language: Language
    """Language of the code: JavaScript if the check removed TypeScript's types."""
    code: bytes | None = None
    """Code to run: text or bytecode. None: the program's own source. As hostile as the program."""
