"""The daemon from outside: its requests, hostile clients, faults, and how it stops."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from promptlogctl.errors import ConnectionLost, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import ProgramException


class Daemon:
    """A promptlogd of one test's own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "s"
        self.state = folder / "state"
        reading, writing = os.pipe()
        self.log = folder / "log"
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "promptlogd", "--ready-fd", str(writing)]
                + ["--socket", str(self.socket), "--state-dir", str(self.state), *options],
                pass_fds=(writing,),
                stderr=stderr,
            )
        os.close(writing)
        with open(reading, "rb") as ready:
            self.ready = ready.read() == b"ready\n"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def jailed(self) -> list[int]:
        """Pids of all descendants."""
        found = _children(self.process.pid)
        for pid in found:
            found += _children(pid)  # which the loop then comes to as well
        return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _cpu_ticks(pid: int) -> int:
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    except OSError:  # gone: no such file before the opening, no such process after it
        return 0


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@contextmanager
def a_daemon(folder: Path, *options: str) -> Iterator[Daemon]:
    """A daemon for the length of a block."""
    daemon = Daemon(folder, *options)
    try:
        assert daemon.ready, daemon.log.read_text()
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


@contextmanager
def _raw(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        yield sock


def _ask(sock: socket.socket, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    with sock.makefile("rb") as replies:
        return [json.loads(replies.readline()) for _ in requests]


def test_json_lines_with_a_half_closed_client(socket_path: Path) -> None:
    """A shell's client, that closes its writing side at once, gets one JSON line with the value, then the end."""
    with _raw(socket_path) as sock:
        sock.sendall(b'{"type":"run","id":1,"source":"const result = prompt.length","prompt":"abc"}\n')
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    (line,) = received.splitlines()
    assert json.loads(line)["outcome"] == {"kind": "ok", "value": 3}


def test_the_hash_is_sha256sum(client: Client) -> None:
    """The hash is what sha256sum prints for the file."""
    source = (Path(__file__).parents[2] / "examples/reverse.js").read_bytes()
    assert client.submit(source).hash == hashlib.sha256(source).hexdigest()


def test_replies_come_when_ready(socket_path: Path) -> None:
    """Of two pipelined runs the short one answers first."""
    with _raw(socket_path) as sock:
        long = {"type": "run", "id": "long", "source": "for(;;){}"}
        replies = _ask(sock, long, {"type": "run", "id": "short", "source": "return 1"})
    assert [reply["id"] for reply in replies] == ["short", "long"]


def test_cancel(client: Client) -> None:
    """A cancelled run ends as `cancelled` with its usage, long before its limit."""
    run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000))
    began = time.monotonic()
    assert run.cancel()
    result = run.result()
    assert result.outcome.__struct_config__.tag == "cancelled"
    assert time.monotonic() - began < 3
    assert not run.cancel()


