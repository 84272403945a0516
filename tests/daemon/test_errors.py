"""What programs can read from their own errors, and what is reported of errors: the same on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import OutputLimit, ProgramException

_STACKS = """
class Own extends Error {
  constructor(message) { super(message); this.name = 'Own'; Error.captureStackTrace(this, Own); }
}
const made = (make) => { try { return make() } catch (error) { return error } };
const errors = [
  made(() => new Error('text')), made(() => null.x), made(() => JSON.parse('{')),
  made(() => new Function('let x = ;')), made(() => new Own('mine')), made(() => new RangeError('two\\nlines')),
  made(() => new Error()), made(() => atob('*')),
  made(() => { const o = {name: 'N', message: 'm'}; Error.captureStackTrace(o); return o }),
  made(() => { const o = {}; Error.captureStackTrace(o); return o }),
];
const lines = errors.map(({stack}) => stack.split('\\n    at ')[0].split(': ')[0]);
const framed = errors.map(({stack}) => /\\n    at [^]*[^\\n]$/.test(stack));
const limit = Error.stackTraceLimit;
Error.stackTraceLimit = 0;
const short = new Error('short').stack;
Error.stackTraceLimit = limit;
Error.prepareStackTrace = (error, sites) => 'own: ' + error.message;
const prepared = new Error('p').stack;
Error.prepareStackTrace = undefined;
const assigned = new Error('a');
assigned.stack = undefined;
const json = JSON.stringify(Object.assign(new Error('a'), {stack: 's', code: 1}));
const inherited = Object.create(errors[0]).stack;
const [first] = errors[0].stack.split('\\n'), [none] = new Error('').stack.split('\\n');
return {lines, framed, short, prepared, assigned: typeof assigned.stack, json, inherited: typeof inherited, first, none,
  own: errors[4].stack.includes('captureStackTrace'), keys: Object.keys(errors[4])};
"""


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_stack_begins_with_name_and_message(client: Client, engine: Any) -> None:
    """Stacks begin as in V8 for all kinds of errors and captureStackTrace; programs may assign and format them."""
    value: Any = client.run_source(_STACKS, engine=engine).value
    names = ["Error", "TypeError", "SyntaxError", "SyntaxError", "Own", "RangeError", "Error", "InvalidCharacterError"]
    assert value.pop("lines") == [*names, "N", "Error"]
    assert value.pop("framed") == [True] * 10
    assert value.pop("inherited") in ("string", "undefined")
    assert value == {
        "short": "Error: short",
        "prepared": "own: p",
        "assigned": "undefined",
        "json": '{"code":1}',
        "own": False,
        "keys": ["name"],
        "first": "Error: text",
        "none": "Error",
    }


def test_an_error_whose_name_can_not_be_read(client: Client) -> None:
    """On QuickJS, an error has a stack even if its name throws or is not a string."""
    source = """const e = new Error('m'); Object.defineProperty(e, 'name', {get() { throw 1 }});
    const f = new Error('m'); f.name = Symbol('s'); const g = Object.create(Error.prototype);
    return [e.stack, f.stack].map((stack) => stack.slice(0, 12)).concat(typeof g.stack)"""
    assert client.run_source(source).value == ["Error\n    at", "Error\n    at", "undefined"]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_errors_in_the_console(client: Client, engine: Any) -> None:
    """Errors inside logged values have indented frames that refer to the program, and their own properties."""
    source = """const inner = () => new TypeError('inner');
