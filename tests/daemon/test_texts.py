"""The first line of a program, and errors for texts that cannot be programs: the same on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from promptlogctl.client import Client, RequestRefused
from sandbox.outcome import ProgramSyntaxError

_ENGINES = [("quickjs", "javascript"), ("deno", "javascript"), ("deno", "typescript")]

_HASHBANGS = [
    "#!/usr/bin/env node\nreturn 1",
    "#! }\nreturn 1",
    "#!/usr/bin/env -S deno run\r\nexport default () => 1",
    "#!\n\nconst result = 1",
]


@pytest.mark.parametrize(("engine", "language"), _ENGINES)
@pytest.mark.parametrize("source", _HASHBANGS)
def test_a_hashbang_line_is_a_comment(client: Client, source: str, engine: Any, language: Any) -> None:
    """A program with a hashbang line runs, directly and after submit, and is stored unchanged."""
    assert client.run_source(source, engine=engine, language=language).value == 1
    hash = client.submit(source, engine=engine, language=language).hash
    try:
        assert client.run(hash).value == 1
        assert client.show(hash, source=True).source == source
    finally:
        client.remove(hash)


def test_stored_typescript_may_begin_with_a_hashbang(client: Client) -> None:
    """A run of stored TypeScript with a hashbang uses no TypeScript parser, and places are right."""
    source = "#!/usr/bin/env deno\nconst n: number = 1; throw new Error('x' + n)"
    hash = client.submit(source, language="typescript").hash
    try:
        outcome: Any = client.run(hash).outcome
        assert (outcome.name, outcome.line, outcome.column) == ("Error", 2, 28)
    finally:
        client.remove(hash)


@pytest.mark.parametrize(("engine", "language"), _ENGINES)
def test_places_below_a_hashbang(client: Client, engine: Any, language: Any) -> None:
    """A hashbang line counts as a line in places."""
    outcome = client.run_source("#!/usr/bin/node\nlet x = ;", engine=engine, language=language).outcome
    assert isinstance(outcome, ProgramSyntaxError)
    assert (outcome.line, outcome.column) == (2, 9)
    # On any other line, a hashbang is a syntax error.
    outcome = client.run_source("\n#!x\nreturn 1", engine=engine, language=language).outcome
    assert isinstance(outcome, ProgramSyntaxError)


_FENCES = [
    ("```js\nconst words = prompt.split(' ');\nreturn words.length;\n```", (1, 1)),
    ("```\nreturn 1\n```\n", (1, 1)),
    ("\n \n\t```ts\nexport default () => 1\n\t```", (3, 2)),
    ("Here is the program:\n\n```js\nreturn 1\n```\nIt returns 1.", (3, 1)),
    ("return 1;\n```", (2, 1)),
    ("~~~js\nlet x = 1;\nreturn x;\n~~~", (1, 1)),
]


@pytest.mark.parametrize(("engine", "language"), _ENGINES)
@pytest.mark.parametrize(("source", "place"), _FENCES)
def test_a_text_in_a_markdown_fence(
    client: Client, source: str, place: tuple[int, int], engine: Any, language: Any
) -> None:
    """A Markdown fence is reported as a syntax error with its position, even if JavaScript can parse its backticks."""
    with pytest.raises(RequestRefused, match="in a Markdown fence: leave out the lines") as refused:
        client.submit(source, engine=engine, language=language)
    assert (refused.value.detail["line"], refused.value.detail["column"]) == place
    outcome = client.run_source(source, engine=engine, language=language).outcome
    assert isinstance(outcome, ProgramSyntaxError)
    assert outcome.message.startswith("the program is in a Markdown fence: ")
    assert (outcome.line, outcome.column) == place


@pytest.mark.parametrize(("engine", "language"), _ENGINES)
def test_template_literals_are_not_fences(client: Client, engine: Any, language: Any) -> None:
    """A program that produces Markdown runs, and a syntax error in a program without a fence keeps its message."""
    source = "const s = `a\n\\`\\`\\`js\nx\n~~~\n`; return s.length"
    assert client.run_source(source, engine=engine, language=language).value == 14
    outcome: Any = client.run_source(source + "; let y = ;", engine=engine, language=language).outcome
    assert "fence" in outcome.message  # three tildes inside a template, in a program that does not parse
    outcome = client.run_source("return `` + ;", engine=engine, language=language).outcome
    assert isinstance(outcome, ProgramSyntaxError)
    assert "fence" not in outcome.message


_IMPORTS = [
    ("import { Hono } from 'hono';\nexport default () => 1;", (1, 22)),
    ("const a = 1;\nimport {\n  b,\n} from './y.js';\nexport default () => a;", (4, 8)),
    ("export default () => 1;\nexport * from 'left-pad';", (2, 15)),
    ("import 'node:fs'; export default () => 1", (1, 8)),
    ("export default () => 1; import x from 'https://x.example/y.js'", (1, 39)),
]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize(("source", "place"), _IMPORTS)
def test_an_unresolved_import_is_a_syntax_error(
    client: Client, source: str, place: tuple[int, int], engine: Any
) -> None:
    """An import that cannot be resolved is a syntax error at submit, with the place of the module's name."""
    with pytest.raises(RequestRefused, match=r"SyntaxError: .*(import|module not found)") as refused:
        client.submit(source, engine=engine)
    assert (refused.value.detail["line"], refused.value.detail["column"]) == place
