"""Responses of the HTTP API: results, events, lists, and a status for each kind of failure."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import pytest

from tests.http.test_contract import submitted

WHOLE = "application/vnd.promptlog+json"


def problem(response: httpx.Response) -> dict[str, Any]:
    """Check the form of a problem details response (RFC 9457), and return its body."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert isinstance(body, dict)
    assert body["status"] == response.status_code
    assert body["error"] == body["detail"]
    assert body["type"] == f"urn:promptlog:problem:{body['code']}"
    return body


def test_exec_keeps_nothing(web: httpx.Client) -> None:
    """POST /exec accepts code, prompt, env and limits, runs the code, and does not keep it."""
    body = {"code": "return [prompt, env.a, 1]", "prompt": "p", "env": {"a": [1.5]}, "limits": {"cpu_ms": 20}}
    response = web.post("/exec", json=body)
    assert response.json() == ["p", [1.5], 1]
    assert web.get(f"/programs/{response.headers['promptlog-hash']}").status_code == 404


def test_post_run_accepts_all_options(web: httpx.Client) -> None:
    """POST /run/HASH accepts prompt, env, engine, isolation and limits as JSON."""
    hash = submitted(web, "return [prompt.length, env]")
    body = {
        "prompt": "x" * 1_000_000,
        "env": {"k": "v"},
        "engine": "deno",
        "isolation": "jail",
        "limits": {"cpu_ms": 900},
    }
    assert web.post(f"/run/{hash}", json=body).json() == [1_000_000, {"k": "v"}]


def test_names_instead_of_hashes(web: httpx.Client) -> None:
    """A submit can name the program, and @NAME then runs it, shows it and removes it."""
    hash = web.post("/submit", json={"code": "return 'named'", "name": "web-name"}).json()["hash"]
    assert web.get("/run/@web-name").json() == "named"
    shown = web.get("/programs/@web-name", params={"code": "1"}).json()
    assert (shown["hash"], shown["names"], shown["code"]) == (hash, ["web-name"], "return 'named'")
    assert web.delete("/programs/@web-name").json() == {"hash": hash, "names": ["web-name"]}
    assert problem(web.get("/run/@web-name"))["code"] == "not_found"


def test_usage_is_in_headers(web: httpx.Client) -> None:
    """The response to each run has outcome, hash, engine and usage in its headers, whatever the outcome is."""
    for code, outcome in (("return 1", "ok"), ("throw new Error('x')", "exception"), ("for (;;);", "cpu_limit")):
        headers = web.post("/exec", json={"code": code}).headers
        assert headers["promptlog-outcome"] == outcome
        assert len(headers["promptlog-hash"]) == 64
        assert headers["promptlog-engine"].startswith("quickjs-ng ")
        assert float(headers["promptlog-cpu-ms"]) > 0
        assert int(headers["promptlog-peak-memory-bytes"]) > 100_000


def test_the_full_report_of_a_run(web: httpx.Client) -> None:
    """Accept: application/vnd.promptlog+json returns outcome, console and usage, with status 200 for every outcome."""
    code = "console.warn('w'); throw new TypeError('t')"
    response = web.post("/exec", json={"code": code}, headers={"accept": WHOLE})
    assert (response.status_code, response.headers["content-type"]) == (200, WHOLE)
    whole = response.json()
    assert whole["outcome"]["kind"] == "exception"
    assert (whole["outcome"]["name"], whole["outcome"]["line"]) == ("TypeError", 1)
    assert whole["logs"] == [{"level": "warn", "text": "w"}]
    assert set(whole["usage"]) == {"cpu_ms", "wall_ms", "peak_memory_bytes"}
    assert (whole["limits"]["cpu_ms"], whole["limits"]["memory_bytes"]) == (50, 128 << 20)
    response = web.post("/exec", json={"code": code, "limits": {"cpu_ms": 1700}}, headers={"accept": WHOLE})
    assert (response.json()["limits"]["cpu_ms"], response.json()["limits"]["wall_ms"]) == (1700, 3400)


