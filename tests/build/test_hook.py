"""The build hook: the requirements that it adds, and the files that it puts into a wheel or the source tree."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import page_build
from cell_build import cache, embedded, engine_source
from cell_build.cell import Cell
from cell_build.checkout import LAUNCHER_FOLDER, SOURCE_FOLDER
from hatch_build import CustomBuildHook
from tests.build.inputs import LAUNCHER, SOURCES, STAND_IN_ENGINE


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CustomBuildHook:
    """The hook of a project with small C files and the engine's source in a folder."""
    jail, cells = (tmp_path / "project" / folder for folder in (SOURCE_FOLDER, LAUNCHER_FOLDER))
    engine = tmp_path / "engine"
    for folder, files in ((jail, SOURCES), (cells, LAUNCHER), (engine, STAND_IN_ENGINE)):
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    for path in [*sum(embedded.SCRIPTS.values(), ()), embedded.FILTER, embedded.BYTECODE]:
        copy = tmp_path / "project" / embedded.ENGINES / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).parents[2] / embedded.ENGINES / path, copy)
    monkeypatch.setenv(engine_source.SOURCE_VARIABLE, str(engine))
    monkeypatch.setenv(page_build.VARIABLE, "none")
    unused: Any = None
    return CustomBuildHook(str(tmp_path / "project"), {}, unused, unused, str(tmp_path), "wheel")


def _build_data() -> dict[str, Any]:
    return {"force_include": {}, "sbom_files": [], "pure_python": True, "tag": "py3-none-any"}


@pytest.mark.usefixtures("host_compiler")
def test_wheel_gets_the_executable_and_its_descriptions(hook: CustomBuildHook, tmp_path: Path) -> None:
    """The wheel is for one architecture and any C library, and the build does not change the source tree."""
    build_data = _build_data()
    tree = sorted((tmp_path / "project").rglob("*"))
    hook.initialize("standard", build_data)
    places = list(build_data["force_include"].values())
    cell = f"{SOURCE_FOLDER}/quickjs-cell"
    assert places == [cell, f"{cell}.json", f"{LAUNCHER_FOLDER}/launch"]
    assert all(Path(file).exists() for file in [*build_data["force_include"], *build_data["sbom_files"]])
    assert build_data["pure_python"] is False
    assert build_data["tag"].startswith("py3-none-manylinux2014_")
    assert ".musllinux_1_1_" in build_data["tag"]
    assert sorted((tmp_path / "project").rglob("*")) == tree


@pytest.mark.usefixtures("host_compiler")
def test_editable_installation_puts_the_executable_into_the_tree(hook: CustomBuildHook, tmp_path: Path) -> None:
    """An editable installation puts the executable where an installed package has it."""
    hook.initialize("editable", _build_data())
    executable = tmp_path / "project" / SOURCE_FOLDER / "quickjs-cell"
    assert executable.stat().st_mode & 0o111
    assert executable.with_suffix(".json").exists()
    assert (tmp_path / "project" / LAUNCHER_FOLDER / "launch").stat().st_mode & 0o111


@pytest.mark.usefixtures("host_compiler")
def test_no_requirement_with_a_compiler(hook: CustomBuildHook) -> None:
    """With a compiler and the engine's source, a build needs no further package."""
    assert hook.dependencies() == []


def test_pip_is_installed_to_fetch_the_source(hook: CustomBuildHook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that must fetch the source requires pip, because an isolated build has none."""
    monkeypatch.delenv(engine_source.SOURCE_VARIABLE)
    assert hook.dependencies()[0].startswith("pip")


def test_zig_is_installed_only_to_compile(hook: CustomBuildHook, monkeypatch: pytest.MonkeyPatch) -> None:
    """zig is required if there is no compiler, unless the executable is cached."""
    monkeypatch.setenv("PROMPTLOG_COMPILER", "zig")
    assert hook.dependencies() == ["ziglang==0.15.2"]
    monkeypatch.setattr(Cell, "kept", lambda self, cache_folder: cache_folder)
    assert hook.dependencies() == []


@pytest.mark.usefixtures("host_compiler")
def test_the_pages_editor_comes_from_the_cache(
    hook: CustomBuildHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached editor goes into the wheel or the source tree, and nothing is fetched."""
    monkeypatch.setenv(page_build.VARIABLE, "required")
    monkeypatch.setattr(page_build.editor, "fetch", None)
    folder = page_build.cache_place(cache.open_folder())
    for name in ("codemirror-view.js", page_build.LICENSES):
        cache.write(folder / name, b"// its text")
    assert hook.dependencies() == []
    build_data = _build_data()
    hook.initialize("standard", build_data)
    assert f"{page_build.FOLDER}/codemirror-view.js" in build_data["force_include"].values()
    hook.initialize("editable", _build_data())
    assert (tmp_path / "project" / page_build.FOLDER / "codemirror-view.js").read_bytes() == b"// its text"


def test_deno_is_installed_to_fetch_the_editor(hook: CustomBuildHook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that must fetch the editor requires Deno."""
    monkeypatch.delenv(page_build.VARIABLE)
    assert page_build.DENO_REQUIREMENT in hook.dependencies()