def test_a_client_that_leaves_has_its_runs_cancelled(tmp_path: Path) -> None:
    """When the client vanishes, its runs end, and the daemon goes on."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        with _raw(daemon.socket) as sock:
            for id in range(3):
                limits = {"cpu_ms": 9000, "wall_ms": 9000}
                sock.sendall(
                    json.dumps({"type": "run", "id": id, "source": "for(;;){}", "limits": limits}).encode() + b"\n"
                )
            _until(lambda: client.stats().running == 3)
        _until(lambda: client.stats().running == 0, 2)
        assert client.run_source("return 1").value == 1


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({"type": "run", "id": 1}, "bad_request", "either"),
        ({"type": "run", "id": 1, "hash": "a" * 64, "source": "1"}, "bad_request", "either"),
        ({"type": "run", "id": 1, "hash": "0" * 64}, "not_found", "no program"),
        ({"type": "run", "id": 1, "hash": "00000"}, "bad_request", "8 digits"),
        ({"type": "run", "id": 1, "hash": "../../../etc"}, "bad_request", "neither"),
        ({"type": "run", "id": 1, "hash": "@nobody"}, "not_found", "@nobody"),
        ({"type": "run", "id": 1, "source": "x" * (1024 * 1024 + 1)}, "too_large", "source"),
        ({"type": "run", "id": 1, "source": "x", "prompt": "x" * (1024 * 1024 + 1)}, "too_large", "prompt"),
        ({"type": "run", "id": 1, "source": "x", "env": {"a": "x" * 300_000}}, "too_large", "env"),
        ({"type": "run", "id": 1, "source": "x", "limits": {"cpu_ms": 10**9}}, "bad_request", "10000"),
        ({"type": "run", "id": 1, "source": "x", "limits": {"memory_bytes": 1}}, "bad_request", "least"),
        ({"type": "run", "id": 1, "source": "x", "engine": "v8"}, "bad_request", "engine"),
        (
            {"type": "run", "id": 1, "source": "x", "engine": "quickjs", "language": "typescript"},
            "bad_request",
            "needs the engine deno",
        ),
        ({"type": "run", "id": 1, "hash": "0" * 64, "language": "typescript"}, "bad_request", "for a `source`"),
        (
            {"type": "run", "id": 1, "source": "x", "engine": "deno", "limits": {"memory_bytes": 40 << 20}},
            "bad_request",
            "least it may be on deno",
        ),
        ({"type": "run", "id": 1, "source": "x", "host_functions": ["f"]}, "unsupported", "host functions"),
        ({"type": "submit", "id": 1, "source": "x" * (1024 * 1024 + 1)}, "too_large", "source"),
        ({"type": "submit", "id": 1, "source": "let x = ;"}, "bad_request", "syntax error"),
        ({"type": "submit", "id": 1, "source": "}); x(); (function () {"}, "bad_request", "syntax error"),
        ({"type": "submit", "id": 1, "source": "}[globalThis.x=1]=function(){"}, "bad_request", "syntax error"),
        ({"type": "submit", "id": 1, "source": "(" * 500_000}, "bad_request", "syntax error"),
        ({"type": "show", "id": 1, "hash": "0" * 64}, "not_found", "no program"),
        ({"type": "remove", "id": 1, "hash": "0" * 64}, "not_found", "no program"),
        ({"type": "name", "id": 1, "name": "x", "hash": "0" * 64}, "not_found", "no program"),
        ({"type": "list", "id": 1, "after": "junk"}, "bad_request", "cursor"),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else None,
)
def test_bad_requests(socket_path: Path, request_: dict[str, Any], code: str, says: str) -> None:
    """What can't be done is an error with a code and a reason; the connection goes on."""
    with _raw(socket_path) as sock:
        error, pong = _ask(sock, request_)[0], _ask(sock, {"type": "ping", "id": 2})[0]
    assert (error["type"], error["id"]) == ("error", 1)
    assert error["code"] == code
    assert says in error["message"]
    assert pong["type"] == "pong"


def test_an_empty_program_has_no_result(client: Client) -> None:
    """An empty program is one; it gives no result."""
    hash = client.submit("").hash
    assert client.run(hash).outcome.__struct_config__.tag == "bad_result"


@pytest.mark.parametrize(
    "junk", [b"\xff" * 8, b"\0\0\0\x01\xc1", b"{nonsense\n", b"GET / HTTP/1.1\r\n\r\n", b"{" + b"x" * 9_000_000]
)
def test_junk_ends_that_connection_alone(socket_path: Path, client: Client, junk: bytes) -> None:
    """What is no frame is answered with an error and the connection's end; other clients notice nothing."""
    assert client.ping().protocol == 1
    with _raw(socket_path) as sock:
        try:
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while data := sock.recv(65536):
                received += data
            assert b"error" in received
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed while the rest of the flood was on its way
    assert client.ping().protocol == 1


