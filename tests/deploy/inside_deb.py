"""Tests of the Debian package in a machine that systemd has booted, from installation to purge.

The system's Python runs these tests, because /opt/promptlog belongs to the package and disappears with it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
import time
from pathlib import Path

import pytest

PACKAGE = Path("/shared/promptlog.deb")
SOCKET = "/run/promptlog/promptlog.sock"
SETTINGS = Path("/etc/promptlog/promptlog.toml")
SERVICES = ("promptlogd.service", "promptlog-http.service", "promptlog-metrics.service")

_BEFORE: set[str] = set()
"""The paths that existed before the installation."""


def run(*command: str | Path, code: int | None = 0) -> str:
    """Run a command, check its exit code, and return its output."""
    environment = {**os.environ, "PROMPTLOG_SOCKET": SOCKET, "DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_COLORS": "0"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )
    assert code is None or done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def files() -> set[str]:
    """Return all paths where the package could leave something."""
    skipped = ("/proc", "/sys", "/dev", "/checks", "/shared", "/tmp", "/var/log/journal", "/run/systemd")
    found = set()
    for parent, names, others in os.walk("/"):
        names[:] = [name for name in names if os.path.join(parent, name) not in skipped]
        found |= {os.path.join(parent, name) for name in (*names, *others)}
    return found


def until_served() -> str:
    """Wait until the daemon answers, and return what `ping` prints."""
    return run("promptlogctl", "ping", "--wait", "30")


def main_pid() -> int:
    """Return the daemon's pid; 0 if it does not run."""
    return int(run("systemctl", "show", "promptlogd.service", "--property=MainPID", "--value"))


def test_it_is_installed() -> None:
    """dpkg accepts the package, the socket listens, and both engines run programs."""
    _BEFORE.update(files())
    run("dpkg", "--install", PACKAGE)
    assert run("systemctl", "is-enabled", "promptlogd.socket").strip() == "enabled"
    assert run("systemctl", "is-active", "promptlogd.socket").strip() == "active"
    assert run("systemctl", "is-enabled", "promptlog-http.socket", code=1).strip() == "disabled"
    until_served()
    for engine in ("quickjs", "deno"):
        options = ("--engine", engine, "--wall-ms", "20000", "--cpu-ms", "2000")
        text = run("promptlogctl", "exec", *options, "-e", "return prompt.length", "--prompt", "abc")
        assert text.strip() == "3"
    assert pwd.getpwnam("promptlog").pw_dir == "/var/lib/promptlog"


def test_it_is_as_dpkg_says() -> None:
    """All files belong to root and are unchanged since the package was unpacked, and only root can write to them."""
    assert run("dpkg", "--verify", "promptlog") == ""
    environment = Path("/opt/promptlog")
    for path in [environment, *environment.rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert path.is_symlink() or not status.st_mode & 0o022, path
    assert os.path.realpath(environment / "bin/python3").startswith("/usr/bin/python3.")
    assert list(environment.rglob("*.pyc"))
    for unit in SERVICES:
        assert run("systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{unit}") == ""


def test_http_and_metrics() -> None:
    """The HTTP server and the metrics server of the package work."""
    run("systemctl", "enable", "--now", "promptlog-http.socket", "promptlog-metrics.socket")
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).read().decode())"
    assert "promptlog_up 1.0" in run("/usr/bin/python3", "-c", fetch, "http://127.0.0.1:9464/metrics")
    assert "promptlog" in run("/usr/bin/python3", "-c", fetch, "http://127.0.0.1:8787/")


def test_the_service_is_dpkgs() -> None:
    """install-service and uninstall-service change nothing, and name the commands to use instead."""
    assert "use systemctl enable --now promptlogd.socket" in run("promptlogctl", "install-service", code=2)
    assert "use apt remove promptlog" in run("promptlogctl", "uninstall-service", code=2)


def test_an_upgrade_keeps_what_is_the_operators() -> None:
    """After an upgrade, programs and settings are unchanged, and running services have been restarted."""
    Path("/tmp/kept.js").write_text("return 'kept'")
    run("promptlogctl", "submit", "/tmp/kept.js", "--name", "kept")
    SETTINGS.write_text(SETTINGS.read_text() + "\n[scheduler]\nqueue = 77\n")
    before = main_pid()
    run("dpkg", "--install", PACKAGE)
    until_served()
    assert main_pid() not in (0, before)
    assert run("promptlogctl", "run", "@kept", "--wall-ms", "20000", "--prompt", "").strip() == '"kept"'
    assert re.search(r"scheduler\.queue\s+77", run("promptlogctl", "config", "--changed"))


def test_a_removal_keeps_programs_and_settings() -> None:
    """After `dpkg --remove` nothing runs or listens. A new installation finds the programs, and the socket listens."""
    run("dpkg", "--remove", "promptlog")
    assert not Path("/opt/promptlog").exists()
    assert not Path("/run/promptlog").exists()
    assert not Path("/usr/bin/promptlogctl").is_symlink()
    assert Path("/var/lib/promptlog").exists()
    assert "queue = 77" in SETTINGS.read_text()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            assert b"/opt/promptlog" not in (folder / "cmdline").read_bytes(), folder
        except (FileNotFoundError, ProcessLookupError):
            continue
    run("dpkg", "--install", PACKAGE)
    until_served()
    assert run("promptlogctl", "run", "@kept", "--wall-ms", "20000", "--prompt", "").strip() == '"kept"'


def test_a_purge_leaves_nothing() -> None:
    """After `dpkg --purge` there is no file, user, group or unit of promptlog."""
    drop_ins = Path("/etc/promptlog/promptlog.toml.d")
    drop_ins.mkdir()
    (drop_ins / "50.toml").write_text("")
    folder = Path("/etc/systemd/system/promptlogd.service.d")
    folder.mkdir()
    (folder / "override.conf").write_text("[Service]\n")
    run("dpkg", "--purge", "promptlog")
    deadline = time.monotonic() + 20
    while (left := {path for path in files() - _BEFORE if "promptlog" in path}) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not {path for path in left if not path.startswith("/sys")}
    for user in ("promptlog", "promptlog-http"):
        with pytest.raises(KeyError):
            pwd.getpwnam(user)
    assert not [group.gr_name for group in grp.getgrall() if "promptlog" in group.gr_name]
    assert run("systemctl", "list-unit-files", "promptlog*.socket", "--no-legend", code=None).strip() == ""
    assert run("systemctl", "--failed", "--no-legend").strip() == ""