const f = () => Object.assign(new Error('boom', { cause: inner() }), { code: 5 });
const error = f();
console.log({ error, n: 1 });
console.log('%s!', error);
console.group();
console.log(error);
"""
    texts = [line.text for line in client.run_source(source + "return 1", engine=engine).logs]
    frames = [line.strip() for line in texts[0].split("\n") if " at " in line]
    assert [frame.split(" (")[0] for frame in frames[:2]] == ["at f", "at <anonymous>"]
    assert [frame.split(" (")[0] for frame in frames[2:]] == ["at inner", "at f", "at <anonymous>"]
    assert all("(program.js:" in frame for frame in frames)
    at_f, at_top, inner, inner_f, inner_top = frames
    assert texts[0].split("\n") == [
        "{",
        "  error: Error: boom",
        f"      {at_f}",
        f"      {at_top}",
        "    code: 5,",
        "    [cause]: TypeError: inner",
        f"        {inner}",
        f"        {inner_f}",
        f"        {inner_top}",
        "  },",
        "  n: 1",
        "}",
    ]
    assert at_top.endswith(") {")
    assert texts[1].startswith(f"Error: boom\n    {at_f}\n    {at_top}\n  code: 5,")
    assert texts[1].endswith("\n}!")
    assert texts[2].startswith(f"  Error: boom\n      {at_f}\n      {at_top}\n    code: 5,\n")


_LARGE = [
    ("'\\u20ac'.repeat(1200000)", 3_600_002),
    ("['\\u{1f600}'.repeat(100000), 'é'.repeat(500000)]", 1_400_007),
    ("'x'.repeat(7000000)", 7_000_002),
    ("'x' + '\\u{1f600}'.repeat(1100000)", 4_400_003),
    ("'\\ud800'.repeat(400000)", 1_200_002),
]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize(("code", "used"), _LARGE)
def test_the_size_of_a_large_result_is_reported_in_bytes(client: Client, engine: Any, code: str, used: int) -> None:
    """The reported size is in bytes of UTF-8, whether the engine or the daemon finds the result over the limit."""
    limits = LimitsAsked(cpu_ms=3000, wall_ms=9000)
    assert client.run_source(f"return {code}", engine=engine, limits=limits).outcome == OutputLimit(
        limit=1 << 20, used=used
    )


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_the_log_limit_counts_reported_lines(client: Client, engine: Any) -> None:
    """Each line counts its bytes plus 16. The line that crosses the limit is truncated, and later lines are dropped."""
    frames = "'E\\n' + '    at f (x:1:1)\\n'.repeat(50)"
    for line in ("'x'", "'é'.repeat(100)", "'\\u{1f600}'.repeat(7)", "new Error('x')", "{a: 1}", frames):
        source = f"for (let i = 0; i < 5000; i++) console.log({line}); return 1"
        limits = LimitsAsked(cpu_ms=5000, wall_ms=9000, log_bytes=20_000)
        result = client.run_source(source, engine=engine, limits=limits)
        assert result.value == 1, result.outcome
        assert result.logs_truncated, line
        sizes = [len(line.text.encode()) + 16 for line in result.logs]
        assert sum(sizes) - sizes[-1] < 20_000 <= sum(sizes) + 3, line  # truncation keeps whole characters


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_lines_up_to_the_limit_are_complete(client: Client, engine: Any) -> None:
    """Lines that fill the log limit exactly are not truncated or reported as truncated."""
    limits = LimitsAsked(log_bytes=1000)
    result = client.run_source(
        "for (let i = 0; i < 10; i++) console.log('é'.repeat(42)); return 1", engine=engine, limits=limits
    )
    assert [line.text for line in result.logs] == ["é" * 42] * 10
    assert not result.logs_truncated


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_value_that_logs_while_it_is_formatted(client: Client, engine: Any) -> None:
    """A getter that the console calls may log lines, which count against the same limit."""
    source = """const flood = () => { for (let i = 0; i < 50; i++) console.log('x'.repeat(60000)) };
    console.log({ get [Symbol.toStringTag]() { flood(); return 'T' } }); return 1"""
    result = client.run_source(source, engine=engine, limits=LimitsAsked(cpu_ms=1000))
    assert result.value == 1, result.outcome
    assert result.logs_truncated


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_logging_a_cycle_is_cheap(client: Client, engine: Any) -> None:
    """A cyclic value can be logged often. JSON.stringify of V8 would take 20 ms to detect the cycle."""
    source = "const a = {n: 'u'}; a.self = a; for (let i = 0; i < 100; i++) console.log(a); return 1"
    result = client.run_source(source, engine=engine, limits=LimitsAsked(cpu_ms=500))
    assert result.value == 1, result.outcome
    assert {line.text for line in result.logs} == {"<ref *1> { n: 'u', self: [Circular *1] }"}


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_thrown_values_causes_and_inner_errors(client: Client, engine: Any) -> None:
    """A thrown value, a cause and the members of an AggregateError are formatted as in the console, up to a bound."""
    for code, message in (
        ("throw {n: NaN, f() {}}", "thrown: { n: NaN, f: [Function: f] }"),
        ("throw undefined", "thrown: undefined"),
        ("throw -0", "thrown: -0"),
        ("throw ['x'.repeat(20000)]", "thrown: [\n  '" + "x" * 10_000 + "'... 10000 more characters\n]"),
    ):
        outcome = client.run_source(code, engine=engine).outcome
        assert isinstance(outcome, ProgramException)
        assert outcome.message == message
    source = "throw new AggregateError([{a: [1]}, new Error('e', {cause: new Map([[1, 2]])})], 'all', {cause: {b: -0}})"
    outcome = client.run_source(source, engine=engine).outcome
    assert isinstance(outcome, ProgramException)
    parts = outcome.stack.split("\nOne of its errors: ")
    assert parts[1] == "{ a: [ 1 ] }"
    assert parts[2].startswith("Error: e\n    at ")
    assert parts[2].endswith("\nCaused by: Map(1) { 1 => 2 }\nCaused by: { b: -0 }")
