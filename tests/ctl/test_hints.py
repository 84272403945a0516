"""Notes that name the remedy for known errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptlogctl.cli.hints import DENO_ALONE
from promptlogctl.client import Client
from tests.ctl.command import ctl
from tests.daemons import configured_daemon

_HINTS = [
    ("return new Intl.NumberFormat('de').format(1)", (), "Deno has `Intl`: --engine deno"),
    ("const fs = require('fs'); return 1", (), "not CommonJS; bundle it first: npx esbuild"),
    ("module.exports = 1", (), "not CommonJS"),
    ("return __dirname", (), "not CommonJS"),
    ("return process.env.HOME", (), "`process` belongs to Node; a program gets its input as `prompt` and `env`"),
    ("return Buffer.from('a')", ("--engine", "deno"), "`Buffer` belongs to Node"),
    ("await fetch('http://a')", (), "a program has no network"),
    ("return document.title", (), "does not run in a browser"),
    ("import fs from 'fs'\nreturn 1", (), "a program can't import packages or files; bundle it"),
    ("return await import('fs')", (), "a program can't import packages or files; bundle it"),
    ("return await import('node:fs')", ("--engine", "deno"), "a program can't import packages or files"),
    ("return await import('https://a/b.js')", ("--engine", "deno"), "a program can't import packages or files"),
    ("```js\nreturn 1\n```", (), "Markdown fence: leave out the lines"),
    ("return [1].map(x => await x)", (), "is the function around it `async`?"),
    ("for (;;);", (), "--cpu-ms raises the limit of CPU time"),
    ("const a = []; for (;;) a.push(new Uint8Array(1e6))", ("--cpu-ms", "5000"), "--memory-mb raises the limit"),
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


def test_a_cut_log_names_the_option(socket_path: Path) -> None:
    """If console lines are dropped at their limit, a note names the option that raises it."""
    done = ctl(socket_path, "exec", "-e", "for (let i = 0; i < 9; i++) console.log('x'.repeat(400))", "--log-kb", "1")
    assert b"[the log was cut at its limit]\nnote: --log-kb raises the limit of console lines\n" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "setting"),
    [
        ("--cpu-ms", "999999", "max.cpu_ms"),
        ("--memory-mb", "9999", "max.memory_mb"),
        ("--prompt-file", "", "prompt_kb"),
    ],
)
def test_a_maximum_names_its_setting(socket_path: Path, tmp_path: Path, option: str, value: str, setting: str) -> None:
    """If a request exceeds a maximum of the daemon, a note names the setting that raises it, and the setting exists."""
    (tmp_path / "large").write_bytes(bytes(1_048_577))
    done = ctl(socket_path, "exec", "-e", "return 1", option, value or str(tmp_path / "large"))
    assert done.stderr.decode().endswith(f"\nnote: the setting limits.{setting} of the daemon raises the maximum\n")
    with Client(socket_path) as client:
        assert f"limits.{setting}" in [one.name for one in client.config().settings]


def test_globals_that_only_deno_has(client: Client) -> None:
    """The hint attributes to Deno exactly the globals that Deno has and QuickJS lacks, except `fetch`."""
    code = "return Object.getOwnPropertyNames(globalThis)"
    quickjs, deno = (set(client.run_source(code, engine=engine).value) for engine in ("quickjs", "deno"))
    assert deno - quickjs - {"fetch"} == DENO_ALONE


def test_a_maximum_of_a_quota_names_the_quota() -> None:
    """If a run asks for more than a quota of its user, the error and a note name this quota, and no other setting."""
    with configured_daemon("[quotas.user]\nmax_cpu_ms = 40\nmax_memory_mb = 64\n") as socket:
        for option, value, quota in (("--cpu-ms", "45", "max_cpu_ms"), ("--memory-mb", "65", "max_memory_mb")):
            lines = ctl(socket, "exec", "-e", "return 1", option, value).stderr.decode().splitlines()
            assert lines[0].endswith(f", by the quota {quota}")
            assert lines[1:] == [f"note: your quota {quota} in the daemon's configuration sets the maximum"]
