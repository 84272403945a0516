"""A text in TypeScript has one meaning, whether its types are taken off when it is kept or by Deno in each run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, RequestRefused, RunResult

# What is taken out as a whole, behind a line that has no semicolon and before one that could go on with it.
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
"""What the next line may be, and what the program then gives."""

_OTHERS: list[tuple[str, str]] = json.loads((Path(__file__).parent / "typescript.json").read_text("utf-8"))
"""Programs, and the JSON of what each gives, or how it ends."""


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
    """Every statement before every line; `make test` has one of nine, with each way of what is between in turns."""
    for first, removed in enumerate(_REMOVED):
        for second, (next_line, value) in enumerate(_NEXT.items()):
            for number, between in enumerate(_BETWEEN):
                marks = () if (first + second) % 9 == number else (pytest.mark.long,)
                yield pytest.param(removed, between, next_line, value, marks=marks)


@pytest.mark.parametrize(("removed", "between", "next_line", "value"), list(_lines()))
def test_a_line_ends_where_it_ended(client: Client, removed: str, between: str, next_line: str, value: str) -> None:
    """No statement that is taken out lets the line before it go on with the one behind."""
    source = (
        "let g = 1, i: any = 4\nlet a: any = 1, b: any = 2\nlet r: any = (x: any) => 'called', s: any = b\n"
        f"{removed}{between}{next_line}\nreturn [a, b, typeof r, String(s), g]"
    )
    assert _outcomes(client, source) == (value, value)


def test_the_table_is_whole() -> None:
    """The programs of typescript.json are there, and all but a few of them give a value."""
    assert len(_OTHERS) >= 38
    assert len([outcome for _, outcome in _OTHERS if outcome in ("syntax_error", "exception")]) <= 4


@pytest.mark.parametrize(("source", "outcome"), _OTHERS)
def test_kept_and_outright_are_the_same(client: Client, source: str, outcome: str) -> None:
    """Members of classes, types on lines of their own, imports of types give the same when kept as when run at once."""
    assert _outcomes(client, source) == (outcome, outcome)
