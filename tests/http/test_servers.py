"""The application on an ASGI server other than uvicorn, and the OpenAPI document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from promptlogctl.http import Application, Settings
from promptlogctl.http.application import openapi_text
from promptlogctl.http.openapi import document
from tests.daemon.processes import until
from tests.http.servers import free_port


@pytest.mark.parametrize("worker", ["trio", "asyncio"])
def test_hypercorn(socket_path: Path, worker: str) -> None:
    """Hypercorn with trio and with asyncio serves results and events, also after a client disconnected."""
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "-k", worker, "-b", f"127.0.0.1:{port}", "promptlogctl.http:app"]
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as web:
            until(lambda: _answers(web))
            assert web.post("/exec", json={"code": "return [1]"}).json() == [1]
            body = {"code": "console.log('a'); return 2"}
            events = web.post("/exec", json=body, headers={"accept": "text/event-stream"}).text
            assert events.count("event: ") == 2
            assert web.get("/run/%zz").status_code == 400
            with pytest.raises(httpx.ReadTimeout):
                web.post("/exec", json={"code": "for (;;);", "limits": {"cpu_ms": 5000}}, timeout=0.3)
            assert web.post("/exec", json={"code": "return 3"}).json() == 3
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert "Traceback" not in said


def _answers(web: httpx.Client) -> bool:
    try:
        return web.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_openapi_document_is_current() -> None:
    """The OpenAPI document in the package is what the code generates."""
    assert json.loads(openapi_text()) == document()


def test_the_openapi_document_has_every_path(socket_path: Path) -> None:
    """The OpenAPI document has every path that the application serves, except the page and the document itself."""
    served = set(Application(Settings(socket=socket_path)).routes)
    assert served - set(document()["paths"]) == {"/", "/static/{path}", "/openapi.json"}


@pytest.mark.parametrize("examples", [8, pytest.param(25, marks=pytest.mark.long)])
def test_requests_generated_from_the_openapi_document(url: str, examples: int) -> None:
    """Requests that schemathesis generates from the document get the documented responses and no server error."""
    schema = schemathesis.openapi.from_url(f"{url}openapi.json")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        check = given(case=found.ok().as_strategy())(_valid(url))
        settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)(check)()


def _valid(url: str) -> Callable[[schemathesis.Case[Any]], None]:
    def call(case: schemathesis.Case[Any]) -> None:
        # A generated program need not parse, and a program's own error is status 500. A failure of the server would be
        # found by its content type, which the document does not have.
        case.call_and_validate(base_url=url.rstrip("/"), excluded_checks=[positive_data_acceptance, not_a_server_error])

    return call