def test_half_a_frame_is_waited_for_so_long(tmp_path: Path) -> None:
    """A client that owes the rest of a frame is told and closed after stall_s."""
    config = tmp_path / "c.toml"
    config.write_text("[server]\nstall_s = 0.3\n")
    with a_daemon(tmp_path, "--config", str(config)) as daemon, _raw(daemon.socket) as sock:
        sock.sendall(b'{"type":"pi')
        received = b""
        while data := sock.recv(65536):
            received += data
        assert "rest of a frame" in json.loads(received)["message"]


def test_a_client_that_reads_nothing_is_closed(tmp_path: Path) -> None:
    """Replies that are not read are bounded, and end that client alone."""
    config = tmp_path / "c.toml"
    config.write_text("[server]\nstall_s = 0.3\n")
    with a_daemon(tmp_path, "--config", str(config)) as daemon, Client(daemon.socket) as client:
        with _raw(daemon.socket) as sock:
            request = {"type": "run", "id": 1, "source": "return 'x'.repeat(1000000)"}
            for id in range(60):
                sock.sendall(json.dumps({**request, "id": id}).encode() + b"\n")
            _until(lambda: client.stats().clients == 1, 15)
        assert client.run_source("return 1").value == 1


def _resident_kib(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def test_an_oversized_frame_leaves_no_memory_behind(tmp_path: Path) -> None:
    """What a client sent of a frame over the cap is given back with its connection, not some time later."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        first = 0
        for number in range(12):
            with _raw(daemon.socket) as sock:
                try:
                    sock.sendall(b"{" + b"x" * 9_000_000)
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass  # closed while the rest of the flood was on its way
            _until(lambda: client.stats().clients == 1)
            if number == 1:
                first = _resident_kib(daemon)
        # Ten more would be 90 MB if they stayed; one buffer more or less is the allocator's affair.
        assert _resident_kib(daemon) < first + 20_000


def test_many_connections(tmp_path: Path) -> None:
    """With 5,000 idle connections open a client is served as ever."""
    with a_daemon(tmp_path) as daemon:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        idle = []
        try:
            for _ in range(5000):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(daemon.socket))
                idle.append(sock)
            with Client(daemon.socket) as client:
                assert client.run_source("return 1").value == 1
                assert client.stats().clients == 5001
        finally:
            for sock in idle:
                sock.close()


def test_a_full_queue_is_busy_at_once(tmp_path: Path) -> None:
    """Past the queue's bound a run is refused with `busy`, and those within it are all served."""
    config = tmp_path / "c.toml"
    config.write_text("[pool]\ncells = 1\n[scheduler]\nqueue = 2\n")
    with a_daemon(tmp_path, "--config", str(config)) as daemon, Client(daemon.socket) as client:
        runs = [client.start(None, source="for(;;){}") for _ in range(8)]
        kinds = []
        for run in runs:
            try:
                kinds.append(run.result().outcome.__struct_config__.tag)
            except RequestRefused as error:
                kinds.append(error.code)
    assert sorted(kinds) == ["busy"] * 5 + ["cpu_limit"] * 3


def test_runs_that_wait_hold_so_much_memory(tmp_path: Path) -> None:
    """Past the bound of bytes as well a run is refused with `busy`: few large ones are as much as many small."""
    config = tmp_path / "c.toml"
    config.write_text("[pool]\ncells = 1\n[scheduler]\nqueue_mb = 8\n")
    large = "x" * 900_000 + "\N{GRINNING FACE}"
    with a_daemon(tmp_path, "--config", str(config)) as daemon, Client(daemon.socket) as client:
        before = _resident_kib(daemon)
        long = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=3000, wall_ms=9000))
        runs = [client.start(None, source="return prompt.length", prompt=large) for _ in range(30)]
        small = client.start(None, source="return 1")
        kinds = []
        most = 0
        for run in runs[2:]:
            with pytest.raises(RequestRefused, match=r"hold \d MiB already") as refused:
                run.result()
            kinds.append(refused.value.code)
            most = max(most, _resident_kib(daemon))
        assert kinds == ["busy"] * 28
        assert most < before + 40 * 1024
        assert long.result().outcome.__struct_config__.tag == "cpu_limit"
        assert [run.result().value for run in runs[:2]] == [len(large) + 1] * 2
        assert small.result().value == 1


