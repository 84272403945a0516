"""Generates the OpenAPI document of the HTTP API: `python -m promptlogctl.http.openapi`. `make docs` runs it.

The schemas are those of `schemas.py`. The paths are listed here, and a test compares them with the routes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from promptlogctl.client import LogLine, RunResult
from promptlogctl.http import schemas
from promptlogctl.http.problems import MEDIA_TYPE, STATUSES
from promptlogctl.http.runs import EVENTS_TYPE, WHOLE_TYPE

_STRUCTS = (
    schemas.RunBody,
    schemas.ExecBody,
    schemas.SubmitBody,
    schemas.SubmitAnswer,
    RunResult,
    schemas.ErrorAnswer,
    schemas.ProgramAnswer,
    schemas.ListAnswer,
    schemas.RemovedAnswer,
    LogLine,
)
_EVERYWHERE = (400, 401, 403, 429, 431, 502, 503, 504)
_RUN_HEADERS = {
    "Promptlog-Outcome": ("string", "How the run ended: `ok`, `exception`, `cpu_limit` and so on."),
    "Promptlog-Hash": ("string", "SHA-256 of the program, 64 hex digits."),
    "Promptlog-Engine": ("string", "Name and version of the engine."),
    "Promptlog-Cpu-Ms": ("number", "CPU time of the run, in ms."),
    "Promptlog-Wall-Ms": ("number", "Wall time of the run, in ms."),
    "Promptlog-Peak-Memory-Bytes": ("integer", "Peak memory of the run."),
}


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    schemas["Problem"] = _problem_schema()
    for name in ("RunBody", "ExecBody"):
        schemas[name]["properties"]["env"] = {"type": "object", "description": "The `env` of the program."}
    description = "Run untrusted JavaScript, each run in its own jailed process."
    found = {
        "openapi": "3.1.0",
        "info": {"title": "promptlog", "version": "1", "description": description, "license": {"name": "MIT"}},
        "security": [{}, {"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "If the server has tokens."}
            },
        },
    }
    # JSON Schema's regular expressions do not have Python's \Z.
    plain: dict[str, Any] = json.loads(json.dumps(found).replace(r"\\Z", "$"))
    return plain


def _paths() -> dict[str, Any]:
    program = _parameter("path", "program", "A hash, the first 8 or more digits of a hash, or @NAME.", required=True)
    program["schema"] |= {"minLength": 1, "maxLength": 128, "pattern": "^(@[A-Za-z0-9._-]+|[0-9a-f]{8,64})$"}
    after = _parameter("query", "after", "The `next` of the previous page.")
    limit = _parameter(
        "query", "limit", "Programs on a page.", schema={"type": "integer", "minimum": 1, "maximum": 1000}
    )
    code = _parameter("query", "code", "`1`: include the program's text.", schema={"enum": ["0", "1"]})
    prompt = _parameter("query", "prompt", "The `prompt` of the program.")
    engine = _parameter("query", "engine", "Default: the program's own.", schema={"enum": ["quickjs", "deno"]})
    run = (404, 409, 413, 422, 507)
    return {
        "/submit": {
            "post": _operation(
                "submit", "Store a program.", {200: _json("SubmitAnswer")}, (413, 415, 408, 422), body="SubmitBody"
            )
        },
        "/run/{program}": {
            "parameters": [program],
            "get": _operation("run", "Run a stored program.", _run_answers(), run, parameters=[prompt, engine]),
            "post": _operation("runWith", "Run a stored program.", _run_answers(), (*run, 408, 415), body="RunBody"),
        },
        "/exec": {
            "post": _operation(
                "exec",
                "Run a program without storing it.",
                _run_answers(),
                (408, 413, 415, 422, 507),
                body="ExecBody",
            )
        },
        "/programs": {
            "get": _operation(
                "list",
                "List the stored programs, newest first.",
                {200: _json("ListAnswer")},
                (),
                parameters=[after, limit],
            )
        },
        "/programs/{program}": {
            "parameters": [program],
            "get": _operation(
                "show",
                "Describe a program. Supports `ETag` and `If-None-Match`.",
                {200: _json("ProgramAnswer"), 304: {"description": "Not modified."}},
                (404, 409),
                parameters=[code],
            ),
            "delete": _operation(
                "remove", "Remove a program and its names.", {200: _json("RemovedAnswer")}, (404, 409)
            ),
        },
        "/healthz": {"get": _operation("alive", "This server answers.", {200: _status()}, ())},
        "/readyz": {"get": _operation("ready", "The daemon answers as well.", {200: _status()}, ())},
    }


def _operation(
    id: str,
    summary: str,
    answers: dict[int, Any],
    problems: tuple[int, ...],
    *,
    body: str | None = None,
    parameters: list[Any] | None = None,
) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": _reference("Problem")}}
    refused = {status: {"description": STATUSES[status], "content": content} for status in (*_EVERYWHERE, *problems)}
    made: dict[str, Any] = {"operationId": id, "summary": summary}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
    made["responses"] = {str(status): answer for status, answer in sorted({**refused, **answers}.items())}
    return made


def _run_answers() -> dict[int, Any]:
    headers = {name: {"description": text, "schema": {"type": kind}} for name, (kind, text) in _RUN_HEADERS.items()}
    events = "Events: `log` for each console line, then `finished` or `problem`."
    ok = {
        "description": "The result's JSON. Depending on Accept: an object with all about the run, or its events.",
        "headers": headers,
        "content": {
            "application/json": {"schema": {"description": "The result."}},
            WHOLE_TYPE: {"schema": _reference("RunResult")},
            EVENTS_TYPE: {"schema": {"type": "string", "description": events}},
        },
    }
    own = {
        "description": "The program threw, or returned no result.",
        "headers": headers,
        "content": {"application/json": {"schema": _reference("ErrorAnswer")}},
    }
    return {200: ok, 500: own}


def _json(name: str) -> dict[str, Any]:
    return {"description": "Success.", "content": {"application/json": {"schema": _reference(name)}}}


def _status() -> dict[str, Any]:
    schema = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    return {"description": "Success.", "content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(
    where: str, name: str, description: str, *, schema: dict[str, Any] | None = None, required: bool = False
) -> dict[str, Any]:
    shape = {"type": "string"} if schema is None else schema
    return {"in": where, "name": name, "description": description, "required": required, "schema": shape}


def _problem_schema() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer"}
    members = {"type": text, "title": text, "status": number, "detail": text, "code": text, "error": text}
    more = {"line": number, "column": number, "on": text, "matches": {"type": "array", "items": text}}
    return {
        "type": "object",
        "description": "Problem details (RFC 9457). `code` is machine-readable; `error` repeats `detail`.",
        "required": list(members),
        "properties": {**members, **more},
    }


def main() -> None:
    """Write the document to standard output."""
    sys.stdout.write(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
