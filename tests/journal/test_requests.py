"""The journal of a running daemon: its entries, who can read them, and `promptlogctl log`."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptlogctl.client import AsyncClient, Client, LimitsAsked, RequestRefused
from promptlogd.wire import messages
from promptlogd.wire.messages import JournalEntry
from tests.ctl.command import ctl
from tests.daemon.ordinary_user import NOBODY, ordinary_user
from tests.daemon.processes import a_daemon, until
from tests.daemons import configured_daemon

_UID = os.geteuid()


def _entries(client: Client, count: int, **wanted: object) -> list[JournalEntry]:
    """Wait until there are this number of entries, and return them, oldest first. They are written once a second."""
    deadline = time.monotonic() + 20
    while len(found := list(client.journal(**wanted))) < count:  # type: ignore[arg-type]
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found[::-1]


def test_entries_of_all_requests() -> None:
    """Runs, submits, moves of names, removals and refusals have entries with user, program, outcome and usage."""
    with configured_daemon("") as socket, Client(socket) as client:
        hash = client.submit("return prompt.length", name="count").hash
        assert client.run("@count", "abc").value == 3
        client.run_source("\nthrow new Error('a secret')", "p")
        client.run_source("for(;;){}", limits=LimitsAsked(cpu_ms=20))
        client.label("count", client.submit("return 2").hash)
        client.label("count")
        client.label("sum", hash)
        client.remove(hash)
        with pytest.raises(RequestRefused):
            client.run("@nobody")
        entries = _entries(client, 12)
    assert [(entry.kind, entry.outcome) for entry in entries] == [
        ("submit", "stored"), ("run", "ok"), ("run", "exception"), ("run", "cpu_limit"), ("submit", "stored"),
        ("name", "moved"), ("name", "moved back"), ("name", "moved"),
        ("remove", "removed"), ("name", "removed"), ("name", "removed"), ("refused", "not_found"),
    ]  # fmt: skip
    assert sorted(entry.name or "" for entry in entries if (entry.kind, entry.outcome) == ("name", "removed")) == [
        "count", "sum",
    ]  # fmt: skip
    ran = next(entry for entry in entries if entry.kind == "run" and entry.outcome == "ok")
    assert (ran.uid, ran.hash, ran.name, ran.engine) == (_UID, hash, "count", "quickjs")
    assert (ran.prompt_bytes, ran.result_bytes, ran.console_lines, ran.content) == (3, 1, 0, None)
    assert (ran.cpu_ms or 0) > 0
    threw = next(entry for entry in entries if entry.outcome == "exception")
    assert (threw.line, threw.prompt_bytes) == (2, 1)
    assert "secret" not in str(entries)


def test_a_large_request(socket_path: Path) -> None:
    """The prompt's size is stored for large requests too, whose texts the decoder passes as bytes."""
    with Client(socket_path) as client:
        client.run_source("return 1", "é" * 200_000)
        until(lambda: any(entry.prompt_bytes == 400_000 for entry in client.journal()))


def test_a_refusal_names_the_tenant() -> None:
    """The refusal of a request that a front sent for a tenant is stored with the tenant's name."""
    with configured_daemon("") as socket, Client(socket) as client:
        ask = client._connection.ask
        with pytest.raises(RequestRefused):
            ask(lambda id: messages.Run(id=id, tenant="one", hash="@nobody"), messages.Finished)
        (refused,) = _entries(client, 1)
        assert (refused.outcome, refused.tenant) == ("not_found", "one")


def test_a_tenant_does_not_read_its_fronts_journal() -> None:
    """A journal request for a tenant is refused, because the journal has the entries of all tenants of the front."""
    with configured_daemon("") as socket, Client(socket) as client:
        ask = client._connection.ask
        for request, kind in ((messages.ReadJournal, messages.Entries), (messages.JournalStats, messages.JournalSums)):
            with pytest.raises(RequestRefused) as refused:
                ask(lambda id, request=request: request(id=id, tenant="one"), kind)  # type: ignore[misc]
            assert refused.value.code == "forbidden"
            assert ask(lambda id, request=request: request(id=id, tenant="one", manage=True), kind)  # type: ignore[misc]