@pytest.mark.parametrize(
    "rest",
    [
        b'"source":"return 1","prompt":"\\ud800"}',
        b'"source":"return 1","prompt":"\\q"}',
        b'"source":"return 1","env":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
    ids=["half of a surrogate pair", "no escape", "deep"],
)
@pytest.mark.parametrize("start", [b'{"type":"run","id":1,', b' { "id" : 1 , "type":"run",'], ids=["type", "id"])
def test_what_json_can_not_be_read_as_a_whole_is_answered(socket_path: Path, start: bytes, rest: bytes) -> None:
    """Where its id can be read the request is refused, and the connection and what was sent behind it go on."""
    with _raw(socket_path) as sock:
        sock.sendall(start + rest + b"\n")
        sock.sendall(b'{"type":"ping","id":2}\n')
        with sock.makefile("rb") as lines:
            replies = [json.loads(lines.readline()) for _ in range(2)]
    told = {reply["id"]: reply.get("code", reply["type"]) for reply in replies}
    assert told == {1: "bad_request", 2: "pong"}


def test_an_id_in_a_text_is_nobodys(socket_path: Path) -> None:
    """Only the message's own id is answered to."""
    with _raw(socket_path) as sock:
        sock.sendall(b'{"type":"run","env":{"id":7,"a":"\\ud800"},"source":"1"}\n')
        error = json.loads(sock.makefile("rb").readline())
    assert (error.get("id"), error["code"]) == (None, "bad_request")


def test_sigterm_drains(tmp_path: Path) -> None:
    """At SIGTERM running runs are answered, new ones refused, and the daemon exits 0 with nothing left."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("const t = Date.now(); while (Date.now() - t < 400); return 'done'").hash
        run = client.start(hash, limits=LimitsAsked(cpu_ms=3000, wall_ms=3000))
        with Client(daemon.socket) as other:
            _until(lambda: other.stats().running == 1)
            pids = daemon.jailed()
            daemon.process.terminate()
            assert run.result().value == "done"
        assert daemon.process.wait(10) == 0
        assert not daemon.socket.exists()
        assert not any(map(_alive, pids))
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.show(hash).runs == 1


def test_sighup_changes_nothing(tmp_path: Path) -> None:
    """SIGHUP is survived."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        daemon.process.send_signal(signal.SIGHUP)
        assert client.run_source("return 1").value == 1


def test_killed_with_sigkill(tmp_path: Path) -> None:
    """After SIGKILL every jailed process is gone within a second; the next start is clean and has the store."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 7").hash
        runs = [client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000)) for _ in range(4)]
        with Client(daemon.socket) as other:
            _until(lambda: other.stats().running == 4)
        _until(lambda: len(daemon.jailed()) == 24)
        pids = daemon.jailed()
        daemon.stop(signal.SIGKILL)
        _until(lambda: not any(map(_alive, pids)), 1)
        with pytest.raises(ConnectionLost):
            runs[0].result()
    assert daemon.socket.exists()
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.run(hash).value == 7


def _at_work(daemon: Daemon) -> list[tuple[int, int, int]]:
    """The jails whose child has used CPU: nsjail, zygote, child."""
    chains = [
        (jail, zygote, child)
        for jail in _children(daemon.process.pid)
        for zygote in _children(jail)
        for child in _children(zygote)
    ]
    return [chain for chain in chains if _cpu_ticks(chain[2]) >= 2]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_killing_any_jailed_process_harms_its_run_alone(tmp_path: Path, depth: int) -> None:
    """With nsjail, zygote or child killed in mid-run, that run is told as ended by force, and all others succeed."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        source = "const t = Date.now(); while (Date.now() - t < 800); return 'done'"
        runs = [client.start(None, source=source, limits=LimitsAsked(cpu_ms=5000, wall_ms=5000)) for _ in range(3)]
        _until(lambda: len(_at_work(daemon)) == 3)
        victim = _at_work(daemon)[0][depth - 1]
        os.kill(victim, signal.SIGKILL)
        kinds = []
        for run in runs:
            try:
                kinds.append(run.result().outcome.__struct_config__.tag)
            except RequestRefused as error:
                kinds.append(error.code)
        # Killed so early that nothing was said, a run may have been given to another cell.
        assert kinds.count("ok") >= 2, kinds
        assert set(kinds) <= {"ok", "crashed"}
        assert client.run_source("return 1").value == 1


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """On the same state folder, and on the same socket, a second daemon exits with one line that says why."""
    with a_daemon(tmp_path) as daemon:
        for options, says in (([], "in use"), (["--state-dir", str(tmp_path / "other")], "another daemon answers")):
            command = [sys.executable, "-m", "promptlogd", "--socket", daemon.socket, "--state-dir", daemon.state]
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=20)
            assert done.returncode == 1
            assert says in done.stderr
            assert len(done.stderr.splitlines()) == 1


