"""The console formats values as Node's console does, on both engines, whatever a program does to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client, RunResult
from promptlogd.wire.messages import LimitsAsked

_ROWS = [json.loads(line) for line in (Path(__file__).parent / "console.jsonl").read_text("utf-8").splitlines()]
"""Arguments of console.log, and the text that Node 20 prints for them."""

_LIMITS = LimitsAsked(cpu_ms=3000, log_bytes=1 << 20)


def _texts(result: RunResult) -> list[str]:
    assert result.ok, result.outcome
    return [line.text for line in result.logs]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_values_are_formatted_as_in_node(client: Client, engine: Any) -> None:
    """Each row of the table gives its text: numbers, functions, classes, collections, cycles, depth, width, formats."""
    source = "\n".join(f"console.log({row['values']});" for row in _ROWS) + "\nreturn 1"
    texts = _texts(client.run_source(source, engine=engine, limits=_LIMITS))
    assert len(texts) == len(_ROWS) > 100
    for row, text in zip(_ROWS, texts, strict=True):
        assert text == row["text"], row["values"]


_RANDOM_DATA = r"""
let seed = 7;
const below = (count) => (seed = (seed * 1103515245 + 12345) % 2147483648) % 65536 % count;
const texts = ['', 'a', 'some words', "it's", 'line\nend', 'é日本', '😀', 'x'.repeat(60), '\ud800', '\u0085', '\\'];
const keys = ['id', 'name', 'a b', '1', 'constructor', '__proto__', 'é', 'x'.repeat(30), "k'", '_y', 'tags', 'n', 'z2'];
const leaves = [0, -0, 1, -17, 1.5, 1e21, NaN, Infinity, true, false, null, undefined, 7n];
leaves.push(Symbol('s'), () => 1, new Date(0));
const pick = (list) => list[below(list.length)];
const inner = [];
const value = (depth) => {
  const kind = below(depth > 4 ? 3 : 8);
  if (kind === 0) return pick(texts);
  if (kind === 1) return below(1000);
  if (kind === 2) return below(9) === 0 && inner.length ? pick(inner) : pick(leaves);
  const made = kind < 6 ? {} : [];
  inner.push(made);
  const count = below(depth ? 6 : 14);
  for (let i = 0; i < count; i++) {
    const member = value(depth + 1);
    if (Array.isArray(made)) made.push(member);
    else Object.defineProperty(made, pick(keys), {value: member, configurable: true, enumerable: below(20) > 0});
  }
  if (below(15) === 0) made.extra = 1;
  if (below(15) === 0) delete made[below(3)];
  if (below(30) === 0) made[Symbol('q')] = 2;
  inner.pop();
  return made;
};
for (let i = 0; i < 400; i++) console.log(value(0));
console.log(Array.from({length: 101}, (_, i) => i), Array.from({length: 130}, (_, i) => 'n' + i), Array(2000).fill(1n));
console.table([value(0), value(0), {a: [1], b: {c: 1}}]);
console.log('%o %O', value(0), value(0));
Object.prototype[Symbol.toStringTag] = 'Tagged';
console.log({a: 1}, [1]);
"""


def test_plain_data_is_the_same_on_both_engines(client: Client) -> None:
    """For values that the QuickJS cell formats in C, the text is the same as that of inspect.js on Deno."""
    on_deno = _texts(client.run_source(_RANDOM_DATA + "return 1", engine="deno", limits=_LIMITS))
    assert len(on_deno) == 404
    assert _texts(client.run_source(_RANDOM_DATA + "return 1", engine="quickjs", limits=_LIMITS)) == on_deno


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_other_console_methods(client: Client, engine: Any) -> None:
    """`dir` accepts a depth, `table` draws rows, columns, Maps and Sets, `clear` ends groups, all accept formats."""
    source = """const deep = {a: {b: {c: {d: 1}}}};
    console.dir(deep, {depth: 0}); console.dir('text'); console.dir(deep, {depth: null});
    console.table([{a: 1, b: 'x'}, {a: 2, c: {d: 1}}]); console.table([[1, 2]], [1]);
    console.table(new Map([['k', 1]])); console.table(new Set(['\\u65e5']));
    console.table({x: {a: 1}, y: 5}); console.table(7); console.table([]);
    console.group('%s %d', 'G', 1); console.info('%i', '12.7px'); console.clear(); console.debug('%s', 'out');
    console.trace('%j', {a: 1}); console.dirxml([1], 'x'); console.count('n%s'); console.warn('%O', {a: 1}, 'y');
    return 1"""
    assert _texts(client.run_source(source, engine=engine)) == [
        "{ a: [Object] }",
        "'text'",
        "{\n  a: { b: { c: { d: 1 } } }\n}",
        "┌─────────┬───┬─────┬──────────┐\n│ (index) │ a │ b   │ c        │\n├─────────┼───┼─────┼──────────┤\n"
        "│ 0       │ 1 │ 'x' │          │\n│ 1       │ 2 │     │ { d: 1 } │\n└─────────┴───┴─────┴──────────┘",
        "┌─────────┬───┐\n│ (index) │ 1 │\n├─────────┼───┤\n│ 0       │ 2 │\n└─────────┴───┘",
        "┌───────────────────┬─────┬────────┐\n│ (iteration index) │ Key │ Values │\n"
        "├───────────────────┼─────┼────────┤\n"
        "│ 0                 │ 'k' │ 1      │\n└───────────────────┴─────┴────────┘",
        "┌───────────────────┬────────┐\n│ (iteration index) │ Values │\n├───────────────────┼────────┤\n"
        "│ 0                 │ '日'   │\n└───────────────────┴────────┘",
        "┌─────────┬───┬────────┐\n│ (index) │ a │ Values │\n├─────────┼───┼────────┤\n"
        "│ x       │ 1 │        │\n│ y       │   │ 5      │\n└─────────┴───┴────────┘",
        "7",
        "┌─────────┐\n│ (index) │\n├─────────┤\n└─────────┘",
        "G 1",
        "  12",
        "out",
        'Trace: {"a":1}\n    at <anonymous> (program.js:7:13)',
        "[ 1 ] x",
        "n%s: 1",
        "{ a: 1 } y",
    ]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_options_groups_and_labels(client: Client, engine: Any) -> None:
    """`dir` knows Node's options, each `groupEnd` ends one group, and the values of `timeLog` fill no format."""
    source = """const list = [3, 1, 2];
    console.dir(list, {showHidden: true}); console.dir(Array(9).fill(1), {maxArrayLength: 2});
    console.dir('abcdef', {maxStringLength: 4}); console.dir({b: 1, a: 2}, {sorted: true});
    console.dir({a: {b: 1}}, {compact: false}); console.dir({a: 'x', b: 'y'}, {breakLength: 10});
    console.dir({a: 'x'.repeat(50), b: 'y'.repeat(50)}, {breakLength: Infinity});
    console.dir(new Proxy({a: 1}, {}), {showProxy: true}); console.dir({a: {b: {}}}, {depth: 0});
    console.table([{x: 1, 1: 2}, {0: 3}]); console.log('%j', {n: 1n});
    for (let i = 0; i < 40; i++) console.group(); console.groupEnd(); console.log('39');
    for (let i = 0; i < 39; i++) console.groupEnd(); console.log('0');
    console.time('t%s'); console.timeLog('t%s', 'value');
    console.log(new Map([[1, 2]]).keys(), [new ArrayBuffer(8).transfer].length, (() => {
      const old = new ArrayBuffer(2); old.transfer(); return old; })());
    return 1"""
    texts = _texts(client.run_source(source, engine=engine))
    bigint = {"quickjs": "BigInt are forbidden in JSON.stringify", "deno": "Do not know how to serialize a BigInt"}[
        engine
    ]
    assert texts[:10] == [
        "[ 3, 1, 2, [length]: 3 ]",
        "[ 1, 1, ... 7 more items ]",
        "'abcd'... 2 more characters",
        "{ a: 2, b: 1 }",
        "{\n  a: {\n    b: 1\n  }\n}",
        "{\n  a: 'x',\n  b: 'y'\n}",
        "{ a: '" + "x" * 50 + "', b: '" + "y" * 50 + "' }",
        "Proxy [ { a: 1 }, {} ]",
        "{ a: [Object] }",
        "┌─────────┬───┬───┬───┐\n│ (index) │ 0 │ 1 │ x │\n├─────────┼───┼───┼───┤\n"
        "│ 0       │   │ 2 │ 1 │\n│ 1       │ 3 │   │   │\n└─────────┴───┴───┴───┘",
    ]
    assert texts[10:13] == [f"[TypeError: {bigint}]", "  " * 39 + "39", "0"]
    assert re.fullmatch(r"t%s: [\d.]+ms value", texts[13])
    assert texts[14] == "[Map Iterator] { <items unknown> } 1 ArrayBuffer { (detached), byteLength: 0 }"


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_web_classes(client: Client, engine: Any) -> None:
    """An object that has only accessors is shown by their values."""
    source = """console.log(new URLSearchParams('a=1&b=2'), new Headers({k: 'v'}), [new URL('https://h.example/p?q=1')]);
    return 1"""
    (text,) = _texts(client.run_source(source, engine=engine))
    assert text.startswith("URLSearchParams { 'a' => '1', 'b' => '2' } Headers { 'k' => 'v' } [\n  URL {\n    href: ")
    assert "    searchParams: URLSearchParams { 'q' => '1' }," in text


