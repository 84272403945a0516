"""The units that install-service prints, checked by systemd's own tools. Nothing is installed here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import promptlogd
import sandbox
from promptlogctl.cli import cli, system, units
from promptlogctl.cli.install_service import check_unmasked, write
from promptlogctl.cli.uninstall_service import drop_ins, remove
from promptlogctl.cli.units import UnitFile, UnitsError

_LINE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")
_HEADER = re.compile(r"^# --- (/\S+)$", re.MULTILINE)


def _print(*arguments: str) -> dict[Path, str]:
    command = [sys.executable, "-m", "promptlogctl", "install-service", "--print", "--json", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {Path(file["path"]): file["text"] for file in json.loads(done.stdout)}


def _units_in(folder: Path, *arguments: str) -> list[Path]:
    """Write the printed units to a folder, and return their paths."""
    paths = []
    for path, text in _print(*arguments).items():
        if path.suffix in (".service", ".socket"):
            paths.append(folder / path.name)
            paths[-1].write_text(text)
    return paths


@pytest.mark.tools
@pytest.mark.parametrize("whose", ["--system", "--user"])
def test_systemd_accepts_the_units(tmp_path: Path, whose: str) -> None:
    """`systemd-analyze verify` accepts the printed units, and rejects a unit with a misspelt setting."""
    paths = _units_in(tmp_path, *(["--user"] if whose == "--user" else []))
    assert len(paths) == (2 if whose == "--user" else 6)
    command = ["systemd-analyze", whose, "verify", *map(str, paths)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    service = tmp_path / "promptlogd.service"
    service.write_text(service.read_text().replace("WatchdogSec=", "WatchDogSec="))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert "WatchDogSec" in done.stdout + done.stderr


@pytest.mark.tools
@pytest.mark.parametrize(("name", "most"), [("promptlogd", 2.0), ("promptlog-http", 1.0), ("promptlog-metrics", 1.0)])
def test_the_exposure_is_low(tmp_path: Path, name: str, most: float) -> None:
    """The exposure level of `systemd-analyze security` is at most 2.0 for the daemon and 1.0 for its fronts."""
    _units_in(tmp_path)
    command = ["systemd-analyze", "security", "--offline=yes", str(tmp_path / f"{name}.service")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    level = _LINE.search(done.stdout)
    assert level is not None, done.stdout
    assert float(level[1]) <= most, done.stdout


def _calls(group: str) -> set[str]:
    """Return the system calls of a group of systemd's."""
    command = ["systemd-analyze", "syscall-filter", group]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()[1:]
    found = set()
    for name in map(str.strip, lines):
        if name and not name.startswith("#"):
            found |= _calls(name) if name.startswith("@") else {name}
    return found


@pytest.mark.tools
def test_a_container_may_call_what_the_unit_may(tmp_path: Path) -> None:
    """container/seccomp.json allows no call that the unit forbids, and nearly all that the unit allows."""
    (line,) = re.findall(
        r"^SystemCallFilter=(.*)$", _print()[Path("/etc/systemd/system/promptlogd.service")], re.MULTILINE
    )
    allowed = set().union(*(_calls(word) if word.startswith("@") else {word} for word in line.split()))
    profile = json.loads((Path(__file__).parents[2] / "container/seccomp.json").read_text())
    (rule,) = profile["syscalls"]
    assert (profile["defaultAction"], rule["action"]) == ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW")
    assert set(rule["names"]) <= allowed
    assert len(allowed - set(rule["names"])) < 20  # a newer systemd knows more of them


@pytest.mark.parametrize("file", [*units.system_files(), *units.user_files()], ids=lambda file: str(file.path))
def test_each_directive_has_its_reason(file: units.UnitFile) -> None:
    """Above each directive of a unit is a comment, or the same directive."""
    section = before = ""
    for line in file.text.splitlines():
        section = line if line.startswith("[") else section
        name, equals, _ = line.partition("=")
        if equals and section in ("[Service]", "[Socket]") and not line.startswith("#"):
            assert before.startswith(("# ", f"{name}=")), line
        before = line