def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    """A file where the socket should be is left alone."""
    (tmp_path / "s").write_text("precious")
    daemon = Daemon(tmp_path)
    assert not daemon.ready
    assert daemon.process.wait(10) == 1
    assert (tmp_path / "s").read_text() == "precious"


def test_a_damaged_program_is_told_and_the_rest_served(tmp_path: Path) -> None:
    """A program whose bytes changed on disk is refused, and can be submitted again."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        hash = client.submit("return 1").hash
        assert client.run(hash).value == 1  # and so it is in memory
        (daemon.state / "programs" / hash[:2] / hash[2:] / "source").write_bytes(b"return 2")
        with pytest.raises(RequestRefused, match="damaged"):
            client.run(hash)
        assert f"ERROR promptlogd.store.store: program {hash} was damaged" in daemon.log.read_text()
        assert client.submit("return 1").created
        assert client.run(hash).value == 1


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_an_ordinary_user(tmp_path: Path, engine: Any) -> None:
    """Without root, by user namespaces alone, the main job runs on each engine."""
    if os.geteuid() != 0:
        with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
            assert client.run_source("return prompt", "x", engine=engine).value == "x"
        return
    # As root: become nobody with CAP_DAC_READ_SEARCH kept, so that a Python below root's home can be read.
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


def test_what_the_drain_does_not_wait_for_is_told(tmp_path: Path) -> None:
    """A run that outlasts the drain is answered with shutting_down, and the log counts it."""
    (tmp_path / "c").write_text("[server]\ndrain_s = 0.2\n")
    with a_daemon(tmp_path, "--config", str(tmp_path / "c")) as daemon, Client(daemon.socket) as client:
        run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000))
        _until(lambda: len(_at_work(daemon)) == 1)
        assert daemon.stop() == 0
        with pytest.raises(RequestRefused) as refused:
            run.result()
        assert refused.value.code == "shutting_down"
        assert "1 runs did not end within 0.2 s" in daemon.log.read_text()


@pytest.mark.parametrize("descriptor", ["77", "0"])
def test_a_ready_descriptor_that_can_not_be_written(tmp_path: Path, descriptor: str) -> None:
    """--ready-fd is checked before anything is begun."""
    command = [sys.executable, "-m", "promptlogd", "--socket", tmp_path / "s", "--state-dir", tmp_path / "state"]
    done = subprocess.run([*command, "--ready-fd", descriptor], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "--ready-fd" in done.stderr
    assert not (tmp_path / "state").exists()


def test_an_empty_list_of_host_functions_is_none(client: Client) -> None:
    """A client that always sends the field is not refused for asking for nothing."""
    request = b'{"type":"run","id":1,"source":"return 1","host_functions":[]}\n'
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(client.socket_path))
        sock.sendall(request)
        assert json.loads(sock.makefile().readline())["outcome"] == {"kind": "ok", "value": 1}


def test_a_modules_stack_has_no_frame_of_ours(client: Client) -> None:
    """What the prelude does to call a module is not in the stack that its author sees."""
    outcome = client.run_source("export default function main() {\n  null.x }").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.stack.split() == ["at", "main", "(program.js:2:3)"]


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


def _raw(path: Path, *messages: dict[str, Any]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    return sock


def test_a_client_that_does_not_read_costs_little(tmp_path: Path) -> None:
    """Asked for half a gigabyte that nobody reads, the daemon makes a few replies, and gives their memory back."""
    source = "return 'x'.repeat(4194000)"
    limits = {"result_bytes": 4194304, "cpu_ms": 500}
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        assert other.run_source(source, limits=LimitsAsked(**limits)).ok
        before = _resident(daemon.process.pid)
        runs = [{"type": "run", "id": i, "source": source, "limits": limits} for i in range(128)]
        with _raw(daemon.socket, *runs), _raw(daemon.socket, *runs):
            for _ in range(30):
                assert other.run_source("return 1").value == 1
                time.sleep(0.05)
            assert _resident(daemon.process.pid) - before < 96 << 20
        _until(lambda: _resident(daemon.process.pid) - before < 48 << 20)


def test_a_client_that_leaves_more_than_it_may_is_noticed(tmp_path: Path) -> None:
    """With more requests pipelined than are taken, a client's leaving still ends its runs at once."""
    limits = {"cpu_ms": 10000, "wall_ms": 30000}
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        runs = [{"type": "run", "id": i, "source": "for(;;){}", "limits": limits} for i in range(140)]
        with _raw(daemon.socket, *runs):
            _until(lambda: other.stats().running == 4)
        _until(lambda: other.stats().running == 0, 2)


