"""The part of the web platform that programs have, and modules that answer a Request."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client, ProgramFailed

BASE = "'https://User:pw@Example.com:443/a/b/c?q=1#f'"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (f"new URL({BASE}).href", "https://User:pw@example.com/a/b/c?q=1#f"),
        (f"new URL('../x', {BASE}).pathname", "/a/x"),
        (f"new URL('/x/./y/..', {BASE}).pathname", "/x/"),
        (f"new URL('?z', {BASE}).href", "https://User:pw@example.com/a/b/c?z"),
        (f"new URL('//other/p', {BASE}).href", "https://other/p"),
        ("new URL('http://h:8080').host", "h:8080"),
        ("new URL('http://h').href", "http://h/"),
        ("new URL('http://h/ä b').pathname", "/%C3%A4%20b"),
        ("new URL('http://[::1]:3/').hostname", "[::1]"),
        ("new URL('data:text/plain,x').origin", "null"),
        ("['', 'x', 'http://', 'http://h:99999', 'http://a b'].map((u) => URL.canParse(u))", [False] * 5),
        (
            "(() => { const u = new URL('http://h/?a=1'); u.searchParams.append('b', '&'); return u.search })()",
            "?a=1&b=%26",
        ),
        ("(() => { const u = new URL('http://h/?a=1'); u.search = 'c=2'; return u.searchParams.get('c') })()", "2"),
        ("JSON.stringify({u: new URL('http://h')})", '{"u":"http://h/"}'),
        ("new URLSearchParams('a=1&a=2&b=%zz&c=x+y').getAll('a')", ["1", "2"]),
        ("[...new URLSearchParams('?b=%zz&c=x+y&d')]", [["b", "%zz"], ["c", "x y"], ["d", ""]]),
        ('new URLSearchParams({a: "é \'~*"}).toString()', "a=%C3%A9+%27%7E*"),
        (
            "(() => { const p = new URLSearchParams('b=1&a=2&b=3'); p.set('b', 4); p.sort(); return String(p) })()",
            "a=2&b=4",
        ),
        ("new URLSearchParams([['a', '1']]).size", 1),
        ("[...new Headers({B: '1', 'a-c': 2})]", [["a-c", "2"], ["b", "1"]]),
        ("(() => { const h = new Headers(); h.append('X', 1); h.append('x', 2); return h.get('X') })()", "1, 2"),
        ("new Headers().get('x')", None),
        ("(() => { try { new Headers({'a b': 1}) } catch (e) { return e.name } })()", "TypeError"),
        ("new Request('http://h', {method: 'post', body: '[1]'}).json()", [1]),
        (
            "(async (r) => { await r.text(); return r.text().catch(String) })(new Request('http://h'))",
            "TypeError: the body was read already",
        ),
        ("new Request(new Request('http://h/p', {headers: {a: '1'}})).headers.get('a')", "1"),
        ("new Response('x').headers.get('content-type')", "text/plain;charset=UTF-8"),
        ("new Response('x', {status: 404}).ok", False),
        ("(() => { try { new Response('', {status: 99}) } catch (e) { return e.name } })()", "RangeError"),
        ("Response.json({a: 1}).clone().text()", '{"a":1}'),
        ("Object.keys(globalThis)", []),
        ("Object.getOwnPropertyNames(globalThis).filter((name) => name.includes('promptlog'))", []),
    ],
)
def test_the_web_platform(client: Client, expression: str, value: object) -> None:
    """Request, Response, Headers, URL and URLSearchParams do what the standards say of them."""
    assert client.run_source(f"return await ({expression})").value == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (
            "export default { fetch: (request) => Response.json({url: request.url}) }",
            {"url": "http://promptlog/?prompt=a%20%26"},
        ),
        ("export default { fetch: (r) => new Response(new URL(r.url).searchParams.get('prompt')) }", "a &"),
        ("export default { async fetch(r, env) { return new Response(String(env.n)) } }", "7"),
        ("export default { fetch: () => ({plain: true}) }", {"plain": True}),
        ("export default { n: 3, fetch() { return this.n } }", 3),
        ("export default { fetch: (r, e, ctx) => { ctx.waitUntil(Promise.resolve()); return 1 } }", 1),
        ("export default { fetch: () => new Response('[1', {headers: {'content-type': 'text/json5'}}) }", "[1"),
    ],
)
def test_a_module_may_answer_a_request(client: Client, source: str, value: object) -> None:
    """A Worker-style module gets the prompt in the request's URL; its response's body is the result."""
    assert client.run_source(source, "a &", env={"n": 7}).value == value


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("export default { fetch: () => { throw new TypeError('no') } }", "TypeError: no"),
        (
            "export default { fetch: () => new Response('{', {headers: {'content-type': 'application/json'}}) }",
            "SyntaxError",
        ),
        ("export default { fetch: 1 }", "default export of a module must be"),
        ("export default 5", "default export of a module must be"),
        ("export default { fetch() {} }", "no result"),
    ],
)
def test_a_module_that_does_not_answer_is_told_why(client: Client, source: str, says: str) -> None:
    """What goes wrong in `fetch`, or is no answer, is an outcome with a reason."""
    with pytest.raises(ProgramFailed, match=says):
        _ = client.run_source(source).value
