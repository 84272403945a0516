"""Advice for failed runs that have a known cause. Pure."""

from __future__ import annotations

import re

from promptlogctl.cli.files import Source
from promptlogctl.client import (
    CpuLimit,
    MemoryLimit,
    Outcome,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
    WallLimit,
)

DENO_ALONE = frozenset(
    [
        "AbortController",
        "AbortSignal",
        "Blob",
        "ByteLengthQueuingStrategy",
        "CompressionStream",
        "CountQueuingStrategy",
        "CryptoKey",
        "CustomEvent",
        "DecompressionStream",
        "Event",
        "EventTarget",
        "File",
        "FileReader",
        "FormData",
        "Intl",
        "MessageChannel",
        "MessagePort",
        "ReadableStream",
        "SubtleCrypto",
        "TransformStream",
        "WebAssembly",
        "WritableStream",
        "clearInterval",
        "clearTimeout",
        "crypto",
        "setInterval",
        "setTimeout",
        "structuredClone",
    ]
)
"""Globals that only Deno has. A test compares both engines."""

_COMMONJS = frozenset(["require", "module", "exports", "__dirname", "__filename"])
_NOT_DEFINED = re.compile(r"'?([\w$]+)'? is not defined\Z")
_NAME_CHARACTERS = 80
_IMPORT = re.compile(r"^[ \t]*(?:import\b(?!\s*\(|\s*\.)|export\b.*\bfrom\b)|\bimport\s*\(", re.MULTILINE)
_BUNDLE = "npx esbuild main.js --bundle --format=esm --platform=neutral --outfile=bundle.js"


def hint_of(outcome: Outcome, source: Source, engine_version: str) -> str | None:
    """Return advice for the user, or None. `engine_version`: name and version of the engine."""
    match outcome:
        case CpuLimit():
            return "--cpu-ms raises the limit of CPU time"
        case WallLimit():
            return "--wall-ms raises the limit of wall time"
        case MemoryLimit():
            return "--memory-mb raises the limit of memory"
        case OutputLimit():
            return "--result-kb raises the limit of the result"
        case ProgramException(name="ReferenceError", message=message):
            return _undefined(message, engine_version)
        case ProgramSyntaxError(line=line):
            return syntax_hint(source, line)
    return None


def _undefined(message: str, engine_version: str) -> str | None:
    found = _NOT_DEFINED.search(message[-_NAME_CHARACTERS:])  # the search takes quadratic time
    name = found[1] if found else ""
    if name in _COMMONJS:
        return f"a program is a function body or an ES module, not CommonJS; bundle it first: {_BUNDLE}"
    if name in DENO_ALONE and engine_version.startswith("quickjs"):
        return f"Deno has `{name}`: --engine deno"
    return None


def syntax_hint(source: Source, line: int | None) -> str | None:
    """Return advice about a syntax error, or None. `line`: its line, from 1."""
    lines = (source.text or "").split("\n")
    here = lines[line - 1] if line is not None and 1 <= line <= len(lines) else ""
    if _IMPORT.search(here):
        return f"bundle the program and its imports into one file first: {_BUNDLE}"
    if re.search(r"\bawait\b", here):
        return "`await` works at the top level and in `async` functions; is the function around it `async`?"
    if source.looks_like_typescript:
        return "if this is TypeScript, use a file name that ends in .ts, or --language typescript"
    return None
