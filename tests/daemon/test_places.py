"""The place of a syntax error or exception is in the program's own text, not in code that wraps it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from promptlogctl.client import Client, Language
from sandbox.outcome import CpuLimit, ProgramException, ProgramSyntaxError

_PLACES = [
    # source; (line, column) on QuickJS, on Deno, and on Deno as TypeScript
    ("if (true) {\n  return 1\n", (3, 1), (3, 1), (2, 11)),
    ("\n\nif (prompt)", (3, 12), (3, 12), (3, 12)),
    ("return 1 +", (1, 11), (1, 11), (1, 11)),
    ("const x = [1, 2\n", (2, 1), (1, 16), (1, 16)),
    ("return (", (1, 9), (1, 9), (1, 9)),
    ("function f() {\n return 1\n\n\nf()", (5, 4), (5, 4), (5, 4)),
    ("const s = `é\nreturn s", (1, 11), (1, 11), (1, 11)),
    ("return 1 /*", (1, 10), (1, 10), (1, 9)),
    ("/* abc\n\nreturn 1", (1, 1), (1, 1), (1, 1)),
    ("return 1\n}\n", (2, 1), (2, 1), (2, 1)),
    ("return 'é' }", (1, 12), (1, 12), (1, 12)),
    ("return '漢\U0001f600' }", (1, 14), (1, 14), (1, 14)),
    ("let s = '漢\U0001f600'; let x = ;", (1, 24), (1, 24), (1, 24)),
    ("let s = '漢\U0001f600';\nexport default '漢\U0001f600' +", (2, 23), (2, 23), (2, 23)),
    ("let s = '\U0001f600'; export const x = s", (1, 15), (1, 15), (1, 15)),
    ("let s = '\U0001f600'; return (", (1, 23), (1, 23), (1, 23)),
    ("return 1 }}", (1, 10), (1, 11), (1, 11)),
    ("return 1\n}\nconst y = {a: 1}\n", (2, 1), (2, 1), (2, 1)),
    ("return 1\n}\n(globalThis.ran = 1)\n", (2, 1), (2, 1), (2, 1)),
    ("// nothing }\nif (prompt) { return 1\n}\n}\n// the end", (4, 1), (4, 1), (4, 1)),
    ("} function f() {", (1, 1), (1, 1), (1, 3)),
    ("} + function () {", (1, 1), (1, 1), (1, 18)),
    ("}); (function () {", (1, 1), (1, 2), (1, 2)),
    ("} async function __promptlog_loose() {}", (1, 1), (1, 1), (1, 1)),
    ("} let __promptlog_loose; {", (1, 1), (1, 1), (1, 3)),
    ("} class loose {} {", (1, 1), (1, 3), (1, 3)),
    ("export default function (p) {\n return 1\n", (3, 1), (3, 1), (2, 10)),
    ("\tlet b = ;", (1, 10), (1, 10), (1, 10)),
    ("\t\t\tlet s = '漢'; \tlet b = ;", (1, 26), (1, 26), (1, 26)),
    ("const s = 1; export default (p) => { const x = ; }", (1, 48), (1, 48), (1, 48)),
]


@pytest.mark.parametrize(("source", "quickjs", "deno", "typescript"), _PLACES)
def test_syntax_errors_are_placed_in_the_programs_own_text(
    client: Client,
    source: str,
    quickjs: tuple[int, int],
    deno: tuple[int, int],
    typescript: tuple[int, int],
) -> None:
    """An unclosed construct is reported at its start or at the end of the text; an extra bracket, at the bracket."""
    cases: tuple[tuple[str, Language, tuple[int, int]], ...] = (
        ("quickjs", "javascript", quickjs),
        ("deno", "javascript", deno),
        ("deno", "typescript", typescript),
    )
    for engine, language, place in cases:
        outcome = client.run_source(source, engine=engine, language=language).outcome
        assert isinstance(outcome, ProgramSyntaxError), (engine, language, outcome)
        assert (outcome.line, outcome.column) == place, (engine, language, outcome)
        assert "''" not in outcome.message


@pytest.mark.parametrize(
    ("source", "message", "place"),
    [
        ("const a: number = 1;\nconst a = 2;\n\n", "Identifier 'a' has already been declared", (2, 7)),
        ("interface A {\n x: number\n}\n\nbreak;\n", "Illegal break statement", (5, 1)),
        ("const y;\n", "Missing initializer in const declaration", (1, 7)),
        ("return /(/\n", "Invalid regular expression: /(/: Unterminated group", (1, 8)),
        ("function f() { await 1 }\n", None, (1, 16)),
        ("class A { f() { return this.#z } } // \U0001f600\n", None, (1, 28)),
        ("let s = '\U0001f600'; let s = 1\n", None, (1, 19)),
    ],
)
def test_early_errors_of_typescript_keep_v8s_message_and_place(
    client: Client, source: str, message: str | None, place: tuple[int, int]
) -> None:
    """An error that the TypeScript parser accepts and V8 rejects keeps V8's message, and is no missing bracket."""
    outcome = client.run_source(source, language="typescript").outcome
    assert isinstance(outcome, ProgramSyntaxError), outcome
    assert (outcome.line, outcome.column) == place
    assert message in (outcome.message, None)
    assert "Expected '}'" not in outcome.message