def test_printed_units() -> None:
    """--print shows each file under its path, and the units start the commands of this installation."""
    command = [sys.executable, "-m", "promptlogctl", "install-service", "--print"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    files = _print()
    assert _HEADER.findall(text) == list(map(str, files))
    for of_user in (False, True):
        for path, content in _print(*(["--user"] if of_user else [])).items():
            assert "/opt/promptlog" not in content
            if path.suffix == ".service":
                assert f"ExecStart={units.commands_folder()}/promptlog" in content


@pytest.mark.parametrize("command", ["install-service", "uninstall-service"])
def test_missing_requirements_are_named(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """One line says that systemd is missing, that the user has no systemd instance, or that root is needed."""
    for runs, uid, of_user, says in (
        (False, 0, False, "systemd does not run on this host; --print shows the units"),
        (True, 1000, False, "this requires root: sudo promptlogctl"),
        (True, 1000, True, "there is no systemd of this user: XDG_RUNTIME_DIR is not set"),
    ):
        monkeypatch.setattr(Path, "is_dir", lambda self, runs=runs: runs)
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        result = CliRunner().invoke(cli, [command, *(["--user"] if of_user else []), "--json"])
        assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "usage")
        assert says in json.loads(result.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("command", "instead"),
    [("install-service", "systemctl enable --now promptlogd.socket"), ("uninstall-service", "apt remove promptlog")],
)
def test_a_packages_service_is_left_to_dpkg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, instead: str
) -> None:
    """Where a Debian package has the units, they are neither written nor removed, and the right command is named."""
    monkeypatch.setattr(system, "PACKAGED", tmp_path / "unit")
    monkeypatch.setattr(system, "check_systemd", lambda of_user: None)
    monkeypatch.setattr(system, "run", lambda *command, **options: pytest.fail("a command was run"))
    (tmp_path / "unit").write_text("")
    result = CliRunner().invoke(cli, [command, "--json"])
    assert result.exit_code == 2
    assert f"a Debian package has installed the service; use {instead}" in json.loads(result.stdout)["error"]["message"]


def test_a_masked_unit_stays_masked(tmp_path: Path) -> None:
    """A unit that the operator has masked is not overwritten; the error names it."""
    file = UnitFile(path=tmp_path / "promptlogd.service", text="a unit")
    check_unmasked([file])
    file.path.symlink_to(os.devnull)
    with pytest.raises(UnitsError, match=r"promptlogd\.service is masked"):
        check_unmasked([file])


def test_files_are_written_only_if_needed(tmp_path: Path) -> None:
    """A unit is written only if its text differs; a configuration that the operator changed is never overwritten."""
    unit = UnitFile(path=tmp_path / "new/unit", text="right\n")
    assert write(unit)
    assert not write(unit)
    unit.path.write_text("changed")
    assert write(unit)
    assert unit.path.read_text() == "right\n"
    assert unit.path.stat().st_mode & 0o777 == 0o644
    settings = UnitFile(path=tmp_path / "settings", text="default\n", editable=True)
    assert write(settings)
    settings.path.write_text("mine")
    assert not write(settings)
    assert settings.path.read_text() == "mine"
    assert not list(tmp_path.rglob("*.new"))


def test_removal(tmp_path: Path) -> None:
    """Units are removed; a changed configuration and its drop-ins are removed only with purge."""
    unit = UnitFile(path=tmp_path / "unit", text="right\n")
    write(unit)
    unit.path.write_text("changed")
    assert remove(unit, purge=False)
    assert not remove(unit, purge=False)
    settings = UnitFile(path=tmp_path / "promptlog/promptlog.toml", text="default\n", editable=True)
    write(settings)
    assert remove(settings, purge=False)
    assert not settings.path.parent.exists()
    write(settings)
    settings.path.write_text("mine")
    drop_ins(settings).mkdir()
    (drop_ins(settings) / "50.toml").write_text("")
    assert not remove(settings, purge=False)
    assert drop_ins(settings).exists()
    assert remove(settings, purge=True)
    assert not settings.path.parent.exists()


@pytest.mark.parametrize("other", ["missing", "masked"])
def test_a_missing_or_masked_unit_is_not_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """uninstall-service disables only units that exist and are not masked, because for others systemctl fails and
    disables none; it removes all of them."""
    commands: list[list[str]] = []
    files = [UnitFile(path=tmp_path / name, text="a unit") for name in units.USER_UNITS]
    for file in files:
        write(file)
    first, second = (file.path for file in files)
    second.unlink()
    if other == "masked":
        second.symlink_to(os.devnull)
    monkeypatch.setattr(units, "user_files", lambda: files)
    monkeypatch.setattr(system, "check_systemd", lambda of_user: None)
    monkeypatch.setattr(system, "run", lambda *command, allowed=(0,): commands.append(list(command)))
    result = CliRunner().invoke(cli, ["uninstall-service", "--user", "--json"])
    assert result.exit_code == 0, result.output
    disabled = [command for command in commands if "disable" in command]
    assert disabled == [["systemctl", "--user", "--no-ask-password", "disable", "--no-reload", first.name]]
    removed = [first] if other == "missing" else [first, second]
    assert json.loads(result.stdout) == {"removed": list(map(str, removed)), "kept": []}
    assert not any(map(os.path.lexists, (first, second)))


