"""Starting and stopping the daemon; kills, second daemons and damaged files."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, ConnectionLost, NoDaemon, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import Crashed
from tests.daemon.processes import (
    FRESH_S,
    Daemon,
    a_daemon,
    at_work,
    children,
    is_alive,
    nsjails,
    talk,
    until,
)


@pytest.mark.timed
def test_sigterm_drains(tmp_path: Path) -> None:
    """At SIGTERM, the daemon completes the runs in progress, refuses new ones, exits 0, and leaves nothing behind."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("const t = Date.now(); while (Date.now() - t < 1000); return 'done'").hash
        run = client.start(hash, limits=LimitsAsked(cpu_ms=3000, wall_ms=6000))
        with Client(daemon.socket) as other:
            until(lambda: other.stats().running == 1)
            pids = daemon.jailed()
            assert pids
            daemon.process.terminate()
            until(lambda: "stopping: 1 runs in progress" in daemon.log.read_text())
            with pytest.raises(RequestRefused) as refused:
                other.run_source("return 1")
            assert refused.value.code == "shutting_down"
            assert run.result().value == "done"
        assert daemon.process.wait(10) == 0
        assert not daemon.socket.exists()
        assert not any(map(is_alive, pids))
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.show(hash).runs == 1


def test_sighup_without_a_configuration_changes_nothing(tmp_path: Path) -> None:
    """Without a configuration file, the daemon survives SIGHUP and logs that it does nothing."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "SIGHUP: nothing to do" in daemon.log.read_text())
        assert client.run_source("return 1").value == 1


@pytest.mark.timed
def test_killed_with_sigkill(tmp_path: Path) -> None:
    """After SIGKILL, all jailed processes are gone within a second, and the next start serves the same store."""
    config = "[pool]\ncells = 2\nspare = 2\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 7").hash
        runs = [client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000)) for _ in range(2)]
        with Client(daemon.socket) as other:
            until(lambda: other.stats().running == 2)
        # One watchdog; nsjail, zygote and child for each cell.
        until(lambda: len(daemon.jailed()) == 1 + 3 * (2 + 2))
        pids = daemon.jailed()
        daemon.stop(signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids)), 1)
        with pytest.raises(ConnectionLost):
            runs[0].result()
    assert daemon.socket.exists()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run(hash).value == 7


@pytest.mark.timed
@pytest.mark.parametrize("depth", [1, 2, 3], ids=["nsjail", "zygote", "child"])
def test_killing_a_jailed_process_affects_only_its_own_run(tmp_path: Path, depth: int) -> None:
    """If nsjail, zygote or child is killed during a run, that run is reported as killed, and all others succeed."""
    config = "[pool]\ncells = 4\nspare = 3\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        source = "const t = Date.now(); while (Date.now() - t < 1500); return 'done'"
        runs = [client.start(None, source=source, limits=LimitsAsked(cpu_ms=5000, wall_ms=9000)) for _ in range(3)]
        until(lambda: len(at_work(daemon)) == 3)
        os.kill(at_work(daemon)[0][depth - 1], signal.SIGKILL)
        outcomes = [run.result().outcome for run in runs]
        assert sorted(str(outcome.__struct_config__.tag) for outcome in outcomes) == ["crashed", "ok", "ok"], outcomes
        assert [outcome.signal for outcome in outcomes if isinstance(outcome, Crashed)] == ["SIGKILL"]
        assert client.run_source("return 1").value == 1


def test_a_run_survives_the_loss_of_all_blank_cells(tmp_path: Path) -> None:
    """If all blank cells were killed while the daemon could not notice, a run skips each and gets a new cell."""
    config = "[pool]\ncells = 4\nspare = 6\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        until(lambda: client.stats().pools[0].blank == 10)
        with talk(daemon.socket) as sock:
            jails = nsjails(daemon.process.pid)
            zygotes = [zygote for pid in jails for zygote in children(pid)]
            assert len(zygotes) == 10
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                for pid in jails:
                    os.kill(pid, signal.SIGKILL)
                until(lambda: not any(map(is_alive, zygotes)))  # a zygote that is still alive could take the run
                sock.sendall(b'{"type":"run","id":1,"source":"return 1"}\n')
                sock.shutdown(socket.SHUT_WR)
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            with sock.makefile("rb") as replies:
                reply = json.loads(replies.readline())
        assert reply.get("outcome") == {"kind": "ok", "value": 1}, reply


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """A daemon that shares the socket or the state folder with another exits with one line; otherwise it starts."""
    with a_daemon(tmp_path) as daemon:
        (tmp_path / "other").mkdir()
        own = ["--socket", str(tmp_path / "other/s"), "--state-dir", str(tmp_path / "other/state")]
        with a_daemon(tmp_path / "other", *own) as other, Client(other.socket) as client:
            assert client.ping().pid == other.process.pid
        for options, says in (
            (["--state-dir", str(daemon.state)], "in use"),
            (["--socket", str(daemon.socket)], "another daemon answers"),
        ):
            command = [sys.executable, "-m", "promptlogd", *own, *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            assert done.returncode == 1
            assert says in done.stderr
            assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_a_socket_is_not_replaced(tmp_path: Path) -> None:
    """The daemon leaves a regular file at the socket's path alone, and starts once the file is gone."""
    (tmp_path / "s").write_text("precious")
    daemon = Daemon(tmp_path)
    try:
        assert not daemon.ready
        assert daemon.process.wait(10) == 1
    finally:
        daemon.stop()
    assert "is not a socket" in daemon.log.read_text()
    assert (tmp_path / "s").read_text() == "precious"
    (tmp_path / "s").unlink()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.ping().pid == daemon.process.pid


