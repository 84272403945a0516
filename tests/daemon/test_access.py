"""Rights, owners and quotas, asked for by real users of the host over the daemon's socket."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.processes import Daemon, until
from tests.daemon.users import User, open_daemon

ALICE, BOB = User(41001, 51001), User(41002, 51002, (51001,))
ROOT = User(0, 0)
_SPIN = "for (;;);"


def _codes(replies: list[dict[str, Any]]) -> list[str]:
    """Return the type of each reply, or the code of its error."""
    return [reply.get("code", reply["type"]) for reply in replies]


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """The socket of a daemon without rights and quotas in its configuration."""
    with open_daemon() as daemon:
        yield daemon.socket


def _submit(path: Path, user: User, source: str, **fields: Any) -> str:
    reply = user.one(path, "submit", source=source, **fields)
    assert reply["type"] == "submitted", reply
    return str(reply["hash"])


def test_without_configuration(shared: Path) -> None:
    """Everyone may run, exec, submit, and use what others have stored; only root manages what is others'."""
    hash = _submit(shared, ALICE, "return 'alice'", name="a")
    replies = BOB.ask(
        shared,
        {"type": "run", "hash": "@a"},
        {"type": "run", "source": "return 1"},
        {"type": "show", "hash": hash},
        {"type": "list"},
        {"type": "show", "hash": hash, "source": True},
        {"type": "remove", "hash": hash},
        {"type": "name", "name": "a"},
        {"type": "submit", "source": "return 'alice'", "engine": "deno", "replace": True},
        {"type": "gc", "unused_s": 0},
        {"type": "verify"},
        {"type": "backup", "folder": "/nonexistent"},
        {"type": "stats"},
        {"type": "config"},
        {"type": "journal"},
    )
    served = ["finished", "finished", "shown", "listed"]
    assert _codes(replies) == [*served, *["forbidden"] * 7, "stats", "config", "entries"]
    assert {reply["detail"]["right"] for reply in replies[4:10]} == {"manage"}
    assert "holders" not in replies[2]
    replies = ALICE.ask(shared, {"type": "show", "hash": hash, "source": True}, {"type": "remove", "hash": hash})
    assert _codes(replies) == ["shown", "removed"]
    hash = _submit(shared, ALICE, "return 'alice'", name="a")
    replies = ROOT.ask(
        shared,
        {"type": "show", "hash": hash, "source": True},
        {"type": "verify"},
        {"type": "remove", "hash": hash},
    )
    assert _codes(replies) == ["shown", "verified", "removed"]


def test_a_hidden_program_does_not_exist(shared: Path) -> None:
    """Each request about a program or name that one does not see is answered as if it did not exist."""
    hash = _submit(shared, ALICE, "return 'hidden'", name="hidden", visibility="own")
    other = "0" * 64
    for reference, missing in ((hash, other), (hash[:12], other[:12]), ("@hidden", "@nothing")):
        requests: list[dict[str, Any]] = [
            {"type": "run"},
            {"type": "show"},
            {"type": "show", "source": True},
            {"type": "remove"},
            {"type": "name", "name": "bobs"},
            {"type": "journal"},
        ]
        hidden, nothing = (
            BOB.ask(shared, *({**request, "hash": each} for request in requests)) for each in (reference, missing)
        )
        for first, second in zip(hidden, nothing, strict=True):
            assert _codes([first]) == _codes([second])
            assert str(first).replace(reference, "X") == str(second).replace(missing, "X")
        assert _codes(hidden)[:5] == ["not_found"] * 5
    (listed,) = BOB.ask(shared, {"type": "list"})
    assert hash not in {row["hash"] for row in listed["programs"]}
    created = BOB.one(shared, "submit", source="return 'hidden'", visibility="own")
    assert (created["created"], created["hash"]) == (True, hash)
    shown = BOB.one(shared, "show", hash=hash)
    assert (shown["created_by"], shown["names"]) == (BOB.uid, [])
    assert [holder["uid"] for holder in shown["holders"]] == [BOB.uid]
    assert [holder["uid"] for holder in ROOT.one(shared, "show", hash=hash)["holders"]] == [ALICE.uid, BOB.uid]
    assert _codes(BOB.ask(shared, {"type": "remove", "hash": hash}, {"type": "run", "hash": hash})) == [
        "removed",
        "not_found",
    ]
    assert ALICE.one(shared, "run", hash="@hidden")["outcome"]["value"] == "hidden"