def test_requests_before_a_bad_one_are_answered(client: Client) -> None:
    """What came whole before the frame that ends the connection is done and answered."""
    with _raw(client.socket_path, {"type": "ping", "id": 1}, {"type": "ping", "id": 2}, {"x": 1}) as sock:
        replies = [json.loads(line) for line in sock.makefile()]
    assert sorted((reply["type"], reply.get("id")) for reply in replies[:3] if "id" in reply) == [
        ("pong", 1),
        ("pong", 2),
    ]
    assert [reply["code"] for reply in replies if reply["type"] == "error"] == ["bad_request"]


def test_more_memory_than_usual_may_be_configured(tmp_path: Path) -> None:
    """A maximum above what a zygote itself gets is what a run can have."""
    (tmp_path / "c").write_text("[limits.max]\nmemory_mb = 1024\n[limits.default]\nmemory_mb = 600\n")
    with a_daemon(tmp_path, "--config", str(tmp_path / "c")) as daemon, Client(daemon.socket) as client:
        assert client.run_source("return 1").value == 1
        assert client.run_source("return 2", limits=LimitsAsked(memory_bytes=1 << 30)).value == 2


def test_a_check_has_more_time_than_a_run(tmp_path: Path) -> None:
    """A program whose check outlasts a run's CPU limit, is checked again with the limit of checks."""
    (tmp_path / "c").write_text("[limits.default]\ncpu_ms = 1\n")
    source = "const list = [" + "[1, {a: 'b'}], " * 4000 + "]; return list.length"
    with a_daemon(tmp_path, "--config", str(tmp_path / "c")) as daemon, Client(daemon.socket) as client:
        hash = client.submit(source).hash
        assert client.run(hash, limits=LimitsAsked(cpu_ms=500)).value == 4000
        with pytest.raises(RequestRefused, match="syntax error"):
            client.submit(source + "}")


def test_the_last_reply_leaves_whole(tmp_path: Path) -> None:
    """A large result that its client reads late is not cut off by SIGTERM."""
    source = "const t = Date.now(); while (Date.now() - t < 300); return 'x'.repeat(1000000)"
    with a_daemon(tmp_path) as daemon:
        limits = {"cpu_ms": 3000, "wall_ms": 3000}
        with _raw(daemon.socket, {"type": "run", "id": 1, "source": source, "limits": limits}) as sock:
            _until(lambda: len(_at_work(daemon)) == 1)
            daemon.process.terminate()
            time.sleep(1)
            assert len(json.loads(sock.makefile().readline())["outcome"]["value"]) == 1_000_000
        assert daemon.process.wait(10) == 0


