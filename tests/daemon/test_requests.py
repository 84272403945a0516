"""Requests through a daemon, and the errors with which it refuses them."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit, MemoryLimit, ProgramException
from tests.daemon.processes import (
    a_daemon,
    ask,
    resident_bytes,
    talk,
    until,
)


def test_the_hash_equals_sha256sum(client: Client) -> None:
    """The hash is what sha256sum prints for the file."""
    source = (Path(__file__).parents[2] / "examples/reverse.js").read_bytes()
    assert client.submit(source).hash == hashlib.sha256(source).hexdigest()


_KEPT = "@right"
_RUN = {"type": "run", "id": 1, "source": "return 1"}
_RUN_KEPT = {"type": "run", "id": 1, "hash": _KEPT}
_SUBMIT = {"type": "submit", "id": 1, "source": "return 'right'", "name": "right"}
_NONE = "0" * 64
_MIB = 1 << 20


def _x(times: int, before: str = "", unit: str = "x") -> Callable[[], str]:
    """Return an expression for a long text. Texts built at import would stay in memory for all tests."""
    return lambda: before + unit * times


def _shown(request: dict[str, Any]) -> str:
    return str({field: "..." if callable(value) else value for field, value in request.items()})


def _made(request: dict[str, Any]) -> dict[str, Any]:
    return {field: value() if callable(value) else value for field, value in request.items()}


@pytest.mark.parametrize(
    ("right", "wrong", "code", "says"),
    [
        (_RUN, {"source": None}, "bad_request", "give either `hash` or `source`"),
        (_RUN, {"hash": _KEPT}, "bad_request", "give either `hash` or `source`"),
        (_RUN_KEPT, {"hash": _NONE}, "not_found", "no program"),
        (_RUN_KEPT, {"hash": "00000"}, "bad_request", "8 digits"),
        (_RUN_KEPT, {"hash": "../../../etc"}, "bad_request", "neither a hash"),
        (_RUN_KEPT, {"hash": "@nobody"}, "not_found", "@nobody"),
        (_RUN_KEPT, {"language": "javascript"}, "bad_request", "`language` is only for a `source`"),
        (_RUN | {"source": _x(_MIB - 2, "//")}, {"source": _x(_MIB - 1, "//")}, "too_large", "source"),
        (_RUN | {"prompt": _x(_MIB)}, {"prompt": _x(_MIB + 1)}, "too_large", "prompt"),
        (_RUN | {"prompt": _x(_MIB // 2, unit="é")}, {"prompt": _x(_MIB // 2 + 1, unit="é")}, "too_large", "prompt"),
        (_RUN | {"env": {"a": "x" * 260_000}}, {"env": {"a": "x" * 264_000}}, "too_large", "env"),
        (_RUN | {"limits": {"cpu_ms": 10_000}}, {"limits": {"cpu_ms": 10_001}}, "bad_request", "10000"),
        (_RUN | {"limits": {"memory_bytes": 8 * _MIB}}, {"limits": {"memory_bytes": 1}}, "bad_request", "minimum"),
        (_RUN | {"engine": "deno"}, {"engine": "v8"}, "bad_request", "the engines are: 'quickjs', 'deno'"),
        (
            _RUN | {"language": "typescript"},
            {"language": "ts"},
            "bad_request",
            "valid values: 'javascript', 'typescript'",
        ),
        (
            _RUN | {"engine": "deno", "language": "typescript"},
            {"engine": "quickjs"},
            "bad_request",
            "needs the engine deno",
        ),
        (
            _RUN | {"engine": "deno", "limits": {"memory_bytes": 64 * _MIB}},
            {"limits": {"memory_bytes": 40 * _MIB}},
            "bad_request",
            "minimum on deno",
        ),
        (_RUN | {"host_functions": []}, {"host_functions": ["f"]}, "unsupported", "host functions"),
        (_SUBMIT, {"source": _x(_MIB - 1, "//")}, "too_large", "source"),
        (_SUBMIT, {"source": "let x = ;"}, "bad_request", "SyntaxError"),
        (_SUBMIT, {"source": "}); x(); (function () {"}, "bad_request", "SyntaxError"),
        (_SUBMIT, {"source": "}[globalThis.x=1]=function(){"}, "bad_request", "SyntaxError"),
        (
            _SUBMIT | {"source": "return " + "(" * 100 + "1" + ")" * 100},
            {"source": _x(500_000, unit="(")},
            "bad_request",
            "SyntaxError",
        ),
        ({"type": "show", "id": 1, "hash": _KEPT}, {"hash": _NONE}, "not_found", "no program"),
        ({"type": "remove", "id": 1, "hash": _KEPT}, {"hash": _NONE}, "not_found", "no program"),
        ({"type": "name", "id": 1, "name": "x", "hash": _KEPT}, {"hash": _NONE}, "not_found", "no program"),
        ({"type": "list", "id": 1, "after": "0x1p0:00"}, {"after": "junk"}, "bad_request", "cursor"),
    ],
    ids=lambda value: _shown(value)[:50] if isinstance(value, dict) else None,
)
def test_bad_requests(socket_path: Path, right: dict[str, Any], wrong: dict[str, Any], code: str, says: str) -> None:
    """A request succeeds, and with one defect is refused with a code and a reason; the connection continues."""
    right, wrong = _made(right), _made(wrong)
    with talk(socket_path) as sock:
        kept, done = ask(sock, _SUBMIT)[0], ask(sock, right)[0]
        ask(sock, _SUBMIT)  # the valid request may have removed the program
        error, pong = ask(sock, {**right, **wrong})[0], ask(sock, {"type": "ping", "id": 2})[0]
    assert kept["type"] == "submitted"
    assert done["type"] not in ("error", "pong"), done
    if right["type"] == "run":
        assert done["outcome"]["kind"] in ("ok", "bad_result"), done  # a program that is only a comment has no result
    assert (error["type"], error["id"]) == ("error", 1)
    assert error["code"] == code
    assert says in error["message"]
    assert pong["type"] == "pong"


def test_an_empty_program_has_no_result(client: Client) -> None:
    """An empty program is valid, and gives no result."""
    hash = client.submit("").hash
    assert client.run(hash).outcome.__struct_config__.tag == "bad_result"


def test_a_full_queue_refuses_runs_at_once(tmp_path: Path) -> None:
    """With a full queue, the daemon refuses a run with `busy` at once, and serves all runs in the queue."""
    config = "[pool]\ncells = 1\n[scheduler]\nqueue = 2\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        first = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=30_000))
        until(lambda: client.stats().running == 1)
        runs = [client.start(None, source="return 1") for _ in range(7)]
        until(lambda: client.stats().errors == {"busy": 5})  # while the first run continues
        assert (client.stats().running, client.stats().queued) == (1, 2)
        assert first.cancel()
        refused = []
        for run in runs:
            try:
                assert run.result().value == 1
            except RequestRefused as error:
                refused.append((error.code, error.message))
        assert refused == [("busy", "the queue is full: 2 runs are waiting; try again in a moment")] * 5


def test_the_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    """The daemon refuses runs with `busy` when waiting runs, few large or many small ones, reach the bound in bytes."""
    config = "[pool]\ncells = 1\n[scheduler]\nqueue_mb = 2\n"
    large = "x" * 900_000 + "\N{GRINNING FACE}"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        before = resident_bytes(daemon.process.pid)
        first = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=30_000))
        until(lambda: client.stats().running == 1)
        runs = [client.start(None, source="return prompt.length", prompt=large) for _ in range(30)]
        until(lambda: client.stats().errors == {"busy": 28}, 20)
        small = client.start(None, source="return 1")
        until(lambda: client.stats().queued == 3)
        # All prompts together are 27 MB; those of waiting runs may use 2 MiB.
        assert resident_bytes(daemon.process.pid) < before + (20 << 20)
        assert first.cancel()
        refused = []
        for run in runs:
            try:
                assert run.result().value == len(large) + 1
            except RequestRefused as error:
                refused.append(error.message)
        assert len(refused) == 28
        assert all(re.search(r"the waiting runs hold \d MiB;", message) for message in refused), refused
        assert small.result().value == 1


def test_an_empty_list_of_host_functions_is_accepted(client: Client) -> None:
    """A request with an empty list of host functions is served like one without the field."""
    request = b'{"type":"run","id":1,"source":"return 1","host_functions":[]}\n'
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(client.socket_path))
        sock.sendall(request)
        assert json.loads(sock.makefile().readline())["outcome"] == {"kind": "ok", "value": 1}


def test_a_modules_stack_has_no_internal_frames(client: Client) -> None:
    """The stack of an exception in a module does not contain the frames of promptlog's prelude."""
    outcome = client.run_source("export default function main() {\n  null.x }").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.stack.split() == ["at", "main", "(program.js:2:8)"]


