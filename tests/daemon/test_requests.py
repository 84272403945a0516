"""What requests come to, with what the daemon refuses and why."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from promptlogctl.errors import RequestRefused
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import ProgramException
from tests.daemon.processes import (
    a_daemon,
    ask,
    resident_bytes,
    talk,
)


def test_the_hash_is_sha256sum(client: Client) -> None:
    """The hash is what sha256sum prints for the file."""
    source = (Path(__file__).parents[2] / "examples/reverse.js").read_bytes()
    assert client.submit(source).hash == hashlib.sha256(source).hexdigest()


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
        ({"type": "run", "id": 1, "source": "x", "engine": "v8"}, "bad_request", "there is: 'quickjs', 'deno'"),
        (
            {"type": "run", "id": 1, "source": "x", "language": "ts"},
            "bad_request",
            "there is: 'javascript', 'typescript'",
        ),
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
    with talk(socket_path) as sock:
        error, pong = ask(sock, request_)[0], ask(sock, {"type": "ping", "id": 2})[0]
    assert (error["type"], error["id"]) == ("error", 1)
    assert error["code"] == code
    assert says in error["message"]
    assert pong["type"] == "pong"


def test_an_empty_program_has_no_result(client: Client) -> None:
    """An empty program is one; it gives no result."""
    hash = client.submit("").hash
    assert client.run(hash).outcome.__struct_config__.tag == "bad_result"


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
        before = resident_bytes(daemon.process.pid)
        long = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=3000, wall_ms=9000))
        runs = [client.start(None, source="return prompt.length", prompt=large) for _ in range(30)]
        small = client.start(None, source="return 1")
        kinds = []
        most = 0
        for run in runs[2:]:
            with pytest.raises(RequestRefused, match=r"hold \d MiB already") as refused:
                run.result()
            kinds.append(refused.value.code)
            most = max(most, resident_bytes(daemon.process.pid))
        assert kinds == ["busy"] * 28
        assert most < before + (40 << 20)
        assert long.result().outcome.__struct_config__.tag == "cpu_limit"
        assert [run.result().value for run in runs[:2]] == [len(large) + 1] * 2
        assert small.result().value == 1


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