def test_a_damaged_program_is_reported_and_others_are_served(tmp_path: Path) -> None:
    """A program whose bytes changed on disk is refused, and can be submitted again."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 1").hash
        assert client.run(hash).value == 1  # which loads the program into memory
        (daemon.state / "programs" / hash[:2] / hash[2:] / "source").write_bytes(b"return 2")
        time.sleep(FRESH_S)
        with pytest.raises(RequestRefused, match="damaged"):
            client.run(hash)
        until(lambda: f"ERROR promptlogd.store.store: program {hash} was damaged" in daemon.log.read_text())
        assert client.submit("return 1").created
        assert client.run(hash).value == 1


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_programs_run_for_an_ordinary_user(tmp_path: Path, engine: Any) -> None:
    """Without root, with user namespaces alone, a program runs on each engine."""
    if os.geteuid() != 0:
        with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
            assert client.run_source("return prompt", "x", engine=engine).value == "x"
        return
    # As root: become nobody, and keep CAP_DAC_READ_SEARCH to read a Python below root's home.
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run"))
    try:
        os.chown(folder, 65534, 65534)
        capability = "dac_read_search"
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        become += [
            f"--inh-caps=-all,+{capability}",
            f"--ambient-caps=-all,+{capability}",
            f"--bounding-set=-all,+{capability}",
        ]
        command = [sys.executable, "-m", "promptlogctl", "exec", "--spawn", "-", "--prompt", "x", "--engine", engine]
        environment = {"TMPDIR": str(folder), "HOME": str(folder), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*become, *command], input=b"return prompt + 1", capture_output=True, env=environment, timeout=60, cwd="/"
        )
        assert (done.stdout, done.returncode) == (b'"x1"\n', 0), done.stderr.decode()
    finally:
        shutil.rmtree(folder)


@pytest.mark.timed
def test_a_run_that_outlasts_the_drain_is_reported(tmp_path: Path) -> None:
    """A run that is still running when the drain ends gets `shutting_down`, and the log counts it."""
    with a_daemon(tmp_path, config="[server]\ndrain_s = 0.2\n") as daemon, Client(daemon.socket) as client:
        run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000))
        until(lambda: len(at_work(daemon)) == 1)
        assert daemon.stop() == 0
        with pytest.raises(RequestRefused) as refused:
            run.result()
        assert refused.value.code == "shutting_down"
        assert "stopped after 0.2 s: 1 runs running" in daemon.log.read_text()


@pytest.mark.parametrize("kind", ["closed", "read-only"])
def test_a_ready_descriptor_that_can_not_be_written_to(tmp_path: Path, kind: str) -> None:
    """The daemon checks --ready-fd before it starts anything."""
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-m", "promptlogd", "--socket", str(tmp_path / "s")]
        command += ["--state-dir", str(tmp_path / "state")]
        passed = (reading,) if kind == "read-only" else ()
        done = subprocess.run(
            [*command, "--ready-fd", str(reading)], pass_fds=passed, capture_output=True, text=True, timeout=20
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 2
    assert f"descriptor {reading} is not open for writing" in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.timed
def test_the_last_reply_is_sent_in_full(tmp_path: Path) -> None:
    """SIGTERM does not truncate a large result that its client reads late."""
    source = "const t = Date.now(); while (Date.now() - t < 300); return 'x'.repeat(1000000)"
    with a_daemon(tmp_path) as daemon:
        limits = {"cpu_ms": 3000, "wall_ms": 9000}
        run = {"type": "run", "id": 1, "source": source, "limits": limits}
        with talk(daemon.socket, run) as sock, Client(daemon.socket) as other:
            until(lambda: other.stats().running == 1)
            daemon.process.terminate()
            readable, _, _ = select.select([sock], [], [], 9)
            assert readable
            # A slow client, not a wait for an event. Without the defence, the daemon would have exited by now.
            time.sleep(0.5)
            assert daemon.process.poll() is None
            assert len(json.loads(sock.makefile().readline())["outcome"]["value"]) == 1_000_000
        assert daemon.process.wait(10) == 0


@pytest.mark.timed
def test_ctrl_c_drains_the_daemon(tmp_path: Path) -> None:
    """A SIGINT to the terminal's whole process group drains the daemon: the jails are not in that group."""
    with a_daemon(tmp_path, process_group=0) as daemon, Client(daemon.socket) as client:
        # An nsjail that has only just started must first leave the group.
        until(lambda: client.stats().pools[0].blank == client.stats().pools[0].size)
        run = client.start(
            None, source="const t = Date.now(); while (Date.now() - t < 300); return 1", limits=LimitsAsked(cpu_ms=3000)
        )
        until(lambda: len(at_work(daemon)) == 1)
        os.killpg(daemon.process.pid, signal.SIGINT)
        assert run.result().value == 1
        assert daemon.process.wait(10) == 0


