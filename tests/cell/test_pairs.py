"""URLSearchParams and Headers on QuickJS give the values that the standards define, or an error."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client


def _value(client: Client, expression: str) -> object:
    source = f"try {{ return {expression}; }} catch (error) {{ return error.name; }}"
    return client.run_source(source).value


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("undefined", ""),
        ("null", "null="),
        ("5", "5="),
        ("'?a=1&&b&=c&d=e=f'", "a=1&b=&=c&d=e%3Df"),
        ("'??a'", "%3Fa="),
        ("'a=%zz%41%&b=%4'", "a=%25zzA%25&b=%254"),
        ("'a=%ff%C3%A9&b=%E2%82x&%c3=1'", "a=%EF%BF%BD%C3%A9&b=%EF%BF%BDx&%EF%BF%BD=1"),
        ("'a=%ED%A0%80'", "a=%EF%BF%BD%EF%BF%BD%EF%BF%BD"),
        ("'a=%zz%EF%BB%BFx'", "a=%25zz%EF%BB%BFx"),
        ("'a=%EF%BB%BFx'", "a=%EF%BB%BFx"),
        ("'a=b+c%2B%20d'", "a=b+c%2B+d"),
        ("'a=\\ud800'", "a=%EF%BF%BD"),
        ('{a: "é \'()*-._~!"}', "a=%C3%A9+%27%28%29*-._%7E%21"),
        ("{b: 1, a: undefined}", "b=1&a=undefined"),
        ("{'\\ud800': 1, '\\udfff': 2}", "%EF%BF%BD=2"),
        ("[['a', '1'], new Set(['b', '2'])]", "a=1&b=2"),
        ("new Map([['m', 'n']])", "m=n"),
        ("new URLSearchParams('a=1&a=2')", "a=1&a=2"),
        ("[['a']]", "TypeError"),
        ("[['a', 'b', 'c']]", "TypeError"),
        ("['ab']", "TypeError"),
        ("[null]", "TypeError"),
        ("{[Symbol('s')]: 1}", "TypeError"),
        ("{[Symbol.iterator]: 1}", "TypeError"),
        ("Symbol()", "TypeError"),
    ],
)
def test_construction_of_parameters(client: Client, init: str, text: str) -> None:
    """URLSearchParams accepts a string, an iterable of pairs or an object, and serializes as a form does."""
    assert _value(client, f"new URLSearchParams({init}).toString()") == text


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("p.has('a', '2')", True),
        ("p.has('a', '9')", False),
        ("p.has('a', undefined)", True),
        ("p.has('b', 1)", True),
        ("[p.delete('a', '2'), p + '', p.size]", [None, "a=1&b=1&a=3", 3]),
        ("[p.delete('a', '9'), p + '']", [None, "a=1&a=2&b=1&a=3"]),
        ("[p.delete('a'), p + '', p.size]", [None, "b=1", 1]),
        ("[p.set('a', 7), p + '']", [None, "a=7&b=1"]),
        ("[p.set('c', 'é'), p + '']", [None, "a=1&a=2&b=1&a=3&c=%C3%A9"]),
        ("[p.append('a', null), p.getAll('a')]", [None, ["1", "2", "3", "null"]]),
        ("[p.get('a'), p.get('c')]", ["1", None]),
        (
            "[p.append('\\ufb00', 1), p.append('\\u{1f600}', 1), p.sort(), [...p.keys()]]",
            [None, None, None, ["a", "a", "a", "b", "\U0001f600", "\ufb00"]],
        ),
        ("[p.sort(), [...p.values()]]", [None, ["1", "2", "3", "1"]]),
        (
            "(() => { const seen = []; for (const [n, v] of p) { seen.push(v); p.delete('a', v); } return seen })()",
            ["1", "1", "3"],
        ),
        (
            "(() => { let s = ''; for (const n of p.keys()) { s += n; if (n < 'd') p.append('d', 1) } return s })()",
            "aabadddd",
        ),
        ("(() => { const keys = p.keys(); for (const key of keys) break; return [...keys] })()", ["a", "b", "a"]),
        (
            "(() => { let own; p.forEach((...them) => { own = them.length === 3 && them[2] === p }); return own })()",
            True,
        ),
        ("p.forEach()", "TypeError"),
        ("p.append('a')", "TypeError"),
        ("p.set('a')", "TypeError"),
        (
            "[p.get, p.getAll, p.has, p.delete].map((f) => { try { f.call(p) } catch (e) { return e.name } })",
            ["TypeError"] * 4,
        ),
        ("p.append('a', Symbol())", "TypeError"),
        ("p.get.call({}, 'a')", "TypeError"),
        (
            "[p.entries === p[Symbol.iterator], String(p.keys()), String(Object.prototype.toString.call(p))]",
            [True, "[object URLSearchParams Iterator]", "[object URLSearchParams]"],
        ),
        ("[p.has, p.delete, p.append, p.set, p.get, p.sort, p.forEach].map((f) => f.length)", [1, 1, 2, 2, 1, 0, 1]),
    ],
)
def test_methods_of_parameters(client: Client, call: str, value: object) -> None:
    """The methods of URLSearchParams follow the standard, also during iteration and with wrong arguments."""
    assert _value(client, f"((p) => {call})(new URLSearchParams('a=1&a=2&b=1&a=3'))") == value


@pytest.mark.parametrize(
    ("init", "pairs"),
    [
        ("undefined", []),
        ("{B: '1', 'a-c': 2}", [["a-c", "2"], ["b", "1"]]),
        ("{a: 1, A: 2}", [["a", "1, 2"]]),
        ("[['b', 'x'], ['a', 'y'], ['B', 'z']]", [["a", "y"], ["b", "x, z"]]),
        (
            "new Headers([['set-cookie', 'x'], ['a', '1'], ['Set-Cookie', 'y']])",
            [["a", "1"], ["set-cookie", "x"], ["set-cookie", "y"]],
        ),
        ("{a: ' \\t x y\\r\\n'}", [["a", "x y"]]),
        ("{a: '\\n'}", [["a", ""]]),
        ("{a: '\\u00e9\\x7f\\x01'}", [["a", "é\x7f\x01"]]),
        ("{a: '\\u00a0x\\u000b'}", [["a", "\xa0x\x0b"]]),
        ("{a: 'x\\ny'}", "TypeError"),
        ("{a: 'x\\ry'}", "TypeError"),
        ("{a: 'x\\0'}", "TypeError"),
        ("{a: '\\u0100'}", "TypeError"),
        ("{a: Symbol()}", "TypeError"),
        ("{'a b': 1}", "TypeError"),
        ("{'': 1}", "TypeError"),
        ("{'a:': 1}", "TypeError"),
        ("{'\\u00e9': 1}", "TypeError"),
        ("[['a']]", "TypeError"),
        ("null", "TypeError"),
        ("'a'", "TypeError"),
        ("5", "TypeError"),
    ],
)
def test_headers_are_validated_and_sorted(client: Client, init: str, pairs: object) -> None:
    """Headers strips white space around values, refuses invalid names and values, and lists names in order."""
    assert _value(client, f"[...new Headers({init})]") == pairs


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("[h.get('A'), h.get('none'), h.has('a'), h.has('none')]", ["1, 2", None, True, False]),
        ("[h.append('a', ' 3 '), h.get('a')]", [None, "1, 2, 3"]),
        ("[h.set('A', 'x'), h.get('a')]", [None, "x"]),
        ("[h.delete('A'), h.has('a'), [...h.keys()]]", [None, False, ["set-cookie", "set-cookie"]]),
        ("[h.getSetCookie(), h.get('set-cookie')]", [["p=1", "q=2"], "p=1, q=2"]),
        ("new Headers().getSetCookie()", []),
        (
            "(() => { const all = h.entries(); all.next(); h.delete('a'); h.append('z', 1); return [...all] })()",
            [["set-cookie", "q=2"], ["z", "1"]],
        ),
        (
            "(() => { const seen = []; h.forEach((value, name) => seen.push(name + value)); return seen })()",
            ["a1, 2", "set-cookiep=1", "set-cookieq=2"],
        ),
        ("h.get('a b')", "TypeError"),
        ("h.has('')", "TypeError"),
        ("h.append('a', 'x\\ny')", "TypeError"),
        ("h.append('a')", "TypeError"),
        ("h.get()", "TypeError"),
        ("h.get.call({}, 'a')", "TypeError"),
        ("['getAll' in h, 'sort' in h, String(h)]", [False, False, "[object Headers]"]),
    ],
)
def test_methods_of_headers(client: Client, call: str, value: object) -> None:
    """The methods of Headers follow the standard, also with wrong arguments, and keep cookies separate."""
    init = "[['a', '1'], ['Set-Cookie', 'p=1'], ['A', '2'], ['set-cookie', 'q=2']]"
    assert _value(client, f"((h) => {call})(new Headers({init}))") == value
