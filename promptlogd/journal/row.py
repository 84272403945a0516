"""Makes the row of SQLite for an entry."""

from __future__ import annotations

import hashlib

import msgspec

from promptlogd.config import JournalSettings
from promptlogd.journal.database import Row
from promptlogd.journal.entry import Entry

_DIGEST_BYTES = 16


def row_of(entry: Entry, key: bytes, settings: JournalSettings) -> Row:
    """Return the row of an entry, with a keyed digest of the prompt, and the texts that the settings select."""
    prompt = entry.prompt.encode("utf-8", "replace") if isinstance(entry.prompt, str) else entry.prompt
    digest = None
    if prompt is not None:
        digest = hashlib.blake2b(prompt, key=key, digest_size=_DIGEST_BYTES).hexdigest()
    return (
        entry.at, entry.kind, entry.uid, entry.tenant, entry.hash, entry.name, entry.engine, entry.outcome,
        entry.line, entry.column, entry.cpu_ms, entry.wall_ms, entry.memory_bytes,
        None if prompt is None else len(prompt), entry.result_bytes,
        entry.console_lines, digest, entry.count, _content(entry, prompt, settings),
    )  # fmt: skip


def _content(entry: Entry, prompt: bytes | None, settings: JournalSettings) -> str | None:
    """Return as JSON the texts that the settings select for storage."""
    if entry.error is None and entry.result is None and entry.console is None and "prompt" not in settings.keep:
        return None
    most = settings.keep_kb * 1024
    console = None if entry.console is None else "\n".join(f"{level}: {text}" for level, text in entry.console)
    texts = {"prompt": prompt, "result": entry.result, "console": console, "error": entry.error}
    content = {}
    for name in settings.keep:
        text = texts[name]
        if text is not None:
            data = text.encode("utf-8", "replace") if isinstance(text, str) else text
            content[name] = data[:most].decode("utf-8", "ignore") + ("…" if len(data) > most else "")
    return msgspec.json.encode(content).decode() if content else None