@pytest.mark.timed
@pytest.mark.parametrize("when", ["at once", "while it stops", "while it tidies up"])
def test_a_second_signal_changes_nothing(tmp_path: Path, when: str) -> None:
    """A second SIGTERM during shutdown has no further effect."""
    with a_daemon(tmp_path) as daemon:
        daemon.process.terminate()
        if when == "while it stops":
            while "stopping" not in daemon.log.read_text():
                assert daemon.process.poll() is None
        elif when == "while it tidies up":
            while daemon.socket.exists():
                assert daemon.process.poll() is None
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(10) == 0
        assert not daemon.socket.exists()
        assert "Traceback" not in daemon.log.read_text()


def test_the_socket_of_another_daemon_is_kept(tmp_path: Path) -> None:
    """A daemon whose socket file another daemon has replaced does not remove that file when it stops."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with a_daemon(tmp_path / "one", "--socket", str(tmp_path / "s")) as first:
        (tmp_path / "s").unlink()
        with a_daemon(tmp_path / "two", "--socket", str(tmp_path / "s")), Client(tmp_path / "s") as client:
            first.stop()
            assert client.ping().pid


def test_a_program_runs_if_its_artifact_can_not_be_written(tmp_path: Path) -> None:
    """The run uses a rebuilt artifact; the failure to store it is logged, and the run succeeds."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 7").hash
        folder = daemon.state / "programs" / hash[:2] / hash[2:]
        (artifact,) = folder.glob("artifact.*")
        artifact.write_bytes(b"damaged")
        (folder / ".artifact/in the way").mkdir(parents=True)
        time.sleep(FRESH_S)
        assert [client.run(hash).value for _ in range(2)] == [7, 7]
        until(lambda: f"the artifact of program {hash} could not be stored" in daemon.log.read_text())


def test_the_log_records_what_clients_did(tmp_path: Path) -> None:
    """Submits, removals, failed runs and refusals have one line each with time, uid and hash, without secrets."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("if (prompt) throw new Error('said ' + prompt + env.key); return 1").hash
        assert client.run(hash).value == 1
        assert client.run(hash, "secret-prompt", env={"key": "secret-env"}).outcome.__struct_config__.tag == "exception"
        with pytest.raises(RequestRefused):
            client.run("@secret-name")
        client.remove(hash)
        with pytest.raises(RequestRefused):
            client.run(hash)
    log = daemon.log.read_text()
    assert "secret" not in log
    lines = [line for line in log.splitlines() if ": uid " in line]
    start = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{{4}} INFO promptlogd\.[\w.]+: uid {os.getuid()}"
    expected = (
        f" submitted program {hash[:12]} for quickjs, stored",
        rf": a run of program {hash[:12]}, after [\d.]+ ms of CPU, ended as exception",
        r", client \d+: a request was refused: not_found",
        f" removed program {hash[:12]}, with 0 names",
        rf", client \d+: a request was refused: not_found \(program {hash[:12]}\)",
    )
    assert len(lines) == len(expected), log
    for line, one in zip(lines, expected, strict=True):
        assert re.fullmatch(start + one, line), line


def test_log_lines_for_journald_have_a_priority(tmp_path: Path) -> None:
    """If $JOURNAL_STREAM says that standard error goes to the journal, lines have a priority instead of a time."""
    script = 'export JOURNAL_STREAM=$(stat -Lc "%d:%i" /dev/stderr); exec "$0" -m promptlogd --config /nowhere'
    for prefix, times in (("", 0), ("unset JOURNAL_STREAM; ", 1)):
        command = ["bash", "-c", script.replace("exec", f"{prefix}exec"), sys.executable]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert re.match(r"\d{4}-" if times else "<3>ERROR promptlogd: ", done.stderr), done.stderr


def _answers(socket: Path) -> bool:
    try:
        with Client(socket) as client:
            client.ping()
    except NoDaemon:  # the file is there before the daemon listens
        return False
    return True


def test_a_full_log_pipe_does_not_block_the_daemon(tmp_path: Path) -> None:
    """A daemon starts, serves and stops while its standard error is a full pipe that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "promptlogd", "--socket", str(tmp_path / "s")]
    command += ["--state-dir", str(tmp_path / "state")]
    daemon = subprocess.Popen(command, stderr=writing)
    os.close(writing)
    try:
        until(lambda: _answers(tmp_path / "s"))
        with Client(tmp_path / "s") as client:
            for _ in range(100):
                assert client.run_source("throw 1").outcome.__struct_config__.tag == "exception"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(reading)
