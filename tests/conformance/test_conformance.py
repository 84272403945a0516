"""One table of programs with the results of both engines, and where they differ (summary in docs/engines.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, RequestRefused, RunResult
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import Ok, ProgramException
from tests.few import a_few

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").read_text("utf-8").splitlines()
]


_LIMITS = LimitsAsked(cpu_ms=1000)
"""Enough on any machine, because this table tests results and not limits."""


def expected(case: dict[str, Any], engine: str) -> dict[str, Any]:
    """Return the result that the table has for this engine."""
    found: dict[str, Any] = case["expect"] if "expect" in case else case["differs"][engine]
    return found


def _check(expect: dict[str, Any], result: RunResult) -> None:
    outcome = result.outcome
    if "value" in expect:
        assert isinstance(outcome, Ok), outcome
        assert result.value == expect["value"]
    elif "exception" in expect:
        assert isinstance(outcome, ProgramException), outcome
        assert outcome.name == expect["exception"], outcome
    else:
        assert outcome.__struct_config__.tag == expect["kind"], outcome
    if "message" in expect:
        assert getattr(outcome, "message", None) == expect["message"], outcome
    if "logs" in expect:
        assert [[line.level, line.text] for line in result.logs] == expect["logs"]


def _on_engines() -> Iterator[Any]:
    """Each case on both engines. `make test` runs a case on both if its results differ, otherwise on one, in turn."""
    for number, case in enumerate(CASES):
        for index, engine in enumerate(("quickjs", "deno")):
            marks = () if "differs" in case or index == number % 2 else (pytest.mark.long,)
            yield pytest.param(case, engine, id=f"{case['id']}-{engine}", marks=marks)


@pytest.mark.parametrize(("case", "engine"), list(_on_engines()))
def test_case(client: Client, case: dict[str, Any], engine: Any) -> None:
    """The program gives the result that the table has for this engine."""
    language: Any = "typescript" if case.get("ts") and engine == "deno" else None
    result = client.run_source(
        case["source"], case.get("prompt", ""), env=case.get("env"), engine=engine, language=language, limits=_LIMITS
    )
    _check(expected(case, engine), result)


def _in_typescript(case: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the case as TypeScript: stacks name program.ts."""
    if case["id"] in _MORE_IN_TYPESCRIPT:
        return {"kind": "ok"}
    found: dict[str, Any] = json.loads(json.dumps(expected(case, "deno")).replace("program.js", "program.ts"))
    return found


_MORE_IN_TYPESCRIPT = {"class-decorator-refused", "module-import-meta-in-body", "ts-syntax-in-a-javascript-program"}
"""Syntax errors in JavaScript that are valid TypeScript."""


@pytest.mark.parametrize("case", a_few(case for case in CASES if not case.get("ts")), ids=lambda case: case["id"])
def test_javascript_runs_as_typescript(client: Client, case: dict[str, Any]) -> None:
    """JavaScript submitted as TypeScript gives the same results, since Deno's TypeScript parser accepts all of it."""
    result = client.run_source(
        case["source"], case.get("prompt", ""), env=case.get("env"), language="typescript", limits=_LIMITS
    )
    _check(_in_typescript(case), result)


@pytest.mark.parametrize("case", a_few(CASES, also=lambda case: "ts" in case), ids=lambda case: case["id"])
def test_stored_typescript_gives_the_same_result(client: Client, case: dict[str, Any]) -> None:
    """A program whose types were removed at submit gives the same result as a direct run."""
    expect = _in_typescript(case)
    if expect.get("kind") == "syntax_error":
        with pytest.raises(RequestRefused, match="SyntaxError") as refused:
            client.submit(case["source"], language="typescript")
        if "message" in expect:
            assert refused.value.detail["syntax_error"] == expect["message"]
        return
    hash = client.submit(case["source"], language="typescript").hash
    try:
        _check(expect, client.run(hash, case.get("prompt", ""), env=case.get("env"), limits=_LIMITS))
    finally:
        client.remove(hash)


def test_the_table_is_complete() -> None:
    """Each case has a unique id and a result for each engine."""
    assert len({case["id"] for case in CASES}) == len(CASES) >= 150
    for case in CASES:
        assert ("expect" in case) != ("differs" in case)
        assert expected(case, "quickjs")
        assert expected(case, "deno")
