"""Tests that run as root in a machine that systemd has booted: the service from installation to removal.

The tests follow an operator's day in order, and each starts from the state that the one before left. promptlog is in
/opt/promptlog; pytest is installed outside of it.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptlogctl.client import Client, ConnectionLost, NoDaemon, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit

BIN = Path("/opt/promptlog/bin")
SOCKET = Path("/run/promptlog/promptlog.sock")
DROP_INS = Path("/etc/promptlog/promptlog.toml.d")
DAEMON, LISTENER, HTTP = "promptlogd.service", "promptlogd.socket", "promptlog-http.socket"
METRICS = "promptlog-metrics.socket"
REVERSE = "const result = [...prompt].reverse().join('')"

COMMAND_S = float(os.environ.get("CHECKS_COMMAND_S", "90"))
"""Time limit of a command. An emulated machine needs more."""

PATIENT = LimitsAsked(wall_ms=20_000)
"""A long wall limit, because a busy host may give a run little CPU time per second."""

JAIL_UIDS = """\
[Service]
CapabilityBoundingSet=CAP_SETUID CAP_SETGID
AmbientCapabilities=CAP_SETUID CAP_SETGID
ReadWritePaths=/run/lock
"""

_BEFORE: set[str] = set()
"""The paths that existed before the installation."""


def run(*command: str | Path, code: int | None = 0, user: str | None = None, seconds: float = COMMAND_S) -> str:
    """Run a command as this user, check its exit code, and return its output."""
    line = ["runuser", "-u", user, "--", *map(str, command)] if user else list(map(str, command))
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(SOCKET), "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    done = subprocess.run(
        line,
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )
    assert code is None or done.returncode == code, (line, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def ctl(*arguments: str | Path, code: int | None = 0, user: str | None = None) -> str:
    """Run promptlogctl."""
    return run(BIN / "promptlogctl", *arguments, code=code, user=user)


def systemctl(*arguments: str, code: int | None = 0) -> str:
    """Run systemctl."""
    return run("systemctl", *arguments, code=code)


def shown(unit: str, name: str) -> str:
    """Return the value of a unit's property."""
    return systemctl("show", unit, f"--property={name}", "--value").strip()


def main_pid() -> int:
    """Return the daemon's pid; 0 if it does not run."""
    return int(shown(DAEMON, "MainPID"))


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the condition did not hold in time"
        time.sleep(0.1)


def cpu_limit(client: Client) -> float:
    """Return the CPU limit of a run that requests none."""
    outcome = client.run_source("for (;;);", limits=PATIENT).outcome
    assert isinstance(outcome, CpuLimit), outcome
    return outcome.limit


def journal(*matches: str, since: str = "") -> list[dict[str, str]]:
    """Return lines in the journal of this boot, by default those of the daemon. `since` is a journal cursor."""
    run("journalctl", "--sync")
    text = run("journalctl", "--boot", *(matches or (f"--unit={DAEMON}",)), "--output=json", "--no-pager")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    # Compare times. journalctl --after-cursor of systemd 252 omits a line if the line of the cursor does not match.
    begin = int(re.findall(r"m=([0-9a-f]+)", since)[0], 16) if since else -1
    return [line for line in lines if int(line["__MONOTONIC_TIMESTAMP"]) > begin]


def said(unit: str = DAEMON, *, since: str = "") -> str:
    """Return a unit's messages as text."""
    return "\n".join(str(line["MESSAGE"]) for line in journal(f"--unit={unit}", since=since))


def cursor() -> str:
    """Return the cursor of the end of the journal."""
    run("journalctl", "--sync")
    return str(re.findall(r"cursor: (\S+)", run("journalctl", "--lines=0", "--show-cursor"))[-1])


def reloads(*, since: str) -> int:
    """Return how often systemd has read all units again since this cursor."""
    messages = [str(line["MESSAGE"]) for line in journal("_PID=1", since=since)]
    return sum(re.fullmatch(r"Reloading\.+", message) is not None for message in messages)