def test_a_group_sees_what_is_shown_to_it(shared: Path) -> None:
    """The group is that of the process that submitted; supplementary groups of the other count."""
    hash = _submit(shared, ALICE, "return 'group'", visibility="group")
    assert BOB.one(shared, "run", hash=hash)["outcome"]["value"] == "group"
    assert _codes([User(BOB.uid, BOB.gid).one(shared, "run", hash=hash)]) == ["not_found"]
    assert BOB.one(shared, "show", hash=hash, source=True)["code"] == "forbidden"


def test_rights_of_users_and_groups() -> None:
    """Each right is checked where it is needed, for users and for groups, and a reload changes it at once."""
    config = f"""
    [rights]
    run = [{ALICE.uid}, "@{ALICE.gid}"]
    exec = [{ALICE.uid}]
    submit = [{BOB.uid}]
    manage = ["@{BOB.gid}"]
    """
    requests: list[dict[str, Any]] = [
        {"type": "run", "hash": "@none"},
        {"type": "run", "source": "return 1"},
        {"type": "submit", "source": "return 2"},
        {"type": "list"},
        {"type": "show", "hash": "@none"},
        {"type": "name", "name": "x", "hash": "@none"},
        {"type": "remove", "hash": "@none"},
        {"type": "gc", "unused_s": 1e6},
        {"type": "ping"},
    ]
    no = "forbidden"
    with open_daemon(config) as daemon:
        path = daemon.socket
        assert _codes(ALICE.ask(path, *requests)) == ["not_found", "finished", *[no] * 6, "pong"]
        may = ["submitted", "listed", "not_found", "not_found", "not_found", "collected", "pong"]
        assert _codes(BOB.ask(path, *requests)) == ["not_found", no, *may]
        without_groups = User(BOB.uid, 51003)
        assert _codes(without_groups.ask(path, *requests)) == [no, no, *may[:5], no, "pong"]
        assert _codes(User(41003, 51003).ask(path, *requests)) == [*[no] * 8, "pong"]
        (reply,) = ALICE.ask(path, requests[2])
        assert reply["detail"] == {"right": "submit"}
        assert f"the right `submit`, which uid {ALICE.uid} does not have" in reply["message"]
        _reload(daemon, "[rights]\nexec = []\n")
        assert _codes(ALICE.ask(path, *requests[:3])) == ["not_found", no, "submitted"]
        assert _codes(ROOT.ask(path, requests[1])) == [no]


def _reload(daemon: Daemon, config: str) -> None:
    (daemon.socket.parent / "promptlog.toml").write_text(config)
    before = daemon.log.read_text().count("settings changed")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.log.read_text().count("settings changed") > before)


def _retry_after(reply: dict[str, Any], quota: str) -> int:
    """Return `retry_after_ms` of an error for this quota."""
    assert reply.get("code") == "quota", reply
    assert reply["detail"]["quota"] == quota
    return int(reply["detail"]["retry_after_ms"])