_HOSTILE = [
    ("new Proxy({a: 1}, new Proxy({}, {get() { called = true; throw 1 }}))", "{ a: 1 }"),
    ("(() => { const {proxy, revoke} = Proxy.revocable({}, {}); revoke(); return proxy })()", "<Revoked Proxy>"),
    ("{get a() { called = true; throw 1 }}", "{ a: [Getter] }"),
    ("{toJSON() { called = true }, toString() { called = true }}", "{ toJSON: [Function: toJSON], toString: "),
    ("{b: {get [Symbol.toStringTag]() { throw 1 }}, c: 1}", "{ b: [object], c: 1 }"),
    ("Object.defineProperty(new Error('x'), 'stack', {get() { throw 1 }})", "[object]"),
    ("Object.assign(new Error('x'), {name: Symbol(), message: 1n})", "["),
    ("{constructor: {prototype: 1, name: {}}}", "{ constructor: { prototype: 1, name: {} } }"),
    ("Object.create(new Proxy({}, {getPrototypeOf() { throw 1 }}))", "[object]"),
    ("new Array(4294967295)", "[ <4294967295 empty items> ]"),
    ("Object.assign([], {4294967290: 1, 5: 2})", "[ <5 empty items>, 2, <4294967284 empty items>, 1 ]"),
    ("Array.from({length: 200000}, (_, i) => ({i}))", "[\n  { i: 0 },"),
    ("new Map(Array.from({length: 100000}, (_, i) => [i, i]))", "Map(100000) {\n  0 => 0,"),
    ("'x'.repeat(500000).split('')", "[\n  'x', "),
    ("['x'.repeat(500000)]", "[\n  'xxx"),
    ("(() => { let o = {}; for (let i = 0; i < 100000; i++) o = {o}; return o })()", "{ o: { o: { o: [Object] } } }"),
    ("(() => { let e = new Error('0'); for (let i = 0; i < 9; i++) e = new Error(i, {cause: e}); return [e] })()", "["),
    ("Object.fromEntries(Array.from({length: 50000}, (_, i) => ['k' + i, i]))", "{\n  k0: 0,"),
    ("[Object.setPrototypeOf([1], null), Object.setPrototypeOf(new Map, {})]", "[ [Array(1): null prototype] [ 1 ], "),
    ("Object.create(Date.prototype), Object.create(Map.prototype)", "Date {} Map {}"),
    ("{[Symbol.toStringTag]: 'Map'}", "{ [Symbol(Symbol.toStringTag)]: 'Map' }"),
    ("{valueOf() { throw 1 }, [Symbol.toPrimitive]() { throw 1 }}", "{\n  valueOf: [Function: valueOf],"),
    ("'%s %d %i %f', {toString() { throw 1 }}, {valueOf() { throw 1 }}, Symbol(), {}", "[object] NaN NaN NaN"),
]  # fmt: skip


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize(("values", "text"), _HOSTILE, ids=[values[:40] for values, _ in _HOSTILE])
def test_hostile_values(client: Client, engine: Any, values: str, text: str) -> None:
    """No value makes the console throw or take long, or call code of the value that Node would not call."""
    source = f"let called = false; console.log({values}); return called"
    result = client.run_source(source, engine=engine, limits=LimitsAsked(cpu_ms=1500))
    assert result.value is False, result.outcome
    assert result.logs[0].text.startswith(text)