def test_a_path_that_can_not_be_removed(tmp_path: Path) -> None:
    """The error about a path that can't be removed names the path."""
    (tmp_path / "unit").mkdir()
    with pytest.raises(UnitsError, match=re.escape(f"can't remove {tmp_path}/unit: ")):
        remove(UnitFile(path=tmp_path / "unit", text="x"), purge=True)


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    """The error about a file that can't be written names its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnitsError, match=re.escape(f"can't write {tmp_path}/file/unit: ")):
        write(UnitFile(path=tmp_path / "file/unit", text="x"))


def _installed(folder: Path) -> None:
    for name in ("promptlogd", "promptlogctl", "python"):
        (folder / name).write_text("")
        (folder / name).chmod(0o755)


def test_commands_that_the_service_can_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are refused if they are missing, or hidden from the service."""
    monkeypatch.setattr(units, "commands_folder", lambda: tmp_path)
    monkeypatch.setattr(units, "code_places", lambda: [tmp_path])
    with pytest.raises(UnitsError, match="promptlogd is not there"):
        units.check_commands(of_user=True)
    _installed(tmp_path)
    units.check_commands(of_user=True)
    with pytest.raises(UnitsError, match="which the service can't see; install promptlog elsewhere"):
        units.check_commands(of_user=False)
    monkeypatch.setattr(units, "_HIDDEN", ())
    units.check_commands(of_user=False)


@pytest.mark.parametrize("changed", [".", "lib", "lib/module.py"])
def test_code_that_another_user_can_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """The service is not installed if others may write to any file or folder of its code; the path is named."""
    monkeypatch.setattr(units, "commands_folder", lambda: tmp_path)
    monkeypatch.setattr(units, "code_places", lambda: [tmp_path])
    monkeypatch.setattr(units, "_HIDDEN", ())
    _installed(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/module.py").write_text("")
    units.check_commands(of_user=False)
    path = tmp_path / changed
    path.chmod(path.stat().st_mode | 0o002)
    mend = re.escape(f"every user can write to {path}; fix this with: chmod o-w {path}")
    with pytest.raises(UnitsError, match=f"code that another user can replace: {mend}.*python3 -m venv /opt/promptlog"):
        units.check_commands(of_user=False)
    units.check_commands(of_user=True)  # for their own service, users may use paths that they can change


def test_an_interpreter_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose interpreter is a link to another user's Python is refused, with the owner."""
    assert os.geteuid() == 0, "this test makes a file of another user: run it as root"
    python, environment = tmp_path / "python3", tmp_path / "bin"
    environment.mkdir()
    _installed(environment)
    python.write_text("")
    (environment / "python").unlink()
    (environment / "python").symlink_to(python)
    monkeypatch.setattr(units, "commands_folder", lambda: environment)
    monkeypatch.setattr(units, "code_places", lambda: [environment])
    monkeypatch.setattr(units, "_HIDDEN", ())
    units.check_commands(of_user=False)
    os.chown(python, 4711, 4711)
    with pytest.raises(UnitsError, match=f"{python} belongs to uid 4711; it must belong to root"):
        units.check_commands(of_user=False)


def test_what_the_service_executes() -> None:
    """The checked places contain the interpreter, its library, each package of promptlog and each dependency."""
    places = units.code_places()
    for path in (sys.executable, os.__file__, units.__file__, promptlogd.__file__, sandbox.__file__, msgspec.__file__):
        assert any(Path(path).is_relative_to(place) for place in places), path


@pytest.mark.parametrize(
    ("folder", "line"),
    [("/opt/x/bin", "ExecStart=/opt/x/bin/promptlogd "), ("/opt/100%/bin", "ExecStart=/opt/100%%/bin/promptlogd ")],
)
def test_units_name_the_folder_of_the_commands(monkeypatch: pytest.MonkeyPatch, folder: str, line: str) -> None:
    """The units contain this installation's folder, with `%` escaped for systemd."""
    monkeypatch.setattr(units, "commands_folder", lambda: Path(folder))
    service = next(file for file in units.system_files() if file.path.name == "promptlogd.service")
    assert line in service.text


@pytest.mark.parametrize("folder", ["/opt/a b", "/opt/a;b", '/opt/a"b', "/opt/a\nb", "/opt/a\\b"])
def test_a_folder_that_systemd_would_misread(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """A folder whose name would break a line of a unit is refused."""
    monkeypatch.setattr(units, "commands_folder", lambda: Path(folder))
    with pytest.raises(UnitsError, match="install promptlog in a folder with a plain name"):
        units.system_files()