def test_quotas_of_a_user() -> None:
    """Each quota is refused when it is used up, for its user alone, and a reload changes it."""
    quick = {"type": "run", "source": "return 1"}
    with open_daemon("[quotas.user]\nruns_per_s = 0.02\nruns_burst = 3\n") as daemon:
        path = daemon.socket
        replies = ALICE.ask(path, *[quick] * 2, {"type": "submit", "source": "return 2"}, quick)
        assert _codes(replies[:3]) == ["finished", "finished", "submitted"]
        assert 0 < _retry_after(replies[3], "runs_per_s") <= 50_000
        assert _codes(BOB.ask(path, quick)) == ["finished"]
        assert _codes(ALICE.ask(path, {"type": "list"}, {"type": "stats"})) == ["listed", "stats"]

        _reload(daemon, "[quotas.user]\ncpu_ms_per_s = 1\ncpu_burst_ms = 20\n")
        replies = ALICE.ask(path, {"type": "run", "source": _SPIN}, quick)
        assert replies[0]["outcome"]["kind"] == "cpu_limit"
        assert 20_000 < _retry_after(replies[1], "cpu_ms_per_s") < 60_000
        assert _codes(BOB.ask(path, quick)) == ["finished"]

        _reload(daemon, "[quotas.user]\nprograms = 1\n")
        replies = BOB.ask(path, *[{"type": "submit", "source": f"return {number}"} for number in (3, 3, 4)])
        assert _codes(replies[:2]) == ["submitted"] * 2
        assert _retry_after(replies[2], "programs") == 60_000
        _reload(daemon, "[quotas.user]\nstored_mb = 0.02\n")
        (reply,) = BOB.ask(path, {"type": "submit", "source": "return 4"})
        assert _retry_after(reply, "stored_mb") == 60_000
        replies = BOB.ask(path, {"type": "remove", "hash": "@x"}, {"type": "submit", "source": "return 3"})
        assert _codes(replies) == ["not_found", "submitted"]  # it is held already
        hash_of_3 = replies[1]["hash"]

        _reload(daemon, "[quotas.user]\nnames = 1\n")
        name: dict[str, Any] = {"type": "name", "hash": hash_of_3}
        replies = BOB.ask(path, *({**name, "name": each} for each in ("x", "y", "x")))
        assert _codes(replies) == ["named", "quota", "named"]
        assert (_retry_after(replies[1], "names"), replies[1]["detail"]["limit"]) == (60_000, 1)
        replies = BOB.ask(path, {"type": "submit", "source": "return 6", "name": "y"}, {"type": "show", "hash": "@y"})
        assert _codes(replies) == ["quota", "not_found"]

        _reload(daemon, "[quotas.user]\nmax_cpu_ms = 20\nmax_wall_ms = 300\n")
        replies = ALICE.ask(
            path,
            {"type": "run", "source": _SPIN},
            {"type": "run", "source": "return 1", "limits": {"cpu_ms": 21}},
            {"type": "run", "source": "return 1", "limits": {"wall_ms": 301}},
            {"type": "run", "source": "return 1", "limits": {"cpu_ms": 19}},
        )
        assert (replies[0]["limits"]["cpu_ms"], replies[0]["outcome"]["kind"]) == (20, "cpu_limit")
        assert _codes(replies[1:]) == ["bad_request", "bad_request", "finished"]
        assert "the maximum is 20" in replies[1]["message"]

        _reload(daemon, f"[quotas.user]\nprograms = 0\n[[quotas.rules]]\nusers = [{ALICE.uid}]\n")
        request = {"type": "submit", "source": "return 5"}
        assert _codes([*ALICE.ask(path, request), *BOB.ask(path, request)]) == ["submitted", "quota"]


def test_runs_at_once_and_queued() -> None:
    """A user's runs beyond the quota wait, those beyond its part of the queue are refused; others run meanwhile."""
    config = "[quotas.user]\nruns_at_once = 1\nqueued = 2\n[pool]\ncells = 4\n[limits.default]\ncpu_ms = 500\n"
    wait = {"type": "run", "source": "const t = Date.now(); while (Date.now() - t < 250); return 1"}
    with open_daemon(config) as daemon:
        begin = time.monotonic()
        pid = os.fork()
        if pid == 0:
            replies = ALICE.ask(daemon.socket, *[wait] * 5, at_once=True)
            took_s = time.monotonic() - begin
            quotas = [reply for reply in replies if reply.get("code") == "quota"]
            is_right = len(quotas) == 2 and _retry_after(quotas[0], "queued") > 0 and took_s >= 3 * 0.25
            os._exit(0 if is_right and _codes(replies).count("finished") == 3 else 1)
        until(lambda: ROOT.one(daemon.socket, "stats")["running"] == 1)
        assert BOB.one(daemon.socket, "run", source="return 1")["outcome"]["kind"] == "ok"
        assert ROOT.one(daemon.socket, "stats")["running"] <= 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_runs_that_wait_do_not_exceed_the_quota_of_cpu_time() -> None:
    """When a user's CPU time is used up, its waiting runs are refused. They were within the quota when they came."""
    config = "[quotas.user]\nruns_at_once = 1\ncpu_ms_per_s = 1\ncpu_burst_ms = 20\n"
    with open_daemon(config) as daemon:
        replies = ALICE.ask(daemon.socket, *[{"type": "run", "source": _SPIN}] * 4, at_once=True)
        assert sorted(_codes(replies)) == ["finished", "quota", "quota", "quota"]
        for reply in replies:
            if reply["type"] == "error":
                assert _retry_after(reply, "cpu_ms_per_s") > 20_000
        assert BOB.one(daemon.socket, "run", source="return 1")["outcome"]["kind"] == "ok"
        assert ROOT.one(daemon.socket, "stats")["running"] == 0


