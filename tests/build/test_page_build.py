"""The page's editor: the files that are made from its packages, and builds without the packages."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

import page_build


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """All locked packages in Deno's layout, with small modules."""
    lock = json.loads((Path(page_build.__file__).parent / "deno.lock").read_text())
    for key in lock["npm"]:
        name = key.rpartition("@")[0]
        folder = tmp_path / key.replace("/", "+") / "node_modules" / name
        folder.mkdir(parents=True)
        description = {"name": name, "version": key.rpartition("@")[2], "exports": {"import": "./dist/index.js"}}
        (folder / "package.json").write_text(json.dumps(description))
        (folder / "LICENSE").write_text(f"licence of {name}")
        (folder / "dist").mkdir()
        (folder / "dist/index.js").write_text(
            "import { a,\n  b } from '@codemirror/state';\nimport crelt from \"crelt\";\n"
            "export { c } from '@lezer/common';\nconst text = \"import x from 'y'\", from = 'z';\n"
        )
    return tmp_path


def test_imports_name_files(packages: Path) -> None:
    """Imports of packages become imports of existing files; string literals that look like imports are unchanged."""
    modules = page_build.modules_of(packages)
    source = modules["codemirror-view.js"].decode()
    imports = "\n".join(source.splitlines()[:-1])
    assert re.findall(r"from [\"'](.*?)[\"'];", imports) == ["./codemirror-state.js", "./crelt.js", "./lezer-common.js"]
    assert "\"import x from 'y'\", from = 'z'" in source
    assert {"codemirror-state.js", "crelt.js", "lezer-common.js"} <= modules.keys()
    assert b"licence of @codemirror/view" in modules[page_build.LICENSES]


def test_a_missing_package(tmp_path: Path) -> None:
    """The error names a locked package that is missing."""
    with pytest.raises(page_build.EditorError, match="@codemirror/view"):
        page_build.modules_of(tmp_path)


@pytest.mark.parametrize("wish", ["", "required"])
def test_without_deno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wish: str
) -> None:
    """Without Deno the build continues with a warning; a release build, which requires the editor, fails."""
    monkeypatch.setenv(page_build.VARIABLE, wish)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if wish:
        with pytest.raises(page_build.EditorError, match="deno is not installed"):
            page_build.find_or_fetch(tmp_path)
    else:
        assert page_build.find_or_fetch(tmp_path) is None
        assert "a plain text field" in capsys.readouterr().err


def test_an_unreachable_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the packages can't be fetched, the error contains Deno's message."""
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    with pytest.raises(page_build.EditorError, match="deno could not fetch it"):
        page_build.fetch(tmp_path)
