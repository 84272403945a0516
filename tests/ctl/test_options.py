"""Options of requests: Python and type checkers reject a wrong option, and the daemon receives a right one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from promptlogctl.client import AsyncClient, Client, LimitsAsked, RunOptions

ROOT = Path(__file__).parents[2]

_RIGHT = """
from promptlogctl.client import AsyncClient, Client, LimitsAsked, LogLine, RunOptions

def on_log(line: LogLine) -> None: ...

limits = LimitsAsked(cpu_ms=10)
options: RunOptions = {"env": {"a": 1}, "limits": limits, "isolation": "jail", "engine": "deno", "on_log": on_log}

def blocking(c: Client) -> None:
    c.submit("", name="a", engine=None, language="typescript")
    c.run("@a", "", env={"a": 1}, limits=limits, isolation="jail", engine="deno", on_log=on_log)
    c.run("@a", **options)
    c.run_source(b"", "", env={"a": 1}, limits=limits, isolation=None, engine="quickjs", language=None, on_log=None)
    c.start(None, "", source="", language="javascript", **options)

async def asynchronous(c: AsyncClient) -> None:
    await c.submit("", name="a", engine=None, language="typescript")
    await c.run("@a", "", env={"a": 1}, limits=limits, isolation="jail", engine="deno", on_log=on_log)
    await c.run(None, source="", language="javascript", **options)
    await c.run_source(b"", language="javascript", **options)

"""
_WRONG = {
    'c.submit("", nam="a")': 'Unexpected keyword argument "nam" for "submit" of "Client"',
    'c.submit("", engine=8)': 'Argument "engine" to "submit" of "Client" has incompatible type',
    'c.run("@a", promt="")': 'Unexpected keyword argument "promt" for "run" of "Client"',
    'c.run("@a", language="javascript")': 'Unexpected keyword argument "language" for "run" of "Client"',
    'c.run("@a", isolation="cel")': 'Argument "isolation" to "run" of "Client" has incompatible type',
    'c.run_source("", env=[])': 'Argument "env" to "run_source" of "Client" has incompatible type',
    'c.start(None, source="", on_log=5)': 'Argument "on_log" to "start" of "Client" has incompatible type',
    'a.run("@a", limit=None)': 'Unexpected keyword argument "limit" for "run" of "AsyncClient"',
    'a.run_source("", langage=None)': 'Unexpected keyword argument "langage" for "run_source" of "AsyncClient"',
}


def test_type_checkers_know_each_option(tmp_path: Path) -> None:
    """mypy accepts every option where it belongs, and rejects one that is misspelt, misplaced or of a wrong type."""
    calls = "".join(f"    {call}\n" for call in _WRONG)
    (tmp_path / "right.py").write_text(_RIGHT)
    (tmp_path / "wrong.py").write_text(
        "from promptlogctl.client import AsyncClient, Client\n"
        f"async def calls(c: Client, a: AsyncClient) -> None:\n{calls.replace('    a.', '    await a.')}"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, "--follow-imports=silent", "--no-pretty", str(tmp_path / "right.py"), str(tmp_path / "wrong.py")],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(_WRONG), done.stdout + done.stderr
    for line, says in zip(errors, _WRONG.values(), strict=True):
        assert "wrong.py" in line
        assert says in line


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda c: partial(c.submit, "return 1"), "submit"),
        (lambda c: partial(c.run, "@kept"), "run"),
        (lambda c: partial(c.run_source, "return 1"), "run_source"),
        (lambda c: partial(c.start, None, source="return 1"), "start"),
    ],
    ids=["submit", "run", "run_source", "start"],
)
def test_a_wrong_option_is_a_type_error(client: Client, call: Callable[[Any], Callable[..., Any]], name: str) -> None:
    """Both clients raise TypeError for an unknown option, name the option, and send nothing."""
    client.submit("return 1", name="kept")
    assert call(client)(engine="quickjs")
    says = rf"{name}\(\) got an unexpected keyword argument 'stream_logs'"
    with pytest.raises(TypeError, match=f"Client.{says}"):
        call(client)(stream_logs=True)
    if name == "start":
        return

    async def main() -> None:
        async with AsyncClient(client.socket_path) as asynchronous:
            assert await call(asynchronous)(engine="quickjs")
            with pytest.raises(TypeError, match=f"AsyncClient.{says}"):
                await call(asynchronous)(stream_logs=True)

    anyio.run(main, backend="asyncio")


def test_run_rejects_a_language(client: Client) -> None:
    """`run` rejects the option `language`, and `run_source` accepts it."""
    hash = client.submit("return 1").hash
    assert client.run_source("const a: number = 1; return a", language="typescript").value == 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'language'"):
        client.run(hash, language="javascript")  # type: ignore[call-arg]


def test_options_reach_the_daemon(client: Client) -> None:
    """One dictionary of options serves several runs: each option takes effect, and the dictionary is unchanged."""
    lines: list[str] = []
    options: RunOptions = {
        "env": {"a": 1},
        "limits": LimitsAsked(cpu_ms=20),
        "isolation": "jail",
        "engine": "deno",
        "on_log": lambda line: lines.append(line.text),
        "tenant": "somebody",
    }
    given = dict(options)
    assert given.keys() == RunOptions.__annotations__.keys()
    hash = client.submit("console.log('said'); if (prompt) { for (;;) {} } return [typeof Intl, env]").hash
    for _ in range(2):
        result = client.run(hash, **options)
        assert (result.value, result.logs) == (["object", {"a": 1}], [])
        assert "CPU limit of 20 ms" in client.start(hash, "loop", **options).result().describe()
    assert lines == ["said"] * 4
    assert options == given
