"""The choice of the compiler of a build, and the error if there is none."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from cell_build import compiler
from cell_build.errors import BuildError


def test_compiler_of_the_machine_is_preferred(host_compiler: compiler.Compiler) -> None:
    """The machine's compiler is used, and its identity covers the libraries that it links statically."""
    assert not host_compiler.is_zig
    assert "libc.a " in host_compiler.identity


@pytest.mark.parametrize("reason", ["forced", "no compiler", "cannot link", "does not run"])
def test_zig_is_the_fallback(host_compiler: compiler.Compiler, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """zig is used if it is requested, or if no other compiler makes programs that run."""
    match reason:
        case "forced":
            monkeypatch.setenv("PROMPTLOG_COMPILER", "zig")
        case "no compiler":
            monkeypatch.setenv("PATH", "/nowhere")
        case "cannot link":
            monkeypatch.setenv("CC", "cc -nostdlib")
        case "does not run":
            monkeypatch.setenv("CC", "cc -Dprintf=*(int*)0=")
    assert compiler.choose("x86_64").identity == compiler.ZIG_REQUIREMENT


def test_other_architecture_uses_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cross build uses zig with an explicit target."""
    monkeypatch.setattr("cell_build.compiler.platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PROMPTLOG_ARCH", "aarch64")
    chosen = compiler.choose(compiler.target_architecture())
    assert chosen.is_zig
    assert "aarch64-linux-musl" in chosen.link_flags


def test_unknown_settings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting is an error."""
    monkeypatch.setenv("PROMPTLOG_COMPILER", "zigg")
    with pytest.raises(BuildError, match="PROMPTLOG_COMPILER=zigg is unknown"):
        compiler.choose("x86_64")
    monkeypatch.setenv("PROMPTLOG_ARCH", "m68k")
    with pytest.raises(BuildError, match="no jail for linux on m68k"):
        compiler.target_architecture()


@pytest.mark.parametrize("installed", [None, "0.16.0"])
def test_error_without_zig(installed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without isolation names the version of zig to install."""

    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr("cell_build.compiler.importlib.metadata.version", version)
    with pytest.raises(BuildError, match=r"pip install ziglang==0\.15\.2"):
        compiler.check_zig_is_installed()


def test_misleading_variables_do_not_reach_the_compiler(
    host_compiler: compiler.Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers on the user's CPATH are not used."""
    (tmp_path / "stdio.h").write_text("#error taken from CPATH\n")
    (tmp_path / "a.c").write_text("#include <stdio.h>\n")
    monkeypatch.setenv("CPATH", str(tmp_path))
    host_compiler.run(["-c", "a.c", "-o", "a.o"], tmp_path, tmp_path)
    with pytest.raises(BuildError, match="taken from CPATH"):
        host_compiler.run(["-I.", "-c", "a.c", "-o", "a.o"], tmp_path, tmp_path)
