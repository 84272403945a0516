"""ECMAScript functions that take a locale, on QuickJS, which has no Intl."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client
from sandbox.outcome import ProgramException

NUMBERS = ("1234.5", "12345n", "[1234.5]", "new Float64Array(1)", "new BigInt64Array(1)")
REFUSED = ("'tr'", "'TR'", "'az-Latn'", "'lt'", "'el'", "'tur'", "['tr']", "['en']", "null", "''")
ARGUMENTS = ("'de'", "['de']", "undefined, {}", "'de', {style: 'percent'}", "null")


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_locale_or_options_are_refused(client: Client, arguments: str) -> None:
    """A locale or options raise a TypeError that names Deno, in each function that uses them to format or compare."""
    calls = [f"({value}).toLocaleString({arguments})" for value in NUMBERS]
    calls += [f"new Date(0).toLocale{what}String({arguments})" for what in ("", "Date", "Time")]
    calls.append(f"'a'.localeCompare('b', {arguments})")
    functions = ", ".join(f"() => {call}" for call in calls)
    source = f"return [{functions}].map((f) => {{ try {{ return f() }} catch (error) {{ return String(error) }} }})"
    for call, said in zip(calls, client.run_source(source).value, strict=True):
        name = call[call.rindex(".", 0, call.rindex("(")) + 1 : call.rindex("(")]
        assert said == f"TypeError: QuickJS has no Intl: {name} takes no locale or options; use --engine deno"


def test_results_without_a_locale(client: Client) -> None:
    """Without a locale, or with undefined, the functions return the values that docs/engines.md describes."""
    source = """const d = new Date(0);
        return [1234.5.toLocaleString(), 12345n.toLocaleString(), [1.5, , null, 2000].toLocaleString(),
            d.toLocaleString(), d.toLocaleDateString(undefined), d.toLocaleTimeString(undefined, undefined),
            new Int8Array(2).toLocaleString(),
            'a'.localeCompare('B'), 'e\\u0301'.localeCompare('é'), 'é'.localeCompare('f', undefined, undefined)]"""
    expected = ["1234.5", "12345", "1.5,,,2000", "01/01/1970, 12:00:00 AM", "01/01/1970", "12:00:00 AM", "0,0", 1, 0, 1]
    assert client.run_source(source).value == expected


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("'ßi'.toLocaleUpperCase()", "SSI"),
        ("'ßi'.toLocaleUpperCase(undefined)", "SSI"),
        ("'ßi'.toLocaleUpperCase('de')", "SSI"),
        ("'i'.toLocaleUpperCase('en-US')", "I"),
        ("'I'.toLocaleLowerCase('zh-Hant-TW')", "i"),
        ("'i'.toLocaleUpperCase('es-419')", "I"),
        ("'\u0587'.toLocaleUpperCase('hy')", "\u0535\u0552"),
        *((f"'i'.toLocaleUpperCase({locale})", "TypeError") for locale in REFUSED),
        *((f"'I'.toLocaleLowerCase({locale})", "TypeError") for locale in ("'tr'", "'az'", "'lt-LT'", "'en-u-co-x'")),
    ],
)
def test_case_mapping_is_right_or_refused(client: Client, call: str, value: str) -> None:
    """Case mapping works for locales without rules of their own, and refuses the others."""
    assert client.run_source(f"try {{ return {call} }} catch (error) {{ return error.name }}").value == value


def test_functions_of_a_program_are_not_affected(client: Client) -> None:
    """toLocaleString of a program's class, and of Object, Boolean and String, accepts any arguments."""
    source = """class Money { toLocaleString(...all) { return all.join('|') } }
        return [new Money().toLocaleString('de', 1), 'x'.toLocaleString('de'), true.toLocaleString('de'),
            ({}).toLocaleString('de'), [new Money(), new Money()].toLocaleString()]"""
    assert client.run_source(source).value == ["de|1", "x", "true", "[object Object]", ","]


def test_the_functions_look_built_in(client: Client) -> None:
    """The functions have names, lengths and attributes as built-in functions have, and are not constructors."""
    source = """const typed = Object.getPrototypeOf(Int8Array).prototype;
        const owners = [[Number.prototype, 'toLocaleString'], [BigInt.prototype, 'toLocaleString'],
            [Array.prototype, 'toLocaleString'], [typed, 'toLocaleString'], [Date.prototype, 'toLocaleString'],
            [Date.prototype, 'toLocaleDateString'], [Date.prototype, 'toLocaleTimeString'],
            [String.prototype, 'toLocaleUpperCase'], [String.prototype, 'toLocaleLowerCase'],
            [String.prototype, 'normalize'], [String.prototype, 'localeCompare']];
        return owners.map(([owner, name]) => {
            const { value, writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(owner, name);
            const made = (() => { try { return new value() } catch (error) { return error.name } })();
            return [value.name === name, value.length, 'prototype' in value, writable, enumerable, configurable, made];
        })"""
    usual = [True, 0, False, True, False, True, "TypeError"]
    assert client.run_source(source).value == [usual] * 10 + [[True, 1, False, True, False, True, "TypeError"]]


@pytest.mark.parametrize(
    ("source", "stack"),
    [
        ("const n = 5;\n  n.toLocaleString('de');", "    at <anonymous> (-:2:17)"),
        (
            "const o = {toLocaleString() { throw new Error('x') }};\n[o].toLocaleString();",
            "    at toLocaleString (-:1:46)\n    at toLocaleString (native)\n    at <anonymous> (-:2:19)",
        ),
        ("\nnew URL('http://u@h/');", "    at <anonymous> (-:2:8)"),
        ("\nnew Headers({a: '\\0'});", "    at <anonymous> (-:2:12)"),
    ],
)
def test_a_stack_has_only_frames_of_the_program(client: Client, source: str, stack: str) -> None:
    """An error thrown in one of promptlog's functions has its place in the program, and no frame of promptlog."""
    outcome = client.run_source(source).outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.stack is not None
    assert [line.partition(" (")[0] for line in outcome.stack.splitlines()] == [
        line.partition(" (")[0] for line in stack.splitlines()
    ], outcome.stack
    assert outcome.line == int(stack.rsplit(":", 2)[1]) or "native" in stack
