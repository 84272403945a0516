"""The image of the Dockerfile, built and run by Podman with the flags of docs/operations/container.md.

`make test-container` runs these tests. They need root, podman with runc, mmdebstrap, and a package index. Podman keeps
images and containers in a folder of its own, which is removed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import cache

ROOT = Path(__file__).parents[2]
_DOCUMENT = ROOT / "docs/operations/container.md"
_TOOLS = ("podman", "runc", "catatonit", "mmdebstrap")
_BUILD_S = 900
_COMMAND_S = 60
_FROM_HOST = ("/etc/ssl/certs", "/etc/pip.conf")
"""What the build uses of this host, if it is there: certificates, and the package index of pip."""


class Podman:
    """Runs Podman with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
        storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        (folder / "storage.conf").write_text(storage)

    def run(self, *arguments: str, timeout: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run a command of Podman, and return what it printed."""
        command = ["podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", *arguments]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=self._environment, timeout=timeout, cwd=ROOT
        )

    def ok(self, *arguments: str, timeout: float = _COMMAND_S) -> str:
        """The same, for a command that must succeed. Return its standard output."""
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, f"podman {shlex.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run promptlogctl in the container."""
        return self.run("exec", "promptlog", "promptlogctl", *arguments)


def _documented(beginning: str) -> list[str]:
    """Return the arguments of the document's command that begins with this text."""
    text = _DOCUMENT.read_text("utf-8").replace("\\\n", " ")
    (line,) = re.findall(rf"^    docker ({re.escape(beginning)}.*)$", text, re.MULTILINE)
    return shlex.split(line)


def _parent_cgroups(name: str) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"*/{name}"), *Path("/sys/fs/cgroup").glob(name)]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """The container `promptlog`, which runs with the documented flags."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    assert os.geteuid() == 0, "run this test as root"
    assert not missing, f"this requires {', '.join(missing)}: apt-get install {' '.join(_TOOLS)}"
    folder = tmp_path_factory.mktemp("podman")
    tool, parent = Podman(folder), f"promptlog-test-{os.getpid()}"
    base = cache.archive("bookworm-image", "minbase, certificates", _make_base)
    tool.ok("import", str(base), "localhost/debian:bookworm-slim")
    volumes = [argument for path in _FROM_HOST if os.path.exists(path) for argument in ("-v", f"{path}:{path}:ro")]
    build = _documented("build")
    tool.ok(build[0], "--isolation", "chroot", "--network", "host", *volumes, *build[1:], timeout=_BUILD_S)
    run = _documented("run")
    # Podman asks for higher limits than root may have in a container.
    limits = [
        argument
        for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        for argument in ("--ulimit", f"{name}={_at_most(limit, 4096)}")
    ]
    try:
        tool.ok(run[0], *limits, "--cgroup-parent", parent, *run[1:])
        yield tool
    finally:
        tool.run("rm", "--force", "--time", "10", "promptlog")
        for one in _parent_cgroups(parent):
            for cgroup in sorted(one.glob("**/"), reverse=True):
                cgroup.rmdir()
        tool.ok("system", "reset", "--force")
        shutil.rmtree(folder, ignore_errors=True)


def _make_base(path: Path) -> None:
    command = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(path)]
    subprocess.run(command, check=True, timeout=_BUILD_S, stdin=subprocess.DEVNULL)


def _at_most(limit: int, most: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def _wait(podman: Podman) -> None:
    """Wait until the daemon answers."""
    deadline = time.monotonic() + 30
    while podman.ctl("ping").returncode != 0:
        assert time.monotonic() < deadline, podman.run("logs", "promptlog")
        time.sleep(0.2)


def test_the_documented_command(podman: Podman) -> None:
    """The first program of the document runs, on both engines."""
    _wait(podman)
    command = _documented("exec promptlog promptlogctl exec")
    assert podman.ok(*command) == "5\n"
    assert podman.ok(*command, "--engine", "deno") == "5\n"


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_limits(podman: Podman, engine: str) -> None:
    """Limits of CPU time and memory end a run, and the daemon continues."""
    _wait(podman)
    for source, kind in (
        ("for (;;);", "cpu_limit"),
        ("const kept = []; for (;;) kept.push(new Array(1e5).fill(1));", "memory_limit"),
    ):
        done = podman.ctl("exec", "--json", "--engine", engine, "--cpu-ms", "2000", "--wall-ms", "5000", "-e", source)
        assert json.loads(done.stdout)["outcome"]["kind"] == kind, done
    assert podman.ctl("exec", "--engine", engine, "-e", "return 1").stdout == "1\n"


def test_doctor(podman: Podman) -> None:
    """The documented call of `doctor` finds nothing missing."""
    _wait(podman)
    printed = podman.ok(*_documented("exec --env TMPDIR"))
    assert "engine quickjs: ok" in printed
    assert "engine deno: ok" in printed
    assert "missing" not in printed


def test_rights(podman: Podman) -> None:
    """The daemon is not root, has no capability and no network, and cannot write to its image."""
    _wait(podman)
    pid = podman.ok("exec", "promptlog", "promptlogctl", "ping", "--json")
    status = podman.ok("exec", "promptlog", "cat", f"/proc/{json.loads(pid)['pid']}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["10001"] * 4
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    for folder in ("/opt/promptlog", "/var/lib", "/etc"):
        assert podman.run("exec", "promptlog", "touch", f"{folder}/x").returncode != 0
    assert podman.ok("exec", "promptlog", "ls", "/sys/class/net").split() == ["lo"]


def test_a_restart_keeps_the_programs(podman: Podman) -> None:
    """A stop drains within its ten seconds, without an error, and a program is there after the next start."""
    _wait(podman)
    podman.ok("exec", "promptlog", "sh", "-c", "echo 'return 3' | promptlogctl submit - --name three")
    began = time.monotonic()
    podman.ok("stop", "--time", "10", "promptlog")
    assert time.monotonic() - began < 9
    assert podman.ok("inspect", "--format", "{{.State.ExitCode}}", "promptlog").strip() == "0"
    podman.ok("start", "promptlog")
    _wait(podman)
    assert podman.ctl("run", "@three").stdout == "3\n"
