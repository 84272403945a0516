"""Complete builds with the real engine: `make test-build`. They need a package index and take some minutes.

Each test builds this checkout with one C file instead of the cell's files. The file evaluates its argument.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cell_build import cache, checkout, engine_source
from tests.build import elf

ROOT = Path(__file__).parents[2]
EXECUTABLE = f"{checkout.SOURCE_FOLDER}/quickjs-cell"
LAUNCHER = Path(checkout.LAUNCHER_FOLDER, "launch")
EVALUATE = """
#include <stdio.h>
#include <string.h>
#include "quickjs.h"

int main(int argc, char **argv)
{
    JSContext *context = JS_NewContext(JS_NewRuntime());
    if (argc < 2)
        return 2;
    JSValue value = JS_Eval(context, argv[1], strlen(argv[1]), "argument", JS_EVAL_TYPE_GLOBAL);
    printf("%s\\n%s\\n", CELL_BUILD, JS_ToCString(context, value));
    return 0;
}
"""
SCRIPT = "JSON.stringify([0.1 + 0.2, 'Straße'.toUpperCase(), /(?<year>\\d{4})/u.exec('in 2026').groups.year])"
RESULT = '[0.30000000000000004,"STRASSE","2026"]'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with the small C file instead of the cell."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("promptlogd", "promptlogctl", "sandbox", "systemd", "cell_build", "page_build"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.[ch]", "quickjs-cell*", LAUNCHER.name, "*.pyc")
        )
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / checkout.SOURCE_FOLDER / "evaluate.c").write_text(EVALUATE)
    shutil.copy(ROOT / LAUNCHER.with_suffix(".c"), folder / LAUNCHER.with_suffix(".c"))
    return folder


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests share, so that each compiler compiles the engine once for each architecture."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared_cache(warm_cache: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    """Use the shared cache instead of a cache for each test."""
    monkeypatch.setenv(cache.VARIABLE, str(warm_cache))


def _pip(*arguments: str | Path, python: str | Path = sys.executable) -> str:
    """Run pip, and return the output of pip and of the build."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "-v", *arguments]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _wheel(source: Path, folder: Path, *options: str) -> tuple[zipfile.ZipFile, str]:
    """Build a wheel, and return it with the output of the build."""
    output = _pip("wheel", "--no-deps", *options, "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path), output


def _sdist(project: Path, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=project, check=True)
    (path,) = folder.glob("*.tar.gz")
    return path


def _output(wheel: zipfile.ZipFile, folder: Path, emulator: tuple[str, ...] = ()) -> list[str]:
    """Run the executable of a wheel on the script, and return its output."""
    path = Path(wheel.extract(EXECUTABLE, folder))
    path.chmod(0o755)
    done = subprocess.run([*emulator, path, SCRIPT], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of a new virtual environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    yield folder / "bin" / "python"
    shutil.rmtree(folder)


def test_wheel_has_a_hardened_executable_that_runs(project: Path, tmp_path: Path) -> None:
    """The engine's source comes from the index; the wheel fits any Linux of this architecture, and has an SBOM."""
    wheel, _ = _wheel(project, tmp_path)
    machine = platform.machine()
    assert str(wheel.filename).endswith(f"-py3-none-manylinux2014_{machine}.musllinux_1_1_{machine}.whl")
    assert elf.faults(wheel.read(EXECUTABLE), machine) == []
    facts = json.loads(wheel.read(f"{EXECUTABLE}.json"))
    assert _output(wheel, tmp_path) == [facts["build"], RESULT]
    for name in (EXECUTABLE, str(LAUNCHER)):
        assert wheel.getinfo(name).external_attr >> 16 & 0o111
    assert elf.faults(wheel.read(str(LAUNCHER)), machine) == []
    (bill,) = (name for name in wheel.namelist() if name.endswith(".dist-info/sboms/quickjs-cell.cdx.json"))
    engine = json.loads(wheel.read(bill))["components"][0]
    assert engine["version"] == facts["engine_version"]
    assert "Fabrice Bellard" in engine["licenses"][0]["license"]["text"]["content"]
    assert not [name for name in wheel.namelist() if name.endswith((".c", ".h")) or "_build/" in name]
    for name in ("openapi.json", "static/index.html", "static/editor/codemirror-view.js", "static/editor/LICENSES.txt"):
        assert f"promptlogctl/http/{name}" in wheel.namelist()


def test_second_build_fetches_and_compiles_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build without an index and without a compiler uses the cache, and the wheel is byte-identical."""
    first, _ = _wheel(project, tmp_path / "first")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    second, output = _wheel(project, tmp_path / "second", "--no-build-isolation")
    assert "compiling" not in output
    assert Path(str(first.filename)).read_bytes() == Path(str(second.filename)).read_bytes()


def test_sdist_is_enough_to_build_the_same_wheel(project: Path, tmp_path: Path) -> None:
    """promptlog's sdist contains the C files and the build code, no executable; sdist and wheel are reproducible."""
    left_behind = project / EXECUTABLE
    left_behind.write_text("from an editable installation")
    sdist = _sdist(project, tmp_path / "sdist")
    assert _sdist(project, tmp_path / "again").read_bytes() == sdist.read_bytes()
    from_tree, _ = _wheel(project, tmp_path / "tree")
    left_behind.unlink()
    with tarfile.open(sdist) as tar:
        assert not [name for name in tar.getnames() if name.endswith("quickjs-cell")]
    from_sdist, _ = _wheel(sdist, tmp_path / "wheel")
    assert from_sdist.read(EXECUTABLE) == from_tree.read(EXECUTABLE)
    assert Path(str(from_sdist.filename)).read_bytes() == Path(str(from_tree.filename)).read_bytes()


def test_source_folder_gives_the_same_bytes_offline(
    project: Path, tmp_path: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with the unpacked sdist gives the same executable, with an empty cache and without an index."""
    online, _ = _wheel(project, tmp_path / "online")
    with tarfile.open(warm_cache / f"{engine_source.SDIST_FOLDER}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setenv(engine_source.SOURCE_VARIABLE, str(tmp_path / engine_source.SDIST_FOLDER))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "another-cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    offline, output = _wheel(project, tmp_path / "offline", "--no-build-isolation")
    assert "compiling engine/quickjs.c" in output
    assert offline.read(EXECUTABLE) == online.read(EXECUTABLE)


def test_installation_has_the_executable_in_its_place(project: Path, python: Path) -> None:
    """An editable installation puts the executable into the source tree, a normal one into the installed package."""
    _pip("install", "--no-deps", "--editable", project, python=python)
    assert os.access(project / EXECUTABLE, os.X_OK)
    (project / EXECUTABLE).unlink()
    _pip("install", "--no-deps", "--force-reinstall", project, python=python)
    (installed,) = python.parents[1].glob(f"lib/python*/site-packages/{EXECUTABLE}")
    output = subprocess.run([installed, SCRIPT], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[1] == RESULT
    assert not (project / EXECUTABLE).exists()


def test_zig_builds_without_a_compiler(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler needs only PyPI's ziglang, whose executable has the same protections."""
    monkeypatch.setenv("CC", "/nowhere/cc")
    wheel, _ = _wheel(project, tmp_path / "first")
    facts = json.loads(wheel.read(f"{EXECUTABLE}.json"))
    assert facts["compiler"].startswith("ziglang")
    for name in (EXECUTABLE, str(LAUNCHER)):
        assert elf.faults(wheel.read(name), platform.machine()) == []
    assert _output(wheel, tmp_path) == [facts["build"], RESULT]
    _, output = _wheel(project, tmp_path / "second")
    assert "ziglang" not in output, "zig is not installed where the executable is cached"


def test_other_architecture_is_cross_built(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zig cross-compiles between arm64 and x86-64. The executable runs if qemu-user is installed."""
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    monkeypatch.setenv("PROMPTLOG_ARCH", other)
    wheel, _ = _wheel(project, tmp_path)
    assert str(wheel.filename).endswith(f"-py3-none-manylinux2014_{other}.musllinux_1_1_{other}.whl")
    for name in (EXECUTABLE, str(LAUNCHER)):
        assert elf.faults(wheel.read(name), other) == []
    emulator = shutil.which(f"qemu-{other}-static") or shutil.which(f"qemu-{other}")
    if emulator is None:
        pytest.skip(f"the executable was built, and not run: there is no qemu-{other}")
    assert _output(wheel, tmp_path, (emulator,))[1] == RESULT