def test_ctrl_c_is_the_daemons_affair(tmp_path: Path) -> None:
    """SIGINT to all of the terminal's processes drains: the jails are not in the daemon's process group."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        group = os.getpgid(daemon.process.pid)
        # An nsjail that was started this instant has still to make its session.
        _until(lambda: not any(_group(pid) == group for pid in daemon.jailed()))
        run = client.start(
            None, source="const t = Date.now(); while (Date.now() - t < 300); return 1", limits=LimitsAsked(cpu_ms=3000)
        )
        _until(lambda: len(_at_work(daemon)) == 1)
        daemon.process.send_signal(signal.SIGINT)
        assert run.result().value == 1


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    """Told twice to stop, the daemon tidies up as if told once."""
    for pause_s in (0.0, 0.02, 0.05, 0.1):
        with a_daemon(tmp_path) as daemon:
            daemon.process.terminate()
            time.sleep(pause_s)
            daemon.process.send_signal(signal.SIGINT)
            assert daemon.process.wait(10) == 0
            assert not daemon.socket.exists()


def test_another_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    """A daemon whose socket file was replaced by another's does not remove that when it stops."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with a_daemon(tmp_path / "one", "--socket", str(tmp_path / "s")) as first:
        (tmp_path / "s").unlink()
        with a_daemon(tmp_path / "two", "--socket", str(tmp_path / "s")), Client(tmp_path / "s") as client:
            first.stop()
            assert client.ping().pid


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("Object.prototype.get = 1; return 1", "ok"),
        ("Object.prototype.set = undefined; return 1", "ok"),
        (
            "let w; Error.prepareStackTrace = (e, c) => c; const o = {toJSON() { for (const x of new Error().stack) {"
            "const f = x.getFunction(); if (String(f).startsWith('(level, values)')) w = f } return 1 }};"
            "console.log(o); w(-1, ['x']); return 1",
            "ok",
        ),
        ('const a = 1;\nexport {a as "out of memory", a as "out of memory"};\nexport default 1', "syntax_error"),
        ("if (prompt)", "syntax_error"),
        ("Array.prototype.then = (ok) => ok(null); throw 1", "exception"),
        ("Array.prototype.then = (ok) => ok('x'); throw 1", "exception"),
        ("String.prototype.then = (ok) => ok({a: 1}); throw 1", "exception"),
        ("Object.prototype.then = (ok) => ok('1'); throw new Error('x\\0y')", "exception"),
        ("return '!x'", "ok"),
        ("const r = Proxy.revocable({}, {}); r.revoke(); console.log(r.proxy); return 1", "ok"),
        ("return Object(1n)", "bad_result"),
        ("Object.prototype.get = 1; return [1n]", "bad_result"),
        ("return 1 // export default", "ok"),
    ],
)
def test_kinds_that_were_told_wrongly(client: Client, source: str, kind: str) -> None:
    """Tampered prototypes, borrowed closures and texts that read like the engine's own do not choose the outcome."""
    outcome = client.run_source(source).outcome
    assert outcome.__struct_config__.tag == kind, outcome


def test_lost_lines_are_told(client: Client) -> None:
    """Whatever the size of the lines that the limit cuts off, the reply says that some were."""
    for source in (
        "for (let i = 0; i < 5000; i++) console.log('abc')",
        "console.log('x'.repeat(65536)); console.log(1)",
    ):
        assert client.run_source(f"{source}; return 1").logs_truncated
    assert not client.run_source("console.log('x'.repeat(60000)); return 1").logs_truncated


def test_a_handler_takes_a_prompt_of_a_megabyte(client: Client) -> None:
    """A prompt of 1 MiB reaches `fetch` within the CPU limit."""
    source = "export default { fetch: (request) => request.url.length }"
    assert client.run_source(source, "€" * 349_000).value > 3_000_000