@pytest.mark.parametrize(
    ("engine", "language"), [("quickjs", "javascript"), ("deno", "javascript"), ("deno", "typescript")]
)
@pytest.mark.parametrize("head", ["", "export default () => {\n"], ids=["body", "module"])
def test_columns_count_utf16_units(client: Client, engine: str, language: Language, head: str) -> None:
    """Columns count UTF-16 code units after non-ASCII text, also in stored programs."""
    for text in ("漢\U0001f600", "abc"):
        source = f"{head}const s = '{text}'; throw new Error(s)" + ("\n}" if head else "") + f"//{engine}{language}"
        hash = client.submit(source, engine=engine, language=language).hash
        for result in (client.run(hash), client.run_source(source, engine=engine, language=language)):
            assert isinstance(result.outcome, ProgramException), result.outcome
            assert (result.outcome.line, result.outcome.column) == (2 if head else 1, 24)  # at `new`


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_finding_the_place_runs_nothing(client: Client, engine: str) -> None:
    """Code after an extra bracket never runs: an endless loop there gives a syntax error and not a CPU limit."""
    assert isinstance(client.run_source("for (;;) {}", engine=engine).outcome, CpuLimit)
    source = "return 1\n}\n(() => { for (;;) {} })(); for (;;) {}"
    languages: list[Language] = ["javascript", "typescript"]
    for language in languages if engine == "deno" else languages[:1]:
        outcome = client.run_source(source, engine=engine, language=language).outcome
        assert isinstance(outcome, ProgramSyntaxError), outcome


_MAP = json.dumps({"version": 3, "sources": ["other.ts"], "names": [], "mappings": "AAAA;AACA;AAEA;AAUA;AAIA;AAQA"})
_OWN_MAP = "\n//# sourceMappingURL=data:application/json;base64," + base64.b64encode(_MAP.encode()).decode()


@pytest.mark.parametrize("language", ["javascript", "typescript"])
@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("const x = 1;\n\n throw new Error('x');", (3, 8)),
        ("export default () => {\n\n throw new Error('x');\n}", (3, 8)),
        ("let a;\n\n  let a;", (3, 7)),
        ("export default () => 1;\nlet a;\n  let a;", (3, 7)),
        ("export default () => 1;\n\nlet a = ;", (3, 9)),
    ],
)
def test_a_source_map_in_a_program_is_ignored(
    client: Client, language: Any, source: str, place: tuple[int, int]
) -> None:
    """A bundler's source map does not change places, because it refers to a text that was not submitted."""
    outcome = client.run_source(source + _OWN_MAP, engine="deno", language=language).outcome
    assert isinstance(outcome, ProgramException | ProgramSyntaxError), outcome
    assert (outcome.line, outcome.column) == place


def test_an_error_in_an_import_has_a_message_of_one_line(client: Client) -> None:
    """The message of a syntax error in an imported text is one line, without the parser's excerpt."""
    outcome = client.run_source('import "data:text/javascript,x x"\nexport default () => 1', engine="deno").outcome
    assert isinstance(outcome, ProgramSyntaxError)
    assert outcome.message.startswith("in what it imports: Expected ';'")
    assert "\n" not in outcome.message


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("const bad: {ä: '漢😀'} | null = null;\nconst s: '😀' = '😀'; bad!.ä", (2, 28)),
        ("enum E {A}\nconst bad: {ä: E} | null = null;\nconst s: '😀' = '😀'; bad!.ä", (3, 28)),
        (
            "interface A {\n  a: 1\n}\nexport default (p: string): A => { const s: '漢' = '漢'; (null as any).x }",
            (4, 70),
        ),
    ],
)
def test_places_in_stored_typescript(client: Client, source: str, place: tuple[int, int]) -> None:
    """Removing types does not move places, and places in code that Deno generates for an enum are mapped back."""
    outcome = client.run(client.submit(source, language="typescript").hash).outcome
    assert isinstance(outcome, ProgramException), outcome
    assert (outcome.line, outcome.column) == place