def processes() -> list[str]:
    """Return the command lines of all processes of promptlog except those of this test."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in (os.getpid(), os.getppid()):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if re.search(r"promptlogd|nsjail|quickjs-cell|/bin/deno|watchdog\.py", line):
                found.append(line[:80])
    return found


def files() -> set[str]:
    """Return all paths where the installation could leave something."""
    skipped = ("/proc", "/sys", "/dev", "/opt", "/checks", "/shared", "/tmp", "/var/log/journal", "/run/systemd")
    found = set()
    for parent, names, others in os.walk("/"):
        names[:] = [name for name in names if os.path.join(parent, name) not in skipped and name != "__pycache__"]
        found |= {os.path.join(parent, name) for name in (*names, *others)}
    return found


@contextmanager
def drop_in(name: str, text: str) -> Iterator[None]:
    """Create a drop-in of the configuration for the duration of the block."""
    DROP_INS.mkdir(exist_ok=True)
    (DROP_INS / name).write_text(text)
    try:
        yield
    finally:
        (DROP_INS / name).unlink()


# --- installation ----------------------------------------------------------------------------------------------------


def test_installation() -> None:
    """install-service starts the socket but not the daemon, and writes nothing when it runs again."""
    _BEFORE.update(files())
    since = cursor()
    text = ctl("install-service")
    assert reloads(since=since) == 1
    assert "wrote /etc/systemd/system/promptlogd.service" in text
    assert systemctl("is-active", LISTENER).strip() == "active"
    assert systemctl("is-enabled", LISTENER).strip() == "enabled"
    assert systemctl("is-active", DAEMON, code=3).strip() == "inactive"
    assert not processes()
    status = SOCKET.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o660, 0)
    assert status.st_gid == grp.getgrnam("promptlog-clients").gr_gid
    folder = SOCKET.parent.stat()
    assert (folder.st_mode & 0o777, folder.st_uid) == (0o755, 0)
    assert "wrote" not in ctl("install-service")


def test_systemd_accepts_the_units(capsys: pytest.CaptureFixture[str]) -> None:
    """This systemd knows every directive of the units, and their exposure levels are as documented."""
    for unit, most in ((DAEMON, 2.0), ("promptlog-http.service", 1.0), ("promptlog-metrics.service", 1.0)):
        assert run("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit}") == ""
        level = re.search(r"exposure level for \S+: ([0-9.]+)", run("systemd-analyze", "security", unit))
        assert level is not None
        with capsys.disabled():
            print(f"\n{unit}: exposure {level[1]}", flush=True)
        assert float(level[1]) <= most


def test_the_first_message_starts_the_daemon() -> None:
    """A client that connects is answered without a manual start of the daemon."""
    assert main_pid() == 0
    assert f"pid {main_pid() or ''}".strip() in (text := ctl("ping"))
    assert main_pid() > 0
    assert f"pid {main_pid()}" in text
    assert shown(DAEMON, "StatusText").endswith("runs, 0 waiting")
    assert (shown(DAEMON, "User"), shown(DAEMON, "ActiveState")) == ("promptlog", "active")
    status = Path(f"/proc/{main_pid()}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_submit_and_run(engine: str) -> None:
    """A program is stored under its SHA-256, runs on a prompt, and is held to its limits."""
    program = Path("/tmp/reverse.js")
    program.write_text(f"{REVERSE} // {engine}")
    hash = hashlib.sha256(program.read_bytes()).hexdigest()
    assert hash in ctl("submit", program, "--engine", engine)
    assert json.loads(ctl("run", hash, "--prompt", "hello")) == "olleh"
    with Client(SOCKET) as client:
        for source in ("for (;;);", "while (true) new Array(1e5).fill(1).join()"):
            outcome = client.run_source(source, engine=engine, limits=PATIENT).outcome
            assert isinstance(outcome, CpuLimit)
            assert (outcome.limit, outcome.used < 120) == (50, True)
        bomb = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"
        kind = type(
            client.run_source(bomb, engine=engine, limits=LimitsAsked(cpu_ms=5000, wall_ms=20_000)).outcome
        ).__name__
        assert kind == "MemoryLimit"
        assert client.run_source("return prompt", "still there", engine=engine).value == "still there"


def test_exec_over_http() -> None:
    """The first request starts the HTTP API, which has no network of its own and names a tenant for each caller."""
    systemctl("enable", "--now", HTTP)
    assert systemctl("is-active", "promptlog-http.service", code=3).strip() == "inactive"
    request = urllib.request.Request(
        "http://127.0.0.1:8787/exec",
        data=json.dumps({"code": REVERSE, "prompt": "hello"}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.loads(response.read()) == "olleh"
    pid = shown("promptlog-http.service", "MainPID")
    assert Path(f"/proc/{pid}/status").stat().st_uid == pwd.getpwnam("promptlog-http").pw_uid
    assert len(Path(f"/proc/{pid}/net/dev").read_text().splitlines()) == 3  # two header lines, and loopback
    assert "name tenants" not in said("promptlog-http.service")


def test_metrics_are_served() -> None:
    """The first scrape starts the metrics server, which has its own user and no network."""
    systemctl("enable", "--now", METRICS)
    assert systemctl("is-active", "promptlog-metrics.service", code=3).strip() == "inactive"
    with urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=60) as response:
        text = response.read().decode()
    assert "promptlog_up 1.0" in text
    assert re.search(r'promptlog_runs_total\{engine="quickjs",outcome="ok"\} [1-9]', text)
    pid = shown("promptlog-metrics.service", "MainPID")
    uid = Path(f"/proc/{pid}/status").stat().st_uid
    assert uid >= 61184  # of DynamicUser=
    assert len(Path(f"/proc/{pid}/net/dev").read_text().splitlines()) == 3  # two header lines, and loopback


# --- access ----------------------------------------------------------------------------------------------------------


def test_access_to_the_socket() -> None:
    """Only members of the group can connect. Others get the reason, and cannot access programs or settings."""
    for user in ("alice", "mallory"):
        run("useradd", "--create-home", "--shell", "/bin/sh", user)
    run("usermod", "--append", "--groups", "promptlog-clients", "alice")
    assert "promptlogd" in ctl("ping", user="alice")
    assert json.loads(ctl("exec", "-e", "return prompt", "--prompt", "mine", user="alice")) == "mine"
    text = ctl("ping", user="mallory", code=4)
    assert "permission denied" in text
    assert "usermod --append --groups promptlog-clients mallory" in text
    for user in ("alice", "mallory", "promptlog-http"):
        run("ls", "/var/lib/promptlog", user=user, code=2)
        run("touch", "/etc/promptlog/promptlog.toml", user=user, code=1)
        run("mv", SOCKET, f"{SOCKET}.mine", user=user, code=1)
    run("mv", SOCKET, f"{SOCKET}.mine", user="promptlog", code=1)


def test_programs_list_their_submitters_uid() -> None:
    """The daemon sees the real uid of each client, and lists it with the programs that the client submitted."""
    source = Path("/tmp/alice.js")
    source.write_text("return 'of alice'")
    source.chmod(0o644)
    ctl("submit", source, user="alice")
    hash = hashlib.sha256(source.read_bytes()).hexdigest()
    with Client(SOCKET) as client:
        assert client.show(hash).created_by == pwd.getpwnam("alice").pw_uid


def test_jail_uids() -> None:
    """With the drop-in from docs/operations each jail has its own uid; without it all jails share one."""
    with Client(SOCKET) as client:
        assert client.stats().jail_uids.startswith("shared: ")
    folder = Path("/etc/systemd/system/promptlogd.service.d")
    folder.mkdir()
    (folder / "jail-uids.conf").write_text(JAIL_UIDS)
    systemctl("daemon-reload")
    systemctl("restart", DAEMON)
    with Client(SOCKET) as client:
        assert client.stats().jail_uids.startswith("own: ")
        for engine in ("quickjs", "deno"):
            assert client.run_source("return 1", engine=engine).value == 1
    cells = [
        folder
        for folder in Path("/proc").glob("[0-9]*")
        if (folder / "cmdline").read_bytes().startswith(b"/quickjs-cell")
    ]
    assert len({cell.stat().st_uid for cell in cells} - {pwd.getpwnam("promptlog").pw_uid}) >= 4
    (folder / "jail-uids.conf").unlink()
    folder.rmdir()
    systemctl("daemon-reload")
    systemctl("restart", DAEMON)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_a_reload_interrupts_nobody() -> None:
    """`systemctl reload` applies a drop-in without interrupting connected clients or current runs."""
    pid = main_pid()
    with Client(SOCKET) as client:
        slow = "const t = Date.now(); while (Date.now() - t < 2000); return 'done'"
        pending = client.start(None, source=slow, limits=LimitsAsked(cpu_ms=9000, wall_ms=20_000))
        with drop_in("50-limits.toml", "[limits.default]\ncpu_ms = 90\n"):
            systemctl("reload", DAEMON)
            until(lambda: cpu_limit(client) == 90)
            assert pending.result().value == "done"
            text = ctl("config")
            assert re.search(r"limits\.default\.cpu_ms\s+90\s+\S*promptlog\.toml\.d/50-limits\.toml\s+reload", text)
            assert main_pid() == pid
        systemctl("reload", DAEMON)
        until(lambda: cpu_limit(client) == 50)
    assert shown(DAEMON, "NRestarts") == "0"


def test_an_invalid_configuration_is_not_applied() -> None:
    """`systemctl reload` fails and names the mistake, and the daemon continues with the old settings."""
    pid, since = main_pid(), cursor()
    with drop_in("50-wrong.toml", "[limits.default]\ncpu = 90\n"):
        systemctl("reload", DAEMON, code=1)
        text = run(BIN / "promptlogd", "--config", "/etc/promptlog/promptlog.toml", "--check-config", code=1)
        assert "50-wrong.toml: there is no setting limits.default.cpu" in text
        os.kill(pid, signal.SIGHUP)  # bypasses the check in ExecReload=
        until(lambda: "the settings stay as they are" in said(since=since))
    assert (main_pid(), shown(DAEMON, "ActiveState")) == (pid, "active")
    with Client(SOCKET) as client:
        assert cpu_limit(client) == 50
    systemctl("reload", DAEMON)


def test_a_daemon_that_can_not_start_is_retried() -> None:
    """A waiting client is served as soon as the configuration is valid, without another command."""
    systemctl("stop", DAEMON)
    with drop_in("50-wrong.toml", "[limits.default]\ncpu = 90\n"):
        waiting = subprocess.Popen([BIN / "promptlogctl", "--socket", SOCKET, "ping"], stdout=subprocess.PIPE)
        until(lambda: int(shown(DAEMON, "NRestarts")) >= 7, 60)  # more often than systemd's default limit of 5
        assert waiting.poll() is None
    output, _ = waiting.communicate(timeout=60)
    assert b"promptlogd" in output
    systemctl("reset-failed", DAEMON)


# --- restarts --------------------------------------------------------------------------------------------------------


class _Load(threading.Thread):
    """Submits and runs programs until it is stopped, and records what was acknowledged."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self.ends = threading.Event()
        self.kept: list[str] = []
        self.answers = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        with Client(SOCKET) as client:
            while not self.ends.is_set():
                try:
                    hash = client.submit(
                        f"return [prompt, {self._number}, {len(self.kept)}, {time.monotonic_ns()}]"
                    ).hash
                    self.kept.append(hash)
                    result = client.run(hash, "x")
                    self.answers += 1
                    if not result.ok and type(result.outcome).__name__ not in ("Cancelled", "CpuLimit", "WallLimit"):
                        self.wrong.append(str(result.outcome))
                except (ConnectionLost, NoDaemon):
                    continue
                except RequestRefused as refused:
                    if refused.code not in ("busy", "shutting_down"):
                        self.wrong.append(str(refused))


