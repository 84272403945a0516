"""promptlogctl doctor: its checks, and the remedies that it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from promptlogctl.client import Client
from tests.ctl.command import ctl as _ctl
from tests.daemons import configured_daemon


def test_doctor_reports_a_cause_once(socket_path: Path) -> None:
    """If descriptors are too few for a daemon, doctor reports it once with a remedy, and names the skipped checks."""
    assert b"private daemon: ok" in _ctl(socket_path, "doctor").stdout
    command = ["prlimit", "--nofile=14", sys.executable, "-m", "promptlogctl", "doctor"]
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 4
    assert done.stdout.count("Too many open files") == 1, done.stdout
    assert "    fix: ulimit -n " in done.stdout
    for name in ("engine quickjs", "engine deno", "jail uids", "cgroup of jails"):
        assert f"{name}: not checked: see above\n" in done.stdout
    assert "mend what is missing" not in done.stdout


def test_doctor_explains_shared_uids(socket_path: Path) -> None:
    """In a user namespace that maps one uid, doctor asks for uids that are mapped, not for root."""
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-m", "promptlogctl", "doctor", "--json"]
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    [check] = [check for check in json.loads(done.stdout) if check["name"] == "jail uids"]
    assert check["state"] == "warning"
    assert "maps no uids" in check["text"]
    assert check["mend"].startswith("set pool.uids to ids that /proc/self/uid_map"), check


def test_doctor_succeeds(socket_path: Path) -> None:
    """Where jails work, doctor exits with 0 and names each check."""
    done = _ctl(socket_path, "doctor")
    assert done.returncode == 0, done.stdout
    for name in (
        "user namespaces",
        "seccomp",
        "nsjail",
        "private daemon",
        "engine quickjs",
        "AppArmor",
        "cgroup",
        "socket",
    ):
        assert name in done.stdout.decode()


def test_doctor_says_which_cgroup_is_in_force(socket_path: Path) -> None:
    """It reports the cgroups of a daemon that this user starts, and those of the daemon that answers."""
    with configured_daemon('[pool]\ncgroup = "never"\n') as socket:
        checks = {check["name"]: check for check in json.loads(_ctl(socket, "doctor", "--json").stdout)}
    assert checks["socket"]["text"].endswith("; cgroup of its jails: none: pool.cgroup is never")
    with Client(socket_path) as client:
        kind = client.stats().cgroup.partition(":")[0]
    own = checks["cgroup of jails"]
    assert own["text"].startswith(kind)
    assert (own["state"], bool(own.get("mend"))) == (("ok", False) if kind.startswith("version") else ("warning", True))
