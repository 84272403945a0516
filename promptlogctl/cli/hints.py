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

_DENO_ALONE = """
    AbortController AbortSignal Blob ByteLengthQueuingStrategy CloseEvent CompressionStream CountQueuingStrategy
    Crypto CryptoKey CustomEvent DOMMatrix DOMMatrixReadOnly DOMPoint DOMPointReadOnly DOMQuad DOMRect
    DOMRectReadOnly DecompressionStream ErrorEvent Event EventTarget File FileReader FormData ImageData Intl
    MessageChannel MessageEvent MessagePort Performance PerformanceEntry PerformanceMark PerformanceMeasure
    PerformanceObserver PerformanceObserverEntryList ProgressEvent PromiseRejectionEvent QuotaExceededError
    ReadableByteStreamController ReadableStream ReadableStreamBYOBReader ReadableStreamBYOBRequest
    ReadableStreamDefaultController ReadableStreamDefaultReader SubtleCrypto Temporal TextDecoderStream
    TextEncoderStream TransformStream TransformStreamDefaultController URLPattern WebAssembly WritableStream
    WritableStreamDefaultController WritableStreamDefaultWriter clearInterval clearTimeout crypto reportError self
    setInterval setTimeout structuredClone
"""
DENO_ALONE = frozenset(_DENO_ALONE.split())
"""Globals that only Deno has, except `fetch`. A test compares both engines."""

_COMMONJS = frozenset(["require", "module", "exports", "__dirname", "__filename"])
_NO_NETWORK = "a program has no network: pass data in as `prompt` or `env`"
_NO_BROWSER = "a program does not run in a browser"
_ELSEWHERE = {
    "process": "`process` belongs to Node; a program gets its input as `prompt` and `env`",
    "Buffer": "`Buffer` belongs to Node; a program has `Uint8Array`, `TextEncoder`, `atob` and `btoa`",
    "global": "`global` belongs to Node; every engine has `globalThis`",
    "setImmediate": "`setImmediate` belongs to Node; every engine has `queueMicrotask`",
    "Deno": "a program has no files, no processes and no network, and so no `Deno`",
    "Bun": "a program has no files, no processes and no network, and so no `Bun`",
    **dict.fromkeys(("fetch", "XMLHttpRequest", "WebSocket", "EventSource"), _NO_NETWORK),
    **dict.fromkeys(("window", "document", "navigator", "localStorage", "sessionStorage", "alert"), _NO_BROWSER),
}
"""Globals of other systems, with the advice for a program that uses them."""

_NOT_DEFINED = re.compile(r"'?([\w$]+)'? is not defined\Z")
_NAME_CHARACTERS = 80
_NO_MODULE = re.compile(
    r"could not load module '|module not found: |no program has (?:import|read) access to |no program can import "
)
_IMPORT = re.compile(r"^[ \t]*(?:import\b(?!\s*\(|\s*\.)|export\b.*\bfrom\b)|\bimport\s*\(", re.MULTILINE)
_BUNDLE = "npx esbuild main.js --bundle --format=esm --platform=neutral --outfile=bundle.js"
_IMPORTS = f"a program can't import packages or files; bundle it and its imports into one file first: {_BUNDLE}"

_OVER_MAXIMUM = re.compile(
    r"limits\.(\w+) is \d+, the maximum is |the (source|prompt|env) is \d+ bytes, the maximum is "
)
_BY_QUOTA = re.compile(r", by the quota (max_\w+)\Z")
_SETTINGS = {"memory_bytes": "memory_mb", "result_bytes": "result_kb", "log_bytes": "log_kb"}

LOG_LIMIT = "--log-kb raises the limit of console lines"


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
        case ProgramException(name="ReferenceError" | "TypeError", message=message) if _NO_MODULE.match(message):
            return _IMPORTS
        case ProgramException(name="ReferenceError", message=message):
            return _undefined(message, engine_version)
        case ProgramSyntaxError(line=line):
            return syntax_hint(source, line)
    return None


def refusal_hint(message: str) -> str | None:
    """Return the setting that raises a maximum, for a request that exceeds it; else None."""
    if (found := _OVER_MAXIMUM.match(message)) is None:
        return None
    if (quota := _BY_QUOTA.search(message)) is not None:
        return f"your quota {quota[1]} in the daemon's configuration sets the maximum"
    limit, text = found.groups()
    setting = f"limits.max.{_SETTINGS.get(limit, limit)}" if limit else f"limits.{text}_kb"
    return f"the setting {setting} of the daemon raises the maximum"


def _undefined(message: str, engine_version: str) -> str | None:
    found = _NOT_DEFINED.search(message[-_NAME_CHARACTERS:])  # the search takes quadratic time
    name = found[1] if found else ""
    if name in _COMMONJS:
        return f"a program is a function body or an ES module, not CommonJS; bundle it first: {_BUNDLE}"
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if name in DENO_ALONE and engine_version.startswith("quickjs"):
        return f"Deno has `{name}`: --engine deno"
    return None


def syntax_hint(source: Source, line: int | None) -> str | None:
    """Return advice about a syntax error, or None. `line`: its line, from 1."""
    lines = (source.text or "").split("\n")
    here = lines[line - 1] if line is not None and 1 <= line <= len(lines) else ""
    if _IMPORT.search(here):
        return _IMPORTS
    if re.search(r"\bawait\b", here):
        return "`await` works at the top level and in `async` functions; is the function around it `async`?"
    if source.looks_like_typescript:
        return "if this is TypeScript, use a file name that ends in .ts, or --language typescript"
    return None