def test_a_higher_memory_limit_can_be_configured(tmp_path: Path) -> None:
    """A run can use a configured maximum above the zygote's usual memory; other runs get the default."""
    config = "[limits.max]\nmemory_mb = 1024\n[limits.default]\nmemory_mb = 600\n"
    source = "return new Uint8Array(Number(prompt) << 20).length >> 20"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        assert client.run_source(source, "500").value == 500
        assert isinstance(client.run_source(source, "900").outcome, MemoryLimit)
        assert client.run_source(source, "900", limits=LimitsAsked(memory_bytes=1 << 30)).value == 900


def test_a_check_has_a_higher_cpu_limit_than_a_run(tmp_path: Path) -> None:
    """A program whose check exceeds a run's CPU limit is checked again with the limit for checks."""
    source = "const list = [" + "[1, {a: 'b'}], " * 4000 + "]; return list.length"
    with a_daemon(tmp_path, config="[limits.default]\ncpu_ms = 1\n") as daemon, Client(daemon.socket) as client:
        assert isinstance(client.run_source(source).outcome, CpuLimit)  # checked with the limits of the run
        hash = client.submit(source).hash
        assert client.run(hash, limits=LimitsAsked(cpu_ms=500)).value == 4000
        with pytest.raises(RequestRefused, match="SyntaxError"):
            client.submit(source + "}")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("Object.prototype.get = 1; return 1", "ok"),
        ("Object.prototype.set = undefined; return 1", "ok"),
        (
            "let w; Error.prepareStackTrace = (e, c) => c; Object.defineProperty(Error.prototype, 'name', {get() {"
            "for (const x of new Error().stack) { const f = x.getFunction(); if (f?.name === 'writeLine') w = f }"
            "return 'E' }}); console.log(new Error('x')); w(-1, () => 'x'); return 1",
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
def test_a_program_can_not_choose_its_outcome(client: Client, source: str, kind: str) -> None:
    """Changed prototypes, borrowed closures and texts that mimic the engine's messages do not choose the outcome."""
    outcome = client.run_source(source).outcome
    assert outcome.__struct_config__.tag == kind, outcome


def test_dropped_log_lines_are_reported(client: Client) -> None:
    """The reply reports that the limit dropped log lines, for short lines and for long ones."""
    for source in (
        "for (let i = 0; i < 5000; i++) console.log('abc')",
        "console.log('x'.repeat(65536)); console.log(1)",
    ):
        assert client.run_source(f"{source}; return 1").logs_truncated
    assert not client.run_source("console.log('x'.repeat(60000)); return 1").logs_truncated


def test_a_fetch_handler_receives_a_large_prompt(client: Client) -> None:
    """A prompt of 1 MiB reaches `fetch`."""
    source = "export default { fetch: (request) => request.url.length }"
    assert client.run_source(source, "€" * 349_000, limits=LimitsAsked(cpu_ms=1000)).value > 3_000_000
