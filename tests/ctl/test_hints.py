"""Notes that name the remedy for known errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptlogctl.cli.hints import DENO_ALONE
from promptlogctl.client import Client
from tests.ctl.command import ctl

_HINTS = [
    ("return new Intl.NumberFormat('de').format(1)", (), "Deno has `Intl`: --engine deno"),
    ("const fs = require('fs'); return 1", (), "not CommonJS; bundle it first: npx esbuild"),
    ("module.exports = 1", (), "not CommonJS"),
    ("import fs from 'fs'\nreturn 1", (), "bundle the program and its imports"),
    ("```js\nreturn 1\n```", (), "Markdown fence: leave out the lines"),
    ("return [1].map(x => await x)", (), "is the function around it `async`?"),
    ("for (;;);", (), "--cpu-ms raises the limit of CPU time"),
    ("return 'x'.repeat(2e6)", (), "--result-kb raises the limit of the result"),
    ("await new Promise((r) => setTimeout(r, 9000)); return 1", ("--engine", "deno"), "--wall-ms raises"),
]


@pytest.mark.parametrize(("code", "more", "hint"), _HINTS, ids=[code[:20] for code, _, _ in _HINTS])
def test_errors_name_the_remedy(socket_path: Path, code: str, more: tuple[str, ...], hint: str) -> None:
    """An error with a known remedy comes with a note that names the remedy."""
    done = ctl(socket_path, "exec", "-e", code, *more)
    assert done.returncode in (1, 3)
    assert hint in done.stderr.decode()


def test_other_errors_have_no_note(socket_path: Path) -> None:
    """An error without a known remedy comes without a note."""
    for code in ("return missing", "throw new Error('require is not defined')", "let x = ;"):
        assert b"note:" not in ctl(socket_path, "exec", "-e", code).stderr


def test_globals_that_only_deno_has(client: Client) -> None:
    """Each global that the hint attributes to Deno exists on Deno and not on QuickJS."""
    code = "return env.names.filter((name) => name in globalThis)"
    names = sorted(DENO_ALONE)
    assert client.run_source(code, env={"names": names}, engine="quickjs").value == []
    assert client.run_source(code, env={"names": names}, engine="deno").value == names
