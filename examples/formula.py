"""An HTTP service whose users store and evaluate formulas, such as `price * count`. promptlog runs them.

    python examples/formula.py [PORT]            # needs a running promptlogd
    curl -d 'price * (1 - discount)' http://127.0.0.1:8080/            {"formula": HASH}
    curl -d '{"price": 20, "discount": 0.5}' http://127.0.0.1:8080/HASH    {"value": 10}

docs/formulas.md explains the design.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from promptlogctl.client import BadResult, Client, LimitsAsked, RequestRefused

FIELDS = ("price", "count", "discount")
BEFORE, AFTER = f"const {{ {', '.join(FIELDS)} }} = env; return (\n", "\n);"
LIMITS = LimitsAsked(cpu_ms=20, memory_bytes=16 << 20, result_bytes=1000)


def problem(text: str, why: str, line: int | None, column: int | None) -> dict[str, object]:
    """Return an error with its position in the user's text, which starts in the second line of the program."""
    lines = text.split("\n")
    if line is None or column is None:
        return {"error": why}
    if not 2 <= line <= len(lines) + 1:  # the error is after the text, so the text is incomplete
        line, column = len(lines) + 1, len(lines[-1]) + 1
    return {"error": why, "line": line - 1, "column": column}


def check(client: Client, text: str) -> tuple[int, dict[str, object]]:
    """Store a formula. Return a status code and an answer, which has the reason if the formula does not parse."""
    try:
        return 201, {"formula": client.submit(BEFORE + text + AFTER).hash}
    except RequestRefused as refused:
        detail = refused.detail
        if "syntax_error" not in detail:
            raise
        return 400, problem(text, detail["syntax_error"], detail.get("line"), detail.get("column"))


def evaluate(client: Client, hash: str, row: dict[str, object]) -> tuple[int, dict[str, object]]:
    """Evaluate a formula for a row of fields. Return a status code and the value, or an error with its position."""
    run = client.run(hash, env=row, limits=LIMITS)
    if run.ok:
        return 200, {"value": run.value}
    if isinstance(run.outcome, BadResult):
        return 422, {"error": "the formula has no value"}
    text = (client.show(hash, source=True).source or "")[len(BEFORE) : -len(AFTER)]
    place = (getattr(run.outcome, name, None) for name in ("line", "column"))
    return 422, problem(text, run.describe(), *place)


class Handler(BaseHTTPRequestHandler):
    """POST / stores the formula in the body. POST /HASH evaluates a formula for the JSON object in the body."""

    client = Client()

    def do_POST(self) -> None:
        """Serve one request."""
        try:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), 10_000)).decode()
            hash = self.path[1:]
            status, answer = evaluate(self.client, hash, json.loads(body)) if hash else check(self.client, body)
        except RequestRefused as refused:  # no such formula, or the daemon is busy
            status, answer = (503 if refused.code == "busy" else 404), {"error": refused.message}
        except (TypeError, ValueError) as error:
            status, answer = 400, {"error": str(error)}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