def test_restarts_under_load_lose_nothing() -> None:
    """Acknowledged programs survive restarts and kills of the daemon, and no process of an earlier daemon does."""
    loads = [_Load(number) for number in range(4)]
    for load in loads:
        load.start()
    pids = [main_pid()]
    try:
        for kill in (False, True, False, True):
            time.sleep(2)
            if kill:
                before = int(shown(DAEMON, "NRestarts"))
                os.kill(main_pid(), signal.SIGKILL)
                until(lambda before=before: int(shown(DAEMON, "NRestarts")) > before)  # type: ignore[misc]
            else:
                systemctl("restart", DAEMON)
            until(lambda: main_pid() not in (0, *pids) and shown(DAEMON, "ActiveState") == "active")
            pids.append(main_pid())
        time.sleep(2)
    finally:
        for load in loads:
            load.ends.set()
        for load in loads:
            load.join(60)
    kept = [hash for load in loads for hash in load.kept]
    print(f"{len(kept)} programs, {sum(load.answers for load in loads)} runs, daemons {pids}")
    assert len(kept) > 50
    assert [load.wrong for load in loads] == [[], [], [], []]
    with Client(SOCKET) as client:
        there = {listing.hash for listing in client.list()}
        assert set(kept) <= there
        for hash in kept[:: max(1, len(kept) // 20)]:
            assert client.run(hash, "x").value[0] == "x"
    cgroup = Path(f"/proc/{main_pid()}/cgroup").read_text().splitlines()[-1]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
                if b"nsjail" in line or b"quickjs-cell" in line or b"/bin/deno" in line:
                    # All processes belong to the current daemon, which started after the earlier ones had ended.
                    assert Path(folder, "stat").stat().st_ctime >= Path(f"/proc/{main_pid()}").stat().st_ctime - 1
                    assert (folder / "cgroup").read_text().splitlines()[-1].startswith(cgroup)
            except FileNotFoundError:
                continue


def test_a_hung_daemon_is_restarted() -> None:
    """The systemd watchdog kills a daemon whose event loop hangs, and the next daemon serves the waiting clients."""
    pid, since = main_pid(), cursor()
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    with Client(SOCKET) as client:  # the connection waits in the socket's queue
        assert client.ping().pid != pid
    print(f"served again after {time.monotonic() - began:.1f} s")
    assert main_pid() not in (0, pid)
    assert "Watchdog timeout" in said(since=since)
    assert ctl("exec", "-e", "return 1").strip() == "1"


def test_a_stop_waits_for_runs() -> None:
    """`systemctl stop` lets the current run finish; then no process is left, and the socket still listens."""
    with Client(SOCKET) as client:
        slow = "const t = Date.now(); while (Date.now() - t < 2000); return 'done'"
        pending = client.start(None, source=slow, limits=LimitsAsked(cpu_ms=9000, wall_ms=20_000))
        with Client(SOCKET) as other:
            until(lambda: other.stats().running == 1)
        systemctl("stop", DAEMON)
        assert pending.result().value == "done"
    assert shown(DAEMON, "Result") == "success"
    until(lambda: not processes(), 5)
    assert not list(Path("/run/promptlogd").glob("*") if Path("/run/promptlogd").exists() else [])
    assert SOCKET.exists()
    assert "promptlogd" in ctl("ping")


def test_messages_in_the_journal() -> None:
    """Each line about a request has fields and a priority, and no line contains text of a program or a prompt."""
    since = cursor()
    secret = "only-in-the-prompt-7391"
    with Client(SOCKET) as client:
        hash = client.submit(f"throw new Error(prompt + '{secret}-code')").hash
        client.run(hash, secret)
        with pytest.raises(RequestRefused):
            client.run("0" * 64)
    until(lambda: any(line.get("PROMPTLOG_EVENT") == "refuse" for line in journal(since=since)))
    events = {line["PROMPTLOG_EVENT"]: line for line in journal(since=since) if "PROMPTLOG_EVENT" in line}
    assert set(events) == {"submit", "run", "refuse"}
    for line in events.values():
        assert (line["PROMPTLOG_UID"], line["PRIORITY"], line["SYSLOG_IDENTIFIER"]) == ("0", "6", "promptlogd")
        assert line["CODE_FILE"].endswith(".py")
    assert events["submit"]["MESSAGE"].startswith(f"uid 0 submitted program {hash[:12]}")
    assert events["submit"]["PROMPTLOG_HASH"] == events["run"]["PROMPTLOG_HASH"] == hash
    assert (events["run"]["PROMPTLOG_OUTCOME"], events["refuse"]["PROMPTLOG_CODE"]) == ("exception", "not_found")
    selected = run("journalctl", "--output=cat", f"PROMPTLOG_HASH={hash}", "PROMPTLOG_EVENT=run")
    assert "ended as exception" in selected
    own = [line for line in journal() if line["_TRANSPORT"] == "journal"]
    assert {"3", "6"} <= {line["PRIORITY"] for line in own}  # 3: of the wrong configuration above
    for line in journal():
        assert secret not in str(line)


@pytest.mark.parametrize("form", ["human", "json"])
def test_the_other_forms_of_the_log(form: str) -> None:
    """With log.format, lines of text or JSON reach the journal through standard error and keep their priority."""
    since = cursor()
    with drop_in("60-log.toml", f'[log]\nformat = "{form}"\n'):
        systemctl("reload", DAEMON)
        until(lambda: "settings changed: log.format" in said(since=since))
        with Client(SOCKET) as client, pytest.raises(RequestRefused):
            client.run("0" * 64)
        until(lambda: "a request was refused" in said(since=since))
        (line,) = [line for line in journal(since=since) if "a request was refused" in line["MESSAGE"]]
    assert (line["_TRANSPORT"], line["PRIORITY"]) == ("stdout", "6")
    if form == "json":
        assert json.loads(line["MESSAGE"])["code"] == "not_found"
    systemctl("reload", DAEMON)


# --- the documents ---------------------------------------------------------------------------------------------------


def _commands(page: str) -> list[str]:
    """Return the commands of a page: the lines after the prompt `#` in its console blocks."""
    text = Path("/checks/docs/operations", page).read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("# ")]


@pytest.mark.parametrize(("page", "least"), [("monitor.md", 8), ("tune.md", 8), ("incidents.md", 25), ("store.md", 12)])
def test_the_commands_of_the_documents_work(page: str, least: int) -> None:
    """All commands of this page of docs/operations, run in order, exit with code 0."""
    with Client(SOCKET) as client:
        client.run(client.submit("return prompt.length", name="invoice").hash, "x")
    commands = _commands(page)
    assert len(commands) >= least
    try:
        for command in commands:
            print("#", command, flush=True)
            run("sh", "-ec", f"PATH={BIN}:$PATH; {command}")
    finally:
        (DROP_INS / "50-limits.toml").unlink(missing_ok=True)
        shutil.rmtree("/etc/systemd/system/promptlogd.service.d", ignore_errors=True)
        for folder in ("/var/lib/promptlog.old", "/var/backups/promptlog"):
            shutil.rmtree(folder, ignore_errors=True)
        systemctl("daemon-reload")
        systemctl("restart", DAEMON)


# --- a container -----------------------------------------------------------------------------------------------------


def _rights_of_the_container() -> list[str]:
    """Return unit properties that give the same rights as the flags in docs/operations/container.md."""
    profile = json.loads(Path("/checks/container/seccomp.json").read_text())
    calls = " ".join(profile["syscalls"][0]["names"])
    properties = {
        "User": "10001",  # --user
        "Group": "10001",
        "CapabilityBoundingSet": "",  # --cap-drop ALL
        "NoNewPrivileges": "yes",  # --security-opt no-new-privileges
        "SystemCallFilter": calls,  # --security-opt seccomp=
        "SystemCallErrorNumber": "EPERM",
        "SystemCallArchitectures": "native",
        "PrivateNetwork": "yes",  # --network none
        "TemporaryFileSystem": "/tmp:rw,nosuid,nodev,noexec,size=64m,mode=1777",  # --tmpfs
        # --read-only, and Docker's defaults: masked and read-only paths, /dev, and cgroups.
        "ReadOnlyPaths": "/ /sys -/proc/sys -/proc/bus -/proc/fs -/proc/irq -/proc/sysrq-trigger",
        "InaccessiblePaths": "-/proc/kcore -/proc/keys -/proc/latency_stats -/proc/timer_list -/proc/sched_debug "
        "-/proc/acpi -/proc/scsi -/sys/firmware",
        "PrivateDevices": "yes",
        "ReadWritePaths": "/srv/state /srv/socket /tmp /proc",  # --volume, --tmpfs
        "TasksMax": "4096",  # --pids-limit
    }
    return [f"--property={name}={value}" for name, value in properties.items()]


def test_the_rights_of_a_container_are_enough() -> None:
    """With the rights that container.md gives, both engines run programs within their limits."""
    run("groupadd", "--system", "--gid", "10001", "container")
    run("useradd", "--system", "--uid", "10001", "--gid", "10001", "container")
    for name in ("state", "socket"):
        run("install", "-d", "-o", "container", "-g", "container", "-m", "0700", f"/srv/{name}")
    socket_path = "/srv/socket/promptlog.sock"
    command: list[str | Path] = [BIN / "promptlogd", "--state-dir", "/srv/state", "--socket", socket_path]
    try:
        run("systemd-run", "--unit=contained", "--service-type=exec", *_rights_of_the_container(), *command)
        here = ("--socket", socket_path)
        ctl("ping", "--wait", "30", *here, user="container")
        status = Path(f"/proc/{shown('contained', 'MainPID')}/status").read_text()
        assert "CapBnd:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
        for engine in ("quickjs", "deno"):
            options = (*here, "--engine", engine, "--wall-ms", "20000")
            assert ctl("exec", *options, "-e", REVERSE, "--prompt", "abc", user="container").strip() == '"cba"'
            assert "CPU limit of 50 ms" in ctl("exec", *options, "-e", "for (;;);", user="container", code=None)
            bomb = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))"
            text = ctl("exec", *options, "--cpu-ms", "5000", "-e", bomb, user="container", code=None)
            assert "memory limit" in text
        print(ctl("stats", *here, user="container"))
    finally:
        print(said("contained.service"))
        systemctl("stop", "contained")
        systemctl("reset-failed", "contained", code=None)
        run("userdel", "container")
        for name in ("state", "socket"):
            shutil.rmtree(f"/srv/{name}")


