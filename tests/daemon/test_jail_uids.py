"""Each jail has its own uid on the host if the daemon may set uids; otherwise `stats` and `doctor` report it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from tests.daemon.processes import Daemon, a_daemon, children, nsjails, until


def _uids(daemon: Daemon) -> dict[int, set[int]]:
    """Return the host uids of the processes in each nsjail's jail; 0 while nsjail sets one up."""
    found: dict[int, set[int]] = {}
    for jail in nsjails(daemon.process.pid):
        inside = children(jail)
        for pid in inside:
            inside += children(pid)
        try:
            found[jail] = {_uid(pid) for pid in inside}
        except FileNotFoundError:
            continue
    return found


def _uid(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def test_no_two_jails_share_a_uid(tmp_path: Path) -> None:
    """With root, all cells have different uids of the configured range, and uids are reused."""
    assert os.geteuid() == 0, "only root gives jails uids without capabilities: run this test as root"
    (tmp_path / "c").write_text('[pool]\ncells = 2\nuids = "700000:20"\n[deno]\nblank = 2\n')
    with a_daemon(tmp_path, "--config", str(tmp_path / "c")) as daemon, Client(daemon.socket) as client:
        assert client.stats().jail_uids == "own: each jail has one of 20 uids from 700000 on"
        for _ in range(22):  # more jails than uids
            assert client.run_source("return 1", isolation="jail").value == 1
            assert client.run_source("return 1", isolation="jail", engine="deno").value == 1

        jails: dict[int, set[int]] = {}

        def settled() -> bool:
            jails.clear()
            jails.update(_uids(daemon))
            return len(jails) >= 5 and all(len(own) == 1 and min(own) >= 700_000 for own in jails.values())

        until(settled, 10)
        uids = set().union(*jails.values())
        assert len(uids) == len(jails)
        assert uids <= set(range(700_000, 700_020))


@pytest.fixture
def as_nobody() -> Iterator[Any]:
    """Run a command as an ordinary user with additional capabilities, and return its output."""
    assert os.geteuid() == 0, "this test becomes another user: run it as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-test-", dir="/run"))
    os.chown(folder, 65534, 65534)

    def run(*arguments: str, capabilities: tuple[str, ...] = (), within: Sequence[str] = ()) -> str:
        # dac_read_search, because the tests' Python may be below root's home.
        kept = ",".join(f"+{name}" for name in ("dac_read_search", *capabilities))
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,{kept}"]
        become += [f"--ambient-caps=-all,{kept}", f"--bounding-set=-all,{kept}"]
        environment = {"TMPDIR": str(folder), "HOME": str(folder), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*within, *become, sys.executable, "-m", "promptlogctl", *arguments],
            input=b"return 1", capture_output=True, env=environment, timeout=60, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    yield run
    shutil.rmtree(folder)


def test_jails_do_not_have_the_daemons_groups(tmp_path: Path) -> None:
    """The jails of a daemon with capabilities and supplementary groups have none of these groups."""
    assert os.geteuid() == 0, "this test becomes another user: run it as root"
    folder = Path(tempfile.mkdtemp(prefix="promptlog-test-", dir="/run"))
    os.chown(folder, 65534, 65534)
    kept = "+dac_read_search,+setuid,+setgid"
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=4711,4712", f"--inh-caps=-all,{kept}"]
    become += [f"--ambient-caps=-all,{kept}", f"--bounding-set=-all,{kept}", sys.executable, "-m", "promptlogd"]
    reading, writing = os.pipe()
    daemon = subprocess.Popen(
        [*become, "--socket", folder / "s", "--state-dir", folder / "state", "--ready-fd", str(writing)],
        pass_fds=(writing,), cwd="/", env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    os.close(writing)
    try:
        with open(reading, "rb") as ready:
            assert ready.read() == b"ready\n"
        with Client(folder / "s") as client:
            assert client.run_source("return 1", engine="deno").value == 1
            groups = {}
            for jail in nsjails(daemon.pid):
                for pid in children(jail):
                    try:
                        status = Path(f"/proc/{pid}/status").read_text()
                    except OSError:  # the process has ended
                        continue
                    groups[pid] = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
            assert groups
            assert set(map(tuple, groups.values())) == {()}
    finally:
        daemon.terminate()
        daemon.wait(10)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "how", [["unshare", "--user", "--map-root-user"], ["setpriv", "--bounding-set=-setuid"]], ids=" ".join
)
def test_a_root_that_may_not_set_uids_uses_one_uid(tmp_path: Path, how: list[str]) -> None:
    """Root of a user namespace with one uid, or without CAP_SETUID, runs programs, and reports `shared`."""
    command = [*how, sys.executable, "-m", "promptlogctl", "exec", "--spawn", "-"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PROMPTLOG_SOCKET": str(tmp_path / "none")}
    done = subprocess.run(command, input=b"return 1", capture_output=True, env=environment, timeout=60)
    assert done.stdout == b"1\n", done.stderr.decode()
    command[command.index("exec") :] = ["stats", "--spawn"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert b"jail uids\tshared: all jails have uid 0" in done.stdout, done.stderr.decode()


def test_jails_of_an_ordinary_user_share_a_uid(as_nobody: Any) -> None:
    """Without the right to set uids, `stats` and `doctor` report `shared` and the reason."""
    why = "the daemon may not set uids (this needs root, or CAP_SETUID and CAP_SETGID)"
    assert f"jail uids\tshared: all jails have uid 65534, because {why}" in as_nobody("stats", "--spawn")
    assert "jail uids: warning: shared: " in as_nobody("doctor")


def test_two_capabilities_are_enough(as_nobody: Any) -> None:
    """An ordinary user with CAP_SETUID and CAP_SETGID runs both engines in jails with separate uids."""
    capabilities = ("setuid", "setgid")
    assert "jail uids\town: " in as_nobody("stats", "--spawn", capabilities=capabilities)
    for engine in ("quickjs", "deno"):
        assert as_nobody("exec", "--spawn", "--engine", engine, "-", capabilities=capabilities) == "1\n"


def test_a_full_disk_does_not_stop_an_ordinary_users_daemon_from_starting(as_nobody: Any, tmp_path: Path) -> None:
    """The daemon starts if the disk of the state folder is full or too small for the jails' roots."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-test-", dir="/run"))
    folder.chmod(0o755)
    script = 'mount -t tmpfs -o size=8m,mode=755,uid=65534 tmpfs "$0"; exec "$@"'
    in_a_small_disk = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(folder)]
    try:
        arguments = ("exec", "--spawn", "--state-dir", str(folder / "state"), "-")
        assert as_nobody(*arguments, within=in_a_small_disk) == "1\n"
    finally:
        folder.rmdir()