def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return the events of a complete response."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_events(web: httpx.Client) -> None:
    """Accept: text/event-stream returns each console line as an event, and then the outcome."""
    code = "console.log('a\\nb'); console.error('c'); return {d: 1}"
    events = events_of(web.post("/exec", json={"code": code}, headers={"accept": "text/event-stream"}))
    assert [name for name, _ in events] == ["log", "log", "finished"]
    assert events[0][1] == {"level": "log", "text": "a\nb"}
    assert events[2][1]["outcome"] == {"kind": "ok", "value": {"d": 1}}


def test_console_lines_are_sent_during_the_run(web: httpx.Client) -> None:
    """The first console line arrives before the run ends."""
    code = "console.log('first'); await new Promise((go) => setTimeout(go, 700)); return 2"
    body = {"code": code, "engine": "deno", "limits": {"wall_ms": 5000}}
    with web.stream("POST", "/exec", json=body, headers={"accept": "text/event-stream"}) as response:
        parts = response.iter_text()
        assert "first" in next(parts)
        rest = "".join(parts)
    assert "event: finished" in rest


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("Application/Vnd.Promptlog+JSON", WHOLE),
        ("application/json, application/vnd.promptlog+json;q=0.1", WHOLE),
        ("*/*, text/event-stream;q=0", "application/json"),
        ("*/*, text/event-stream; q=0.000", "application/json"),
    ],
)
def test_accept(web: httpx.Client, accept: str, content_type: str) -> None:
    """Media types are compared without regard to case, and `q=0` excludes a type."""
    response = web.post("/exec", json={"code": "return 1"}, headers={"accept": accept})
    assert response.headers["content-type"] == content_type


def test_a_refused_run_has_no_events(web: httpx.Client) -> None:
    """A run that is refused before it starts has an error status, also if events were requested."""
    response = web.get("/run/" + "0" * 64, headers={"accept": "text/event-stream"})
    assert problem(response)["status"] == 404


@pytest.mark.parametrize(
    ("code", "limits", "status", "kind"),
    [
        ("const x = ;", {}, 422, "syntax_error"),
        ("for (;;);", {}, 504, "cpu_limit"),
        ("const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))", {"cpu_ms": 2000}, 507, "memory_limit"),
        ("return 'x'.repeat(2000)", {"result_bytes": 1000}, 507, "output_limit"),
    ],
)
def test_limits_and_syntax_errors(web: httpx.Client, code: str, limits: dict[str, int], status: int, kind: str) -> None:
    """A limit or a syntax error is answered with problem details, and a status that depends on its kind."""
    response = web.post("/exec", json={"code": code, "limits": limits})
    assert (response.status_code, problem(response)["code"]) == (status, kind)


def test_a_wall_limit_is_504(web: httpx.Client) -> None:
    """The wall limit has the same status as the CPU limit."""
    body = {"code": "await new Promise((go) => setTimeout(go, 9000))", "engine": "deno", "limits": {"wall_ms": 300}}
    response = web.post("/exec", json=body)
    assert (response.status_code, problem(response)["code"]) == (504, "wall_limit")