def test_tenants_are_principals() -> None:
    """A tenant has rights, programs and quotas of its own; only a front may say that it manages."""
    front = ALICE
    config = f"""
    [server]
    fronts = [{front.uid}]
    [quotas.tenant]
    runs_per_s = 0.01
    runs_burst = 3
    [[quotas.rules]]
    tenants = ["big*"]
    """
    one, other = {"tenant": "one"}, {"tenant": "other"}
    with open_daemon(config) as daemon:
        path = daemon.socket
        hash = _submit(path, front, "return 'of one'", visibility="own", name="x", **one)
        run = {"type": "run", "hash": hash}
        replies = front.ask(path, {**run, **one}, {**run, **other}, run, {**run, "tenant": "big", "manage": True})
        assert _codes(replies) == ["finished", "not_found", "finished", "finished"]
        replies = front.ask(
            path,
            {"type": "show", "hash": hash, **other},
            {"type": "name", "name": "x", **other},
            {"type": "remove", "hash": hash, **other},
            {"type": "remove", "hash": hash, **other, "manage": True},
        )
        assert _codes(replies) == ["not_found", "forbidden", "not_found", "removed"]
        assert _codes(front.ask(path, {**run, **one}, {"type": "run", "source": "return 1", **one})) == [
            "not_found",
            "quota",
        ]
        quick = {"type": "run", "source": "return 1"}
        replies = front.ask(path, {**quick, **other}, *[{**quick, "tenant": "big two"}] * 5, *[quick] * 5)
        assert _codes(replies) == ["finished"] * 11
        hash = _submit(path, BOB, "return 'bob'", visibility="own")
        replies = front.ask(path, {"type": "show", "hash": hash, "tenant": "big", "manage": True})
        assert _codes(replies) == ["not_found"]  # the front's user itself may not manage
        assert _codes(BOB.ask(path, {**quick, **one})) == ["forbidden"]
        assert _codes(ROOT.ask(path, {"type": "show", "hash": hash, **one})) == ["not_found"]
        assert _codes(ROOT.ask(path, {"type": "show", "hash": hash, **one, "manage": True})) == ["shown"]


def test_busy_tells_when_to_try_again() -> None:
    """A run that the full queue refuses has `retry_after_ms`."""
    with open_daemon("[scheduler]\nqueue = 0\n[pool]\ncells = 1\nspare = 0\n") as daemon:
        replies = ALICE.ask(daemon.socket, *[{"type": "run", "source": _SPIN}] * 3, at_once=True)
        assert sorted(_codes(replies)) == ["busy", "busy", "finished"]
        for reply in replies:
            if reply["type"] == "error":
                assert 50 <= reply["detail"]["retry_after_ms"] <= 5000


def test_a_cancelled_run_is_not_refused_by_a_quota() -> None:
    """A run that was cancelled before its start ends as cancelled: its refusal would be delayed, and hold memory."""
    config = "[server]\nmax_pipelined = 1\n[quotas.user]\nruns_per_s = 0.02\nruns_burst = 1\n"
    with open_daemon(config) as daemon:
        busy = {"type": "run", "source": _SPIN, "limits": {"cpu_ms": 300}}
        waiting = {"type": "run", "source": "return 1"}
        replies = ALICE.ask(daemon.socket, busy, waiting, {"type": "cancel", "target": 1}, at_once=True)
        assert replies[1]["outcome"]["kind"] == "cancelled"


def test_refusals_by_a_quota_of_programs_or_names_are_delayed() -> None:
    """The refusals of a client that submits or names without pause above its quota are delayed, so that it cannot keep
    cells and the disk busy."""
    with open_daemon("[quotas.user]\nprograms = 1\nnames = 0\n") as daemon:
        hash = _submit(daemon.socket, ALICE, "return 0")
        submits: list[dict[str, Any]] = [{"type": "submit", "source": f"return {number}"} for number in range(1, 32)]
        names: list[dict[str, Any]] = [{"type": "name", "name": f"{number}", "hash": hash} for number in range(31)]
        for requests in (submits, names):
            began = time.monotonic()
            assert _codes(ALICE.ask(daemon.socket, *requests, at_once=True)) == ["quota"] * 31
            assert time.monotonic() - began > 0.5


def test_refusals_by_a_quota_of_waiting_runs_are_delayed() -> None:
    """A client that sends runs without pause above its quota of waiting runs is refused later, so that it cannot keep
    the event loop busy with refusals."""
    with open_daemon("[quotas.user]\nruns_at_once = 1\nqueued = 0\n") as daemon:
        spinning = {"type": "run", "source": _SPIN, "limits": {"cpu_ms": 300}}
        began = time.monotonic()
        replies = ALICE.ask(daemon.socket, spinning, *[{"type": "run", "source": "return 1"}] * 31, at_once=True)
        assert _codes(replies).count("quota") == 31
        assert time.monotonic() - began > 0.9  # the run in front ends after about 0.3 s