# --- the service of a user -------------------------------------------------------------------------------------------


def test_the_service_of_a_user() -> None:
    """`install-service --user` works without root, commands find the socket, and uninstall-service removes it all."""
    uid = pwd.getpwnam("mallory").pw_uid
    run("loginctl", "enable-linger", "mallory")
    until(lambda: Path(f"/run/user/{uid}/systemd/private").exists())

    def own(*arguments: str) -> str:
        variables = [f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/mallory"]
        command = ["env", "--unset=PROMPTLOG_SOCKET", *variables, *arguments]
        return run(*command, user="mallory")

    before = {str(path) for path in Path("/home/mallory").rglob("*")}
    own(str(BIN / "promptlogctl"), "install-service", "--user")
    assert "promptlogd" in own(str(BIN / "promptlogctl"), "ping")
    for engine in ("quickjs", "deno"):
        text = own(str(BIN / "promptlogctl"), "exec", "-e", REVERSE, "--prompt", "abc", "--engine", engine)
        assert json.loads(text) == "cba"
    own("systemctl", "--user", "reload", "promptlogd")
    own(str(BIN / "promptlogctl"), "uninstall-service", "--user", "--purge")
    left = {str(path) for path in Path("/home/mallory").rglob("*")} - before
    assert not [path for path in left if "promptlog" in path and "/.local/state/promptlog" not in path], left
    run("loginctl", "disable-linger", "mallory")
    until(lambda: not Path(f"/run/user/{uid}/systemd").exists())


# --- removal ---------------------------------------------------------------------------------------------------------


def test_uninstall_keeps_programs_and_configuration() -> None:
    """Without --purge, programs and a changed configuration stay, and a new installation uses them."""
    configuration = Path("/etc/promptlog/promptlog.toml")
    configuration.write_text(configuration.read_text() + "\n[scheduler]\nqueue = 77\n")
    with Client(SOCKET) as client:
        programs = {listing.hash for listing in client.list()}
    text = ctl("uninstall-service")
    assert "kept /var/lib/promptlog" in text
    assert "kept /etc/promptlog/promptlog.toml" in text
    assert not processes()
    assert not SOCKET.parent.exists()
    ctl("ping", code=4)
    ctl("install-service")
    with Client(SOCKET) as client:
        assert {listing.hash for listing in client.list()} == programs
        values = {one.name: one.value for one in client.config().settings}
        assert values["scheduler.queue"] == "77"


def test_uninstall_leaves_nothing() -> None:
    """After --purge no file, user, group, process or cgroup of promptlog is left outside /opt/promptlog."""
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(SOCKET))
        since = cursor()
        ctl("uninstall-service", "--purge")
        assert reloads(since=since) == 1
    assert not processes()
    for user in ("alice", "mallory"):
        run("userdel", "--remove", user, code=None)
    left = {path for path in files() - _BEFORE if not path.startswith(("/etc/passwd", "/etc/group", "/etc/shadow"))}
    ours = {path for path in left if "promptlog" in path}
    assert not ours
    print("other new paths:", sorted(left))
    for user in ("promptlog", "promptlog-http"):
        with pytest.raises(KeyError):
            pwd.getpwnam(user)
    assert not [group.gr_name for group in grp.getgrall() if "promptlog" in group.gr_name]
    assert not list(Path("/sys/fs/cgroup").rglob("*promptlog*.s*")) or shown(DAEMON, "LoadState") == "not-found"
    assert systemctl("list-unit-files", "promptlog*", "--no-legend", code=None).split("\n")[0].split()[:1] in (
        [],
        ["promptlog-test.service"],
    )
    assert systemctl("--failed", "--no-legend").strip() == ""