def test_a_tenants_name_is_escaped() -> None:
    """Control characters in a tenant's name are escaped, so that it adds no row and no column to the list."""
    with configured_daemon("") as socket, Client(socket) as client:
        ask = client._connection.ask
        ask(lambda id: messages.Run(id=id, tenant="\x1b]0;x\x07\n9\t1", source="return 1"), messages.Finished)
        _entries(client, 1)
        (line,) = ctl(socket, "log").stdout.splitlines()
    assert b"\x1b" not in line
    assert line.split(b"\t")[3:5] == [b"run", b"ok"]


def test_texts_are_stored_if_configured() -> None:
    """With journal.keep, a request for one entry returns prompt, result, console and error."""
    config = '[journal]\nkeep = ["prompt", "result", "console", "error"]\n'
    with configured_daemon(config) as socket, Client(socket) as client:
        client.run_source("console.log('said'); return [prompt]", "asked")
        client.run_source("throw new Error('why')")
        fine, threw = [client.journal_entry(entry.id) for entry in _entries(client, 2)]
    assert fine.content == {"prompt": "asked", "result": '["asked"]', "console": "log: said"}
    assert threw.content is not None
    assert threw.content["error"].startswith("Error: why\n")


def test_log_show_has_the_error(socket_path: Path) -> None:
    """By default, the entry of a failed run has its error with the stack, up to a limit, and no prompt or result."""
    with Client(socket_path) as client:

        def newest_id() -> int:
            return next((entry.id for entry in client.journal(limit=1)), 0)

        newest = newest_id()
        client.run_source("return prompt", "private")
        client.run_source("throw new TypeError('why')")
        client.run_source("return (")
        client.run_source("throw new Error('x'.repeat(100000))")
        until(lambda: newest_id() >= newest + 4)
        fine, threw, syntax, long = [client.journal_entry(newest + number).content for number in (1, 2, 3, 4)]
        shown = ctl(socket_path, "log", "show", str(newest + 2)).stdout.decode()
    assert fine is None
    assert threw == {"error": "TypeError: why\n    at <anonymous> (program.js:1:7)"}
    assert shown.endswith(f"\n\nerror:\n{threw['error']}\n")
    assert syntax is not None
    assert list(syntax) == ["error"]
    assert syntax["error"].startswith("SyntaxError: ")
    assert long is not None
    assert long["error"] == f"Error: {'x' * 2048}…\n    at <anonymous> (program.js:1:7)"


def test_entries_survive_removal_and_restart(tmp_path: Path) -> None:
    """Entries of a removed program are found by its hash or a prefix, also after a restart."""
    state = str(tmp_path / "state")

    def call(*arguments: str) -> str:
        done = ctl(tmp_path / "none", *arguments, "--spawn", "--state-dir", state)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    hash = call("exec", "--keep", "-e", "return 1", "--json") and json.loads(call("list", "--json"))[0]["hash"]
    call("run", hash)
    call("remove", hash)
    entries = json.loads(call("log", "--program", hash[:10], "--json"))
    assert [entry["kind"] for entry in entries][:2] == ["remove", "run"]


