"""URL on QuickJS gives the values of the URL Standard for URLs that it supports, and refuses all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "urls.jsonl").read_text("utf-8").splitlines()
]
"""A case has a URL, and maybe a base and a setter. It `gives` values, `says` what is not supported, or is invalid."""

KINDS = list(dict.fromkeys(case["kind"] for case in CASES))

# Reports whether a URL can be parsed, and its parts or the error. `set` is evaluated in sloppy mode, where an
# assignment without a setter would have no effect.
PROGRAM = """
const assign = (0, eval)('(url, [name, value]) => { url[name] = value; }');
const names = ['href', 'origin', 'protocol', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'];
return JSON.parse(prompt).map(({ url, base, set }) => {
  const found = {};
  try {
    found.canParse = URL.canParse(url, base);
  } catch (error) {
    found.canParse = String(error);
  }
  try {
    const made = new URL(url, base);
    const { searchParams } = made;
    if (set) assign(made, set);
    found.gives = names.map((name) => made[name]);
    found.same = made.toString() === made.href && made.toJSON() === made.href && made.username + made.password === ''
      && made.searchParams === searchParams && String(searchParams) === String(new URLSearchParams(made.search));
  } catch (error) {
    found.error = String(error);
  }
  return found;
});
"""


def _run(client: Client, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.run_source(PROGRAM, json.dumps(cases)).value
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_url_is_parsed_as_the_standard_says_or_refused(client: Client, kind: str) -> None:
    """Each URL of this kind has the standard's values in all parts, or raises a TypeError with a reason."""
    cases = [case for case in CASES if case["kind"] == kind]
    for case, found in zip(cases, _run(client, cases), strict=True):
        if "gives" in case:
            assert (found.get("gives"), found["same"], found["canParse"]) == (case["gives"], True, True), case
        elif "says" in case:
            says = found["error"]
            assert says.startswith("TypeError: "), (case, found)
            assert case["says"] in says, (case, found)
            assert "not supported on QuickJS; Deno has the full parser (--engine deno)" in says or "set" in case, says
            assert found["canParse"] == (True if "set" in case else says), (case, found)
        else:
            assert found == {"canParse": False, "error": found["error"]}, (case, found)
            assert found["error"].startswith("TypeError: Invalid URL: "), (case, found)


def test_the_table_is_complete() -> None:
    """The table contains hundreds of URLs, and enough of each kind."""
    assert len(CASES) >= 500
    assert sum("gives" in case for case in CASES) >= 200
    assert sum("says" in case for case in CASES) >= 150


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(u) => { u.searchParams.append('b', '&'); return u.search }", "?a=1&b=%26"),
        ("(u) => { u.searchParams.delete('a'); return u.href }", "http://h/#f"),
        (
            "(u) => { const p = u.searchParams; u.search = 'c=2'; return [p.get('c'), u.searchParams === p] }",
            ["2", True],
        ),
        ("(u) => { const p = u.searchParams; u.href = 'http://i/?d=3'; return String(p) }", "d=3"),
        ("(u) => { try { u.href = 'x' } catch { } return u.href }", "http://h/?a=1#f"),
        ("(u) => JSON.stringify({ u })", '{"u":"http://h/?a=1#f"}'),
        ("(u) => new URL(u).href", "http://h/?a=1#f"),
        ("(u) => new URL('p', u).href", "http://h/p"),
        ("(u) => Object.prototype.toString.call(u)", "[object URL]"),
        ("() => [URL.length, URL.canParse.length]", [1, 1]),
        ("() => { try { new URL() } catch (e) { return String(e) } }", "TypeError: URL: too few arguments, 0 of 1"),
        ("() => { try { new URL(Symbol()) } catch (e) { return e.name } }", "TypeError"),
        ("() => { try { URL.prototype.toString.call({}) } catch (e) { return e.name } }", "TypeError"),
        ("() => new URL('http://h/?q=a+b%20c%zz%ff').searchParams.get('q')", "a b c%zz\ufffd"),
    ],
)
def test_properties_and_arguments_of_url(client: Client, expression: str, value: object) -> None:
    """A URL and its searchParams update each other, and the class accepts arguments as the standard says."""
    assert client.run_source(f"return ({expression})(new URL('http://h?a=1#f'))").value == value


@pytest.mark.parametrize("unit", ["abcd", "éééé", "\U0001f600\U0001f600", "%%%%", "    ", "it's", "a\nb\n", "a&b="])
def test_the_requests_url_can_hold_a_prompt_of_1_mib(client: Client, unit: str) -> None:
    """The longest prompt is recovered from the URL of a module's request, for characters with any encoding."""
    source = """export default { fetch(request) {
        const { href, search, searchParams } = new URL(request.url);
        const found = searchParams.get('prompt');
        return Response.json([found.length, found.slice(0, 4), found.slice(-4),
            href === request.url, search.slice(0, 8)]);
    } }"""
    prompt = unit * (2**20 // len(unit.encode()))
    code_units = len(prompt.encode("utf-16-le")) // 2
    found = client.run_source(source, prompt, limits=LimitsAsked(cpu_ms=1000))
    assert found.value == [code_units, unit, unit, True, "?prompt="]


def test_the_requests_url_is_not_parsed_again(client: Client) -> None:
    """URL objects of the request's own URL take less than half of the CPU time of those of a slightly different URL."""
    source = """export default { fetch(request, env) {
        const url = request.url + env.behind;
        for (let time = 0; time < 8; time++) new URL(url);
        return url.length - env.behind.length;
    } }"""
    prompt = "\u00e9" * 2**19
    length = len("http://localhost/?prompt=") + 6 * len(prompt)
    limits = LimitsAsked(cpu_ms=2000)

    def cpu_ms(behind: str) -> float:
        runs = [client.run_source(source, prompt, env={"behind": behind}, limits=limits) for _ in range(3)]
        assert [run.value for run in runs] == [length] * 3
        return min(run.usage.cpu_ms for run in runs)

    assert cpu_ms("") < 0.5 * cpu_ms("#")


def test_the_requests_url_is_normalized(client: Client) -> None:
    """The request's URL is in the standard's normalized form for any prompt, and parses to itself."""
    source = """export default { fetch(request) {
        const copy = new URL(request.url + '#x');
        return Response.json([request.url, new URL('/y?' + copy.searchParams, request.url).href,
            new Request(request).url]);
    } }"""
    written = "http://promptlog/?prompt=it%27s%20%22%3C%C3%A9"
    again = "http://promptlog/y?prompt=it%27s+%22%3C%C3%A9"
    assert client.run_source(source, "it's \"<é").value == [written, again, written]
