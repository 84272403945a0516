"""The example service for formulas, run as a process with a real daemon."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/formula.py"


@pytest.fixture
def service(socket_path: Path) -> Iterator[httpx.Client]:
    """The service, started as its docstring says."""
    environment = {**os.environ, "PROMPTLOG_SOCKET": str(socket_path), "PYTHONPATH": str(EXAMPLE.parents[1])}
    process = subprocess.Popen(
        [sys.executable, EXAMPLE, "0"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        url = process.stdout.readline().removeprefix("listening on ").strip()
        with httpx.Client(base_url=url, timeout=20) as web:
            yield web
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _kept(service: httpx.Client, formula: str) -> str:
    response = service.post("/", content=formula)
    assert response.status_code == 201, response.text
    return str(response.json()["formula"])


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("price * count * (1 - discount)", 54),
        ("price // per unit", 20),
        ("[price, count].map((n) =>\n  n * 2)", [40, 6]),
        ("'é' + price", "é20"),
    ],
)
def test_a_formula_has_a_value(service: httpx.Client, formula: str, value: object) -> None:
    """A stored formula is evaluated for a row of fields."""
    row = {"price": 20, "count": 3, "discount": 0.1}
    assert service.post(f"/{_kept(service, formula)}", json=row).json() == {"value": value}


@pytest.mark.parametrize(
    ("formula", "line", "column"),
    [
        ("price * ;", 1, 9),
        ("price +\n  * count", 2, 3),
        ("(price", 1, 7),
        ("price *\n", 2, 1),
        ("", 1, 1),
    ],
)
def test_a_formula_with_a_syntax_error(service: httpx.Client, formula: str, line: int, column: int) -> None:
    """A formula with a syntax error is refused with the position in the user's text."""
    response = service.post("/", content=formula)
    told = response.json()
    assert (response.status_code, told.get("line"), told.get("column")) == (400, line, column), told


def test_a_formula_that_fails(service: httpx.Client) -> None:
    """An error during a run is reported, with the position in the user's text if there is one."""
    for formula, tells, place in (
        ("price +\n  pice", "ReferenceError: pice is not defined", (2, 3)),
        ("null.x", "TypeError: Cannot read properties of null (reading 'x')", (1, 6)),
        ("(() => { for (;;); })()", "CPU limit of 20 ms", (None, None)),
        ("env.nothing", "the formula has no value", (None, None)),
    ):
        response = service.post(f"/{_kept(service, formula)}", json={"price": 1})
        told = response.json()
        assert response.status_code == 422
        assert tells in told["error"]
        assert (told.get("line"), told.get("column")) == place, told
    assert service.post(f"/{'0' * 64}", json={}).status_code == 404
    assert service.post(f"/{_kept(service, '1')}", content="[1]").status_code == 400


def test_the_document_shows_the_wrapper_of_a_formula() -> None:
    """docs/formulas.md shows the code that the service puts before and after a formula."""
    text = (EXAMPLE.parents[1] / "docs/formulas.md").read_text("utf-8")
    example = runpy.run_path(str(EXAMPLE))
    assert f"```js\n{example['BEFORE']}price * (1 - discount){example['AFTER']}\n```" in text