_REPLACED = """
const broken = () => { throw new Error('taken over') };
const kept = Object.getOwnPropertyNames, define = Object.defineProperty;
for (const owner of [Array.prototype, String.prototype, Object, Reflect, RegExp.prototype, Map.prototype, Math,
  Number.prototype, Set.prototype, Error.prototype, Function.prototype, Symbol.prototype,
  Object.getPrototypeOf(Uint8Array.prototype)]) {
  const names = kept(owner);
  for (let i = 0; i < names.length; i++) {
    if (names[i] === 'constructor') continue;
    try { define(owner, names[i], {__proto__: null, value: broken, writable: true, configurable: true}); } catch {}
  }
}
for (let i = 0; i < 20; i++) {
  define(Array.prototype, i, {__proto__: null, set: broken, get: broken, configurable: true});
}
for (const at of ['value', 'get', 'set', 'writable', 'enumerable', 'length', 'done', 'state', 'left', 'then']) {
  define(Object.prototype, at, {__proto__: null, set: broken, get: broken, configurable: true});
}
"""


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_replaced_built_ins(client: Client, engine: Any) -> None:
    """The console uses the original built-ins, even if a program replaces them all."""
    values = "[1, {a: 'it\\'s'}], new Map([[1, new Set([2])]]), new Uint8Array(2), () => 1, [, 1]"
    values += ", {n: -0, s: Symbol('q')}, Array.from({length: 9}, (_, i) => i)"
    plain = _texts(client.run_source(f"console.log({values}); return null", engine=engine))
    assert plain[0].startswith('[ 1, { a: "it\'s" } ] Map(1) { 1 => Set(1) { 2 } } Uint8Array(2) [ 0, 0 ]')
    source = f"const made = [{values}]; const [a, b, c, d, e, f, g] = made; {_REPLACED}"
    broken = client.run_source(source + "console.log(a, b, c, d, e, f, g); return null", engine=engine)
    assert [line.text for line in broken.logs] == plain


