"""TypeScript means the same whether the check removes its types at submit or Deno removes them for each run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, RequestRefused, RunResult
from tests.few import a_few

# Statements that are removed as a whole, between a line without a semicolon and one that could continue it.
_REMOVED = [
    "type T = number",
    "interface I { a: 1 }",
    "declare const q: any",
    "declare function q(): any",
    "function q(): any\nfunction q(): any { return 1 }",
    "type T = { a: number; b: string }",
    "declare class D { x: 1 }",
    "/* a comment */ type T = 1",
    "type T =\n  | 1\n  | 2",
    "type A = 1\ntype B = 2",
    "abstract class Z { abstract f(): void }",
    "declare let u: any, v: any",
]
_AS_IT_WAS = '[1,2,"function","2",1]'
_NEXT = {
    "[a, b] = [b, a]": '[2,1,"function","2",1]',
    "++b": '[1,3,"function","2",1]',
    **dict.fromkeys(("+1", "-1", "/2/g", "`x`", "(() => {})()"), _AS_IT_WAS),
}
"""The next line, and the result of the program with it."""

_OTHERS: list[tuple[str, str]] = json.loads((Path(__file__).parent / "typescript.json").read_text("utf-8"))
"""Programs, and the JSON of each result, or the kind of the outcome."""


def _outcomes(client: Client, source: str) -> tuple[str, str]:
    def told(run: RunResult) -> str:
        return run.json if run.ok else str(run.outcome.__struct_config__.tag)

    try:
        hash = client.submit(source, language="typescript").hash
    except RequestRefused as refused:
        kept = "syntax_error" if "syntax_error" in refused.detail else str(refused)
    else:
        kept = told(client.run(hash))
        client.remove(hash)
    return kept, told(client.run_source(source, language="typescript"))


_BETWEEN = ["\n", "\n;", ";\n"]


def _lines() -> Iterator[Any]:
    """Combine each statement with each next line; `make test` uses one of nine, with each separator in turn."""
    for first, removed in enumerate(_REMOVED):
        for second, (next_line, value) in enumerate(_NEXT.items()):
            for number, between in enumerate(_BETWEEN):
                marks = () if (first + second) % 9 == number else (pytest.mark.long,)
                yield pytest.param(removed, between, next_line, value, marks=marks)


@pytest.mark.parametrize(("removed", "between", "next_line", "value"), list(_lines()))
def test_removing_a_statement_does_not_join_its_neighbours(
    client: Client, removed: str, between: str, next_line: str, value: str
) -> None:
    """When a statement is removed, the line before it does not continue with the line after it."""
    source = (
        "let g = 1, i: any = 4\nlet a: any = 1, b: any = 2\nlet r: any = (x: any) => 'called', s: any = b\n"
        f"{removed}{between}{next_line}\nreturn [a, b, typeof r, String(s), g]"
    )
    assert _outcomes(client, source) == (value, value)


def test_the_table_is_complete() -> None:
    """typescript.json has at least 38 programs, and all but a few of them give a value."""
    assert len(_OTHERS) >= 38
    assert len([outcome for _, outcome in _OTHERS if outcome in ("syntax_error", "exception")]) <= 4


@pytest.mark.parametrize(("source", "outcome"), a_few([pytest.param(*case) for case in _OTHERS], each=2))
def test_stored_and_direct_runs_agree(client: Client, source: str, outcome: str) -> None:
    """Class members, types on separate lines and imports of types give the same result stored and run directly."""
    assert _outcomes(client, source) == (outcome, outcome)
