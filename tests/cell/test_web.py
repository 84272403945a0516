"""Request and Response on QuickJS, text encoding functions, and modules that answer a Request."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client, ProgramFailed


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("new Request('http://h', {method: 'post', body: '[1]'}).json()", [1]),
        ("new Request(new Request('http://h/p', {headers: {a: '1'}})).headers.get('a')", "1"),
        ("new Request(new URL('http://h/p#f')).url", "http://h/p#f"),
        (
            "['get', 'Put', 'patch', 'PATCH', 'x'].map((method) => new Request('http://h', {method}).method)",
            ["GET", "PUT", "patch", "PATCH", "x"],
        ),
        ("new Request('http://h', {method: 'put', body: 'x'}).headers.get('content-type')", "text/plain;charset=UTF-8"),
        (
            "new Request('http://h', {method: 'put', body: new URLSearchParams('a=b')}).headers.get('content-type')",
            "application/x-www-form-urlencoded;charset=UTF-8",
        ),
        (
            "(async (r) => { const s = new Request(r); return [r.bodyUsed, await s.text(), s.method] })"
            "(new Request('http://h', {method: 'put', body: 'x'}))",
            [True, "x", "PUT"],
        ),
        (
            "(async (r) => { const c = r.clone(); return [await r.text(), await c.text(), c.method] })"
            "(new Request('http://h', {method: 'put', body: 'x'}))",
            ["x", "x", "PUT"],
        ),
        ("new Response('x').headers.get('content-type')", "text/plain;charset=UTF-8"),
        ("new Response(new Uint8Array(1)).headers.get('content-type')", None),
        ("new Response('x', {status: 404}).ok", False),
        ("new Response(null, {status: '204', statusText: 'No'}).status", 204),
        (
            "(r => [r.type, r.url, r.redirected, r.body, r.bodyUsed])(new Response())",
            ["default", "", False, None, False],
        ),
        ("Response.json({a: 1}).clone().text()", '{"a":1}'),
        ("(async (r) => [await r.text(), await r.text(), r.bodyUsed])(new Response())", ["", "", False]),
        (
            "(async (r) => { await r.text(); return [r.bodyUsed, await r.text().catch(String)] })(new Response(''))",
            [True, "TypeError: the body has already been read"],
        ),
        ("Object.keys(globalThis)", []),
        ("Object.getOwnPropertyNames(globalThis).filter((name) => name.includes('promptlog'))", []),
        ("[typeof webIdl, typeof headers, typeof searchParams, typeof urls, typeof contract]", ["undefined"] * 5),
        (
            "[new Request('http://h'), new Response(), new TextEncoder()].map((it) => ({}).toString.call(it))",
            ["[object Request]", "[object Response]", "[object TextEncoder]"],
        ),
    ],
)
def test_requests_and_responses(client: Client, expression: str, value: object) -> None:
    """Request and Response behave as the Fetch Standard says."""
    assert client.run_source(f"return await ({expression})").value == value


@pytest.mark.parametrize(
    ("body", "text", "data"),
    [
        ("'\u00e9'", "é", [0xC3, 0xA9]),
        ("'a\\ud800'", "a\ufffd", [97, 0xEF, 0xBF, 0xBD]),
        ("'\ufeffa'", "a", [0xEF, 0xBB, 0xBF, 97]),
        ("new Uint8Array([104, 105])", "hi", [104, 105]),
        ("new Uint8Array([0xef, 0xbb, 0xbf, 65, 0xff, 0xc3])", "A\ufffd\ufffd", [0xEF, 0xBB, 0xBF, 65, 0xFF, 0xC3]),
        ("new Uint16Array([0x4241, 0x4443]).subarray(1)", "CD", [0x43, 0x44]),
        ("new DataView(new Uint8Array([65, 66, 67]).buffer, 1, 1)", "B", [66]),
        ("new Uint8Array([65, 66]).buffer", "AB", [65, 66]),
        ("new URLSearchParams({a: 'b c', d: 'é'})", "a=b+c&d=%C3%A9", list(b"a=b+c&d=%C3%A9")),
        ("12", "12", [49, 50]),
        ("{}", "[object Object]", list(b"[object Object]")),
        ("null", "", []),
        ("undefined", "", []),
    ],
)
def test_a_body_is_a_string_or_bytes(client: Client, body: str, text: str, data: list[int]) -> None:
    """A body is returned unchanged, as a string (decoded from UTF-8) and as a copy of its bytes."""
    source = f"""const body = {body}, made = [1, 2, 3].map(() => new Response(body));
        if (ArrayBuffer.isView(body)) new Uint8Array(body.buffer).fill(33);
        return [await made[0].text(), [...await made[1].bytes()], [...new Uint8Array(await made[2].arrayBuffer())]];"""
    assert client.run_source(source).value == [text, data, data]


def test_a_view_is_decoded_up_to_the_end_of_its_buffer(client: Client) -> None:
    """A length-tracking view ends with its buffer, also if a program passes it to a function that decodes."""
    source = """
        const buffer = new ArrayBuffer(1 << 16, {maxByteLength: 1 << 16}), view = new Uint8Array(buffer);
        Uint8Array.prototype.subarray = () => view;
        buffer.resize(8);
        return new TextDecoder().decode(new Uint8Array(1)).length;
    """
    assert client.run_source(source).value == 8


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("new Request('http://h', {body: 'x'})", "TypeError: a request with the method GET cannot have a body"),
        ("new Request('http://h', {method: 'head', body: ''})", "TypeError: a request with the method HEAD"),
        (
            "new Request(new Request('http://h', {method: 'put', body: 'x'}), {method: 'get'})",
            "TypeError: a request with",
        ),
        ("new Request('x')", "TypeError: Invalid URL: x"),
        ("new Request('http://u:p@h/')", "TypeError: URL: a user name or a password is not supported"),
        ("new Request()", "TypeError: Request: too few arguments"),
        ("new Request('http://h', 5)", "TypeError: Request: the second argument must be an object"),
        ("new Request('http://h', {method: 'trace'})", "TypeError: invalid method: trace"),
        ("new Request('http://h', {method: 'a b'})", "TypeError: invalid method: a b"),
        ("new Request('http://h', {headers: null})", "TypeError: Headers: an object"),
        ("new Response('', {status: 99})", "RangeError: the status"),
        ("new Response('', {status: NaN})", "RangeError: the status"),
        ("new Response('x', {status: 204})", "TypeError: a response with the status 204 cannot have a body"),
        ("new Response('', {status: 304})", "TypeError: a response with the status 304 cannot have a body"),
        ("new Response('', {statusText: 'a\\nb'})", "TypeError: statusText"),
        ("new Response(Symbol())", "TypeError"),
        ("new Response([1, 2])", "TypeError: a body on QuickJS is"),
        ("new Response((async function* () {})())", "TypeError: a body on QuickJS is"),
        ("new Response(new SharedArrayBuffer(1))", "TypeError: a body on QuickJS is"),
        ("new Response(new Uint8Array(new SharedArrayBuffer(1)))", "TypeError: a body on QuickJS is"),
        ("new Response('x').body", "TypeError: body is a stream, which QuickJS does not have"),
        (
            "await new Response('x').blob()",
            "TypeError: blob() is not available on QuickJS; Deno has it (--engine deno)",
        ),
        ("await new Response('x').formData()", "TypeError: formData() is not available on QuickJS"),
        ("Response.redirect('http://h')", "TypeError: Response.redirect is not available on QuickJS"),
        ("Response.error()", "TypeError: Response.error is not available on QuickJS"),
        ("Response.json(undefined)", "TypeError: Response.json: the value is not JSON"),
        ("Response.json(1, {status: 204})", "TypeError: a response with the status 204"),
        ("await new Response('{').json()", "SyntaxError"),
        ("await new Response().json()", "SyntaxError"),
        (
            "await (async (r) => { await r.text(); r.clone() })(new Response('x'))",
            "TypeError: the body has already been read",
        ),
        (
            "const r = new Request('http://h', {method: 'put', body: 'x'}); await r.text(); new Request(r)",
            "TypeError: the body has already been read",
        ),
    ],
)
def test_invalid_or_unsupported_uses_are_refused(client: Client, expression: str, says: str) -> None:
    """Uses that the standard forbids, or that QuickJS does not support, raise an error that says so."""
    source = f"try {{ {expression}; return 'nothing'; }} catch (error) {{ return String(error); }}"
    assert client.run_source(source).value.startswith(says)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("[...new TextEncoder().encode(null)]", list(b"null")),
        ("new TextEncoder().encodeInto('a', new Uint16Array(3))", "TypeError"),
        ("new TextEncoder().encodeInto('a', [])", "TypeError"),
        ("new TextEncoder().encode(Symbol())", "TypeError"),
        ("new TextDecoder('utf-8', true)", "TypeError"),
        ("new TextDecoder('latin1')", "RangeError"),
        ("new TextDecoder().decode(new Uint8Array([0xc0, 0x41]), {stream: true})", "\ufffdA"),
        ("new TextDecoder().decode(new Uint8Array([0x41, 0xe0, 0x80]), {stream: true})", "A\ufffd\ufffd"),
        ("new TextDecoder().decode(new Uint8Array([0x41, 0xe0, 0xa0]), {stream: true})", "A"),
        ("new TextDecoder().decode(new Uint8Array([0xff]), {stream: true})", "\ufffd"),
        ("btoa()", "TypeError"),
        ("btoa(undefined)", "dW5kZWZpbmVk"),
        ("atob(Symbol())", "TypeError"),
        ("'\uac00\u11a7\u0301'.normalize('NFC').length", 3),
        ("['\uac00\u11a8', 'e\u0301', '\ufb01\u11a7'].map((it) => it.normalize('NFKC'))", ["\uac01", "é", "fi\u11a7"]),
        ("'x'.normalize('nfc')", "RangeError"),
    ],
)
def test_text_encoding_follows_the_standards(client: Client, expression: str, value: object) -> None:
    """TextEncoder, TextDecoder, atob, btoa and normalize have the standards' values, also in edge cases."""
    source = f"try {{ return {expression}; }} catch (error) {{ return error.name; }}"
    assert client.run_source(source).value == value


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
        ("export default { fetch: () => new Response(new Uint8Array([104, 105])) }", "hi"),
        ("export default { fetch: () => new Response(null, {status: 204}) }", ""),
    ],
)
def test_a_module_may_answer_a_request(client: Client, source: str, value: object) -> None:
    """A Worker-style module gets the prompt in the request's URL; the body of its response is the result."""
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
        (
            "export default { async fetch() { const r = new Response('x'); await r.text(); return r; } }",
            "already been read",
        ),
    ],
)
def test_a_module_that_does_not_answer_gets_a_reason(client: Client, source: str, says: str) -> None:
    """An error in `fetch`, or a value that is not a Response, gives an outcome with a reason."""
    with pytest.raises(ProgramFailed, match=says):
        _ = client.run_source(source).value