def test_syntax_errors_have_line_and_column(web: httpx.Client) -> None:
    """A syntax error is status 422 with line and column, for submit and exec."""
    for path in ("/submit", "/exec"):
        body = problem(web.post(path, json={"code": "const a = 1;\nconst b = ;"}))
        assert (body["status"], body["code"], body["line"]) == (422, "syntax_error", 2)
        assert body["detail"] == "SyntaxError: unexpected token in expression: ';'"
        assert body["column"] == 11


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/run/" + "0" * 64, 404, "not_found"),
        ("GET", "/run/@nobody", 404, "not_found"),
        ("GET", "/run/xyz", 400, "bad_request"),
        ("DELETE", "/programs/" + "0" * 64, 404, "not_found"),
        ("GET", "/programs?limit=0", 400, "bad_request"),
        ("GET", "/programs?limit=9999999999999", 400, "bad_request"),
        ("GET", "/programs?after=nonsense", 400, "bad_request"),
        ("GET", "/nothing", 404, "no_path"),
        ("GET", "/run/", 404, "no_path"),
        ("GET", "/submit", 405, "bad_method"),
        ("PUT", "/run/" + "0" * 64, 405, "bad_method"),
        ("PATCH", "/programs", 405, "bad_method"),
        ("GET", "/static/../app.py", 404, "no_path"),
        ("GET", "/static/%2e%2e/app.py", 404, "no_path"),
        ("GET", "/run/%zz", 400, "bad_target"),
        ("GET", "/run/%ff", 400, "bad_target"),
        ("GET", "/run/" + "0" * 64 + "?prompt=%", 400, "bad_target"),
        ("GET", "/run/" + "0" * 64 + "?prompt=%c3%28", 400, "bad_target"),
        ("GET", "/run/%00", 400, "bad_target"),
        ("GET", "/run/@nobody?promt=a", 400, "bad_request"),
        ("GET", "/run/@nobody?prompt=a&Engine=deno", 400, "bad_request"),
        ("GET", "/run/@nobody?%70rompt=a&=", 400, "bad_request"),
        ("GET", "/run/@nobody?%70rompt=a&", 404, "not_found"),
        ("POST", "/run/@nobody?prompt=a", 400, "bad_request"),
        ("POST", "/exec?cpu_ms=9", 400, "bad_request"),
        ("POST", "/submit?name=x", 400, "bad_request"),
        ("GET", "/programs?limits=5", 400, "bad_request"),
        ("GET", "/programs/@nobody?source=1", 400, "bad_request"),
        ("DELETE", "/programs/@nobody?force=1", 400, "bad_request"),
    ],
)
def test_refusals(web: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    """Each invalid request is refused with the status and the code of this table."""
    request = web.build_request(method, "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    response = web.send(request)
    assert (response.status_code, problem(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"code": "return 1"}', "text/plain", 415),
        (b'{"code": "return 1"}', "application/x-www-form-urlencoded", 415),
        (b'{"code": "return 1"', "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"code": 1}', "application/json", 400),
        (b'{"kode": "return 1"}', "application/json", 400),
        (b'{"code": "return 1", "prompt": null}', "application/json", 400),
        (b'{"code": "return 1", "limits": {"cpu_ms": 0}}', "application/json", 400),
        (b'{"code": "return 1", "limits": {"cpu_ms": 99999999}}', "application/json", 400),
        (b'{"code": "return 1", "env": [1]}', "application/json", 400),
        (b'{"code": "return 1", "engine": "v9"}', "application/json", 400),
        (b'{"code": "\xff"}', "application/json", 400),
        (b'{"code": "return 1", "env": {"a": "\xff"}}', "application/json", 400),
        (b'{"code": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"code": "' + b"x" * 1_100_000 + b'"}', "application/json", 413),
        (b'{"code": "return 1", "prompt": "' + b"x" * 1_100_000 + b'"}', "application/json", 413),
        (b'{"code": "' + b"x" * 9_000_000 + b'"}', "application/json", 413),
    ],
)
def test_invalid_bodies(web: httpx.Client, body: bytes, content_type: str, status: int) -> None:
    """A body that is too large, not JSON, or of a wrong shape is refused, and the next request is served."""
    response = web.post("/exec", content=body, headers={"content-type": content_type})
    assert problem(response)["status"] == status, response.text
    assert web.post("/exec", json={"code": "return 1"}).json() == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "tells"),
    [
        ("GET", "/run/@nobody?promt=a", None, "'promt' is unknown; there is: prompt, engine"),
        ("POST", "/run/@nobody?prompt=a", None, "takes its values in the body"),
        ("GET", f"/programs?{'x' * 9000}", None, f"'{'x' * 40}' is unknown; there is: after, limit"),
        ("POST", "/exec", {"kode": ""}, "there is: prompt, env, engine, isolation, limits, code, language"),
        ("POST", "/exec", {"code": "", "limits": {"cpu": 1}}, "there is: cpu_ms, wall_ms, memory_bytes,"),
        ("POST", "/submit", {"code": "", "name": "a b"}, "`name` must begin with a letter or a digit"),
        ("POST", "/submit", {"code": "", "x" * 9000: 1}, "... "),
    ],
)
def test_refusals_name_what_is_allowed(
    web: httpx.Client, method: str, path: str, body: dict[str, Any] | None, tells: str
) -> None:
    """A refusal lists the allowed parameters or members, or the rule for names, in a short message."""
    detail = problem(web.request(method, path, json=body))["detail"]
    assert tells in detail
    assert len(detail) < 500