def test_a_user_sees_only_own_entries() -> None:
    """Another user of the daemon sees its own entries and sums, and none of other users."""
    assert os.geteuid() == 0, "only root can connect as somebody else: run this test as root"
    program = (
        "import sys, time; from promptlogctl.client import Client, RequestRefused\n"
        "with Client(sys.argv[1]) as client:\n"
        "    client.run_source('return 2')\n"
        "    while not (mine := list(client.journal())): time.sleep(0.05)\n"
        "    try: client.journal_entry(int(sys.argv[2]))\n"
        "    except RequestRefused as refused: print(refused.code)\n"
        "    print([(entry.uid, entry.kind) for entry in mine], sum(row.runs for row in client.journal_sums()))\n"
    )
    with configured_daemon(f'[server]\nsocket_group = "{NOBODY}"\n') as socket, Client(socket) as client:
        client.run_source("return 1")
        (own,) = _entries(client, 1)
        socket.parent.chmod(0o711)
        become = _nobody(socket.parent)
        said = subprocess.run(
            [*become, sys.executable, "-c", program, str(socket), str(own.id)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert said.stdout == f"not_found\n[({NOBODY}, 'run')] 1\n", said.stderr
        assert {entry.uid for entry in _entries(client, 2)} == {0, NOBODY}


def _nobody(folder: Path) -> list[str]:
    made = folder / "of-nobody"
    made.mkdir()
    return ordinary_user(made)


async def test_the_async_client() -> None:
    """AsyncClient has the same three methods for the journal."""
    with configured_daemon("") as socket, Client(socket) as client:
        client.run_source("return 1")
        (noted,) = _entries(client, 1)
        async with AsyncClient(socket) as other:
            assert [entry async for entry in other.journal()] == [noted]
            assert [entry async for entry in other.journal(limit=0)] == []
            assert await other.journal_entry(noted.id) == noted
            assert [row.runs for row in await other.journal_sums()] == [1]


def test_pages() -> None:
    """Entries of several pages come in order, in both directions."""
    with configured_daemon("") as socket, Client(socket) as client:
        for run in [client.start(None, source="return 1") for _ in range(120)]:
            run.result()
        entries = _entries(client, 120)
        numbers = [entry.id for entry in entries]
        assert numbers == sorted(set(numbers))
        assert [entry.id for entry in client.journal(after=numbers[4])] == numbers[5:]
        for limit in (0, 1, 110, 150):
            assert [entry.id for entry in client.journal(limit=limit)] == numbers[::-1][:limit]
        ask = client._connection.ask
        with pytest.raises(RequestRefused, match="either `before` or `after`"):
            ask(lambda id: messages.ReadJournal(id=id, before=1, after=1), messages.Entries)


def test_log_command(tmp_path: Path) -> None:
    """`promptlogctl log` lists, filters and sums entries, shows one entry, and refuses conflicting options."""
    with configured_daemon("") as socket, Client(socket) as client:
        hash = client.submit("return 1", name="one").hash
        client.run("@one")
        client.run_source("throw 1")
        _entries(client, 3)
        lines = ctl(socket, "log").stdout.decode().splitlines()
        assert [line.split("\t")[3:5] for line in lines] == [["run", "exception"], ["run", "ok"], ["submit", "stored"]]
        assert lines[1].split("\t")[5:8] == [hash, "@one", "quickjs"]
        assert len(ctl(socket, "log", "--failed").stdout.splitlines()) == 1
        assert len(ctl(socket, "log", "--program", "@one", "--since", "1h", "--limit", "1").stdout.splitlines()) == 1
        assert ctl(socket, "log", "--since", "2999-01-01").stdout == b""
        sums = ctl(socket, "log", "--stats").stdout.decode().splitlines()
        assert len(sums) == 2
        shown = ctl(socket, "log", "show", lines[1].split("\t")[0]).stdout.decode()
        assert "outcome        ok\n" in shown
        assert f"hash           {hash}\n" in shown
        (record,) = json.loads(ctl(socket, "log", "--json", "--limit", "1").stdout)
        for arguments in (
            ("log", "show", "3", "--json"),
            ("log", "--json", "show", "3"),
            ("--json", "log", "show", "3"),
        ):
            assert json.loads(ctl(socket, *arguments).stdout) == {**record, "content": {"error": "thrown: 1"}}
        assert record["id"] == 3
        for wrong, code, says in (
            (("log", "--since", "soon"), 2, b"is no time: give an age"),
            (("log", "--stats", "--failed"), 2, b"--stats goes with --program and --since alone"),
            (("log", "--failed", "show", "1"), 2, b"--failed does not go with `log show`"),
            (("log", "show", "99"), 5, b"there is no entry 99"),
            (("log", "show", str(2**31)), 5, b"there is no entry 2147483648"),
            (("log", "show", str(2**53)), 2, b"is too large; the maximum is 9007199254740991"),
            (("log", "--program", "@none"), 5, b"no program '@none'"),
        ):
            done = ctl(socket, *wrong)
            assert (done.returncode, says in done.stderr) == (code, True), done


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_follow(options: tuple[str, ...]) -> None:
    """`log --follow` prints entries as they are written, until Ctrl-C."""

    def outcome(line: str) -> str:
        return str(json.loads(line)["outcome"]) if options else line.split("\t")[4]

    with configured_daemon("") as socket, Client(socket) as client:
        client.run_source("return 1")
        _entries(client, 1)
        command = [sys.executable, "-m", "promptlogctl", "log", "--follow", *options, "--socket", str(socket)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert outcome(follower.stdout.readline()) == "ok"
            client.run_source("throw 1")
            assert outcome(follower.stdout.readline()) == "exception"
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 3


def test_follow_while_the_daemon_is_away(tmp_path: Path) -> None:
    """`log --follow` says that no daemon answers, and continues when one answers again, also with a new journal."""
    with a_daemon(tmp_path) as daemon:
        with Client(daemon.socket) as client:
            client.run_source("return 1")
            client.run_source("return 2")
            _entries(client, 2)
        command = [sys.executable, "-m", "promptlogctl", "log", "--follow", "--json", "--socket", str(daemon.socket)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert follower.stderr is not None
            assert [json.loads(follower.stdout.readline())["id"] for _ in range(2)] == [1, 2]
            daemon.stop()
            assert "no promptlogd answers" in follower.stderr.readline()
            for file in daemon.state.glob("journal.sqlite3*"):
                file.unlink()
            with a_daemon(tmp_path) as other, Client(other.socket) as client:
                client.run_source("throw 1")
                entry = json.loads(follower.stdout.readline())
                assert (entry["id"], entry["outcome"]) == (1, "exception")
                follower.send_signal(signal.SIGINT)
                assert follower.wait(20) == 3


def test_console_lines_that_were_streamed() -> None:
    """The journal counts console lines that the client received during the run, and with `journal.keep` stores them."""
    with configured_daemon('[journal]\nkeep = ["console"]\nkeep_kb = 1\n') as socket, Client(socket) as client:
        code = "console.log('first'); console.warn('x'.repeat(2000)); console.log('last'); return 1"
        assert ctl(socket, "exec", "-e", code).returncode == 0
        (entry,) = _entries(client, 1)
        assert entry.console_lines == 3
        content = client.journal_entry(entry.id).content
        assert content is not None
        assert content["console"].startswith("log: first\nwarn: xxx")
        assert len(content["console"]) == 1025
        assert "last" not in content["console"]


def test_follow_a_journal_that_is_replaced(tmp_path: Path) -> None:
    """`log --follow` continues with the new journal that a running daemon begins after it found damage."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        for _ in range(3):
            client.run_source("return 1")
        _entries(client, 3)
        command = [sys.executable, "-m", "promptlogctl", "log", "--follow", "--json", "--socket", str(daemon.socket)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert [json.loads(follower.stdout.readline())["id"] for _ in range(3)] == [1, 2, 3]
            for file in daemon.state.glob("journal.sqlite3*"):
                file.write_bytes(bytes(file.stat().st_size))
            until(lambda: bool(list((daemon.state / "damaged").iterdir())))  # the follower's query finds the damage
            client.run_source("throw 1")
            outcome = ""
            while outcome != "exception":
                ready, _, _ = select.select([follower.stdout], [], [], 10)
                if not ready:
                    follower.kill()
                outcome = json.loads(follower.stdout.readline())["outcome"]
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 3


def test_a_journal_that_is_off() -> None:
    """Without a journal, `log` says so, and does not look like a journal without entries."""
    with configured_daemon("[journal]\nenabled = false\n") as socket:
        done = ctl(socket, "log")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"journal.enabled is false" in done.stderr