_LONG = [
    "console.log(Array.from({length: 100}, () => Array.from({length: 100}, () => Array(100).fill(7))))",
    "console.log(Object.fromEntries(Array.from({length: 50000}, (_, i) => ['k' + i, 'v' + i])))",
    "console.log(Array(99).fill('x'.repeat(9000)))",
    "console.table(Array.from({length: 20000}, (_, i) => ({['c' + i % 300]: i})))",
    "console.table(Array.from({length: 20000}, (_, i) => [i, 'x']))",
    "console.log('%O '.repeat(5000), ...Array(5000).fill({a: [1, 2, {b: 3}]}))",
    "let o = 1; for (let i = 0; i < 999; i++) o = {o}; console.dir(o, {depth: 1/0}); console.log('z'.repeat(9e4))",
    "console.error(new AggregateError(Array.from({length: 500}, (_, i) => new Error('x'.repeat(2000) + i))))",
]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize("source", _LONG, ids=[source[:40] for source in _LONG])
def test_a_long_text_ends_at_the_limit(client: Client, engine: Any, source: str) -> None:
    """A value whose text exceeds the log limit is truncated there, and this is reported."""
    result = client.run_source(source + "; return 1", engine=engine, limits=LimitsAsked(cpu_ms=2000))
    assert result.value == 1, result.outcome
    assert result.logs_truncated
    size = sum(len(line.text.encode()) for line in result.logs)
    assert 60 * 1024 < size <= 64 * 1024
    assert result.usage.cpu_ms < 500