_PLACED = [
    # source; the place on Deno, as JavaScript and as TypeScript
    (
        "function f() { throw new Error('in') }\ntry { f() } catch (e) {\n\n throw new Error('failed: ' + e.stack)\n}",
        (4, 8),
    ),
    ("throw new Error('a'.repeat(60000))", (1, 7)),
    ("let r = /( at blob:x:1:3 /;", (1, 9)),
    ("\n\n\nlet r = 'foo at blob:x:1:3 '; let a = ;", (4, 39)),
    ("let q = /(" + "x" * 300_000 + "/;", (1, 9)),
    ("let " + "x" * 300_000 + ", " + "x" * 300_000, (1, 300_007)),
    ("export default 1; let q = /(" + "x" * 300_000 + "/;", (1, 27)),
    ('import x from "data:text/javascript,export default 1"; export default () => { let y = ; }', (1, 87)),
    ("import x from 'https://esm.sh/x'\nexport default 1", (1, 15)),
    ("\r\r\rthrow new Error('x')", (1, 10)),
    ("await crypto.subtle.digest('NOPE', new Uint8Array(1))", None),
]


@pytest.mark.parametrize("language", ["javascript", "typescript"])
@pytest.mark.parametrize(("source", "place"), _PLACED)
def test_text_of_the_program_does_not_change_places(
    client: Client, language: Any, source: str, place: tuple[int, int] | None
) -> None:
    """Places are right if messages contain stacks, file names or long source text, and with unusual line ends."""
    outcome = client.run_source(source, engine="deno", language=language).outcome
    assert isinstance(outcome, ProgramException | ProgramSyntaxError), outcome
    assert (outcome.line, outcome.column) == place if place else outcome.line == 1
    assert len(outcome.message) <= 16384


def test_unicode_separators_do_not_end_a_line(client: Client) -> None:
    """A Unicode line separator does not start a line, as in editors and Deno's parser, although V8 counts one."""
    source = "const a = 1;\r\nconst s = 'a\u2028b'; //\n\nthrow new Error('x')\n\n\n"
    script = client.run_source(source, engine="deno").outcome
    kept = client.run(client.submit(source + "//", language="typescript").hash).outcome
    for outcome in (script, kept):
        assert isinstance(outcome, ProgramException)
        assert (outcome.line, outcome.column) == (4, 7)


def test_code_that_a_program_loads_has_no_place_in_it(client: Client) -> None:
    """An exception in a blob that the program imported has no line, because the blob has its own lines."""
    text = r'await import(URL.createObjectURL(new Blob(["\n\n\nthrow new Error(1)"], {type: "text/javascript"})))'
    outcome = client.run_source(text + "\n" * 5, engine="deno").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.line is None


def test_messages_of_the_program_stay_unchanged(client: Client) -> None:
    """An exception of the program keeps its message, even if the message equals one of the engine's."""
    for message in (
        "Cannot use import statement outside a module",
        "Expected 5, got '<lexing error: x",
        "Requires a b",
    ):
        outcome = client.run_source(f"throw new Error({message!r})", engine="deno").outcome
        assert isinstance(outcome, ProgramException)
        assert outcome.message == message


@pytest.mark.parametrize("call", ["[2, 1].sort({})", "[2, 1].toSorted({})", "[1].flatMap({})", "'a'.replace('a', {})"])
def test_a_native_function_has_one_frame_and_no_place(client: Client, call: str) -> None:
    """A native function between two frames of the program appears once, as `NAME (native)`, without a place."""
    outcome = client.run_source(f"\nreturn {call.format('() => { throw new Error() }')}", engine="quickjs").outcome
    assert isinstance(outcome, ProgramException)
    inner, native, outer = outcome.stack.splitlines()
    assert native.strip() == f"at {call.partition('.')[2].partition('(')[0]} (native)"
    assert [frame.partition("program.js:")[2].partition(":")[0] for frame in (inner, outer)] == ["2", "2"]
