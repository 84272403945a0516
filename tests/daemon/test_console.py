"""`console` is the same on both engines, and what a program writes with it comes as one would read it elsewhere."""

from __future__ import annotations

import pytest

from promptlogctl.client import Client

_SOURCE = """
console.log("%s is %d of %i, %f%% %o%c.", "x", 5, "12px", "1.5", {a: 1}, "color: red", "rest", 1);
console.log("100%", 1);
console.log("%d %i", 10n, Symbol("s"));
console.group("outer"); console.log("in"); console.group(); console.warn("deeper"); console.groupEnd();
console.groupEnd(); console.groupEnd(); console.error("out");
console.count(); console.count("a"); console.count(); console.countReset(); console.count();
console.timeEnd("never begun");
console.log(new Map([["a", 1]]), new Set([1, "b"]), {}, new Map());
for (let i = 0; i < 100; i++) console.group();
console.info("deep");
const began = performance.now();
console.time();
while (performance.now() - began < 2);
console.timeEnd();
const result = null;
"""


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_console_formats_groups_and_counts(client: Client, engine: str) -> None:
    """Places in the first text, groups (32 deep at the most), counts, timers, the members of a Map and a Set."""
    result = client.run_source(_SOURCE, engine=engine)  # type: ignore[arg-type]
    assert result.ok, result.outcome
    lines = [(line.level, line.text) for line in result.logs]
    assert lines[:-1] == [
        ("log", 'x is 5 of 12, 1.5% {"a":1}. rest 1'),
        ("log", "100% 1"),
        ("log", "10 NaN"),
        ("log", "outer"),
        ("log", "  in"),
        ("warn", "    deeper"),
        ("error", "out"),
        ("info", "default: 1"),
        ("info", "a: 1"),
        ("info", "default: 2"),
        ("info", "default: 1"),
        ("log", 'Map(1) [["a",1]] Set(2) [1,"b"] {} Map(0) []'),
        ("info", 64 * " " + "deep"),
    ]
    level, text = lines[-1]
    assert level == "info"
    assert 1 <= float(text.strip().removeprefix("default: ").removesuffix("ms")) < 500


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_format_can_not_flood_the_log(client: Client, engine: str) -> None:
    """A text of a thousand places, each filled with a long one, ends at the log's limit."""
    source = "console.log('%s'.repeat(1000), ...Array(1000).fill('x'.repeat(10000))); const result = 1"
    result = client.run_source(source, engine=engine)  # type: ignore[arg-type]
    assert result.ok, result.outcome
    assert result.logs_truncated
    assert sum(len(line.text) for line in result.logs) <= 64 * 1024