def test_a_chunked_body_has_the_same_limit(web: httpx.Client) -> None:
    """The size limit also applies to a body without Content-Length."""
    parts = (b"x" * 100_000 for _ in range(100))
    headers = {"content-type": "application/json"}
    try:
        assert web.post("/exec", content=parts, headers=headers).status_code == 413
    except httpx.WriteError:
        pass  # the server closed the connection before the client sent everything
    assert web.get("/healthz").status_code == 200


def test_head_runs_nothing(web: httpx.Client) -> None:
    """HEAD is refused where GET runs a program, and does not run the program."""
    hash = submitted(web, "return 'head'")
    response = web.head(f"/run/{hash}")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST, OPTIONS")
    assert web.get(f"/programs/{hash}").json()["runs"] == 0


@pytest.mark.parametrize(
    "path", ["/", "/static/page.css", "/healthz", "/readyz", "/openapi.json", "/programs?limit=1", "/programs/HASH"]
)
def test_head_is_get_without_the_body(web: httpx.Client, path: str) -> None:
    """Where GET runs nothing, HEAD returns the status and headers of GET without a body."""
    path = path.replace("HASH", submitted(web, "return 'head of a program'"))
    got, head = web.get(path), web.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag"):
        assert head.headers.get(name) == got.headers.get(name)
    assert web.head("/programs/@nobody").status_code == 404
    assert web.get("/healthz").json() == {"status": "alive"}


def test_options_lists_the_methods(web: httpx.Client) -> None:
    """OPTIONS returns the allowed methods, and no CORS header."""
    response = web.options("/programs/x", headers={"access-control-request-method": "DELETE"})
    assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, DELETE, OPTIONS")
    assert not any(name.startswith("access-control") for name in response.headers)


def test_the_list_is_paged(web: httpx.Client) -> None:
    """The list comes in pages, and `next` of each page leads to the next page."""
    hashes = [submitted(web, f"return {number} // page") for number in range(5)]
    seen: list[str] = []
    after: str | None = None
    while not set(hashes) <= set(seen):
        page = web.get("/programs", params={"limit": 2, **({"after": after} if after else {})}).json()
        assert len(page["programs"]) <= 2
        seen += [row["hash"] for row in page["programs"]]
        after = page.get("next")
        assert after is not None or set(hashes) <= set(seen)
    assert len(seen) == len(set(seen))


def test_etag(web: httpx.Client) -> None:
    """A request with the current ETag is answered with 304, and with 200 after the program has run."""
    hash = submitted(web, "return 'etag'")
    tag = web.get(f"/programs/{hash}").headers["etag"]
    assert web.get(f"/programs/{hash}", headers={"if-none-match": f'"x", W/{tag}'}).status_code == 304
    web.get(f"/run/{hash}")
    assert web.get(f"/programs/{hash}", headers={"if-none-match": tag}).status_code == 200


def test_health(web: httpx.Client) -> None:
    """/healthz reports on the server, and /readyz on the daemon."""
    assert web.get("/healthz").json() == {"status": "alive"}
    assert web.get("/readyz").json()["status"] == "ready"


def test_prompts_of_any_text(web: httpx.Client) -> None:
    """A program receives exactly the prompt that was sent in a query or a body."""
    hash = submitted(web, "return [...prompt].map((c) => c.codePointAt(0))")
    for prompt in ("", "+ %", "a\r\nb\0c", "é\u0301ß", "👩‍👩‍👧", "\ufffd\uffff"):
        points = [ord(c) for c in prompt]
        assert web.get(f"/run/{hash}", params={"prompt": prompt}).json() == points
        assert web.post(f"/run/{hash}", json={"prompt": prompt}).json() == points
    assert web.get(f"/run/{hash}?prompt=a+b").json() == [97, 32, 98]


def test_responses_can_not_run_in_a_browser(web: httpx.Client) -> None:
    """Security headers keep a browser from reading a result as HTML, and other sites from embedding it."""
    response = web.post("/exec", json={"code": "return '<script>alert(1)</script>'"})
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    policy = web.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
