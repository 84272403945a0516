"""The corpus of hostile programs: each ends as listed, leaks nothing, and leaves a daemon that goes on serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promptlogctl.client import Client, RunResult
from promptlogd.wire.messages import LimitsAsked

CASES: list[dict[str, Any]] = [
    case
    for name in ("corpus.jsonl", "more.jsonl")
    for case in map(json.loads, (Path(__file__).parent / name).read_text("ascii").splitlines())
    if "quickjs" in case["engines"]
]


def _source(case: dict[str, Any]) -> str:
    return str(case["source"] if "source" in case else eval(case["source_gen"]))


def _prompt(case: dict[str, Any]) -> str:
    return str(eval(case["prompt_gen"]) if "prompt_gen" in case else case.get("prompt", ""))


def _check(case: dict[str, Any], result: RunResult) -> None:
    expected = case["expect"]["quickjs"] if isinstance(case["expect"], dict) else case["expect"]
    kind = result.outcome.__struct_config__.tag
    assert kind in expected, result.outcome
    if kind == "ok" and "value" in case:
        assert result.value == case["value"]
    if "forbid" in case:
        assert case["forbid"] not in msgspec.json.encode(result).decode()
    if kind == "ok" and "truncated" in case:
        assert result.logs_truncated == case["truncated"]
    # The timer goes off within 3 ms; giving back the memory of a process of 120 MiB is accounted to it as well.
    assert result.usage.cpu_ms <= 80
    assert result.usage.peak_memory_bytes <= 128 << 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(client: Client, case: dict[str, Any]) -> None:
    """A hostile program has the outcome that the corpus lists, alone and in a crowd, and a canary answers after it."""
    source, prompt, env = _source(case), _prompt(case), case.get("env")
    repeat = case.get("repeat", 1)
    results = [client.run_source(source, prompt, env=env) for _ in range(repeat)]
    if repeat > 1:
        pending = [client.start(None, prompt, source=source, env=env) for _ in range(repeat)]
        results += [run.result() for run in pending]
    for result in results:
        _check(case, result)
    if case.get("distinct"):
        assert len({result.json for result in results}) == len(results)
    assert client.run_source("const result = prompt.length", "canary").value == 6


@pytest.mark.parametrize("case", [case for case in CASES if case["group"] == "memory"], ids=lambda case: case["name"])
def test_memory_case_with_cpu_to_spare(client: Client, case: dict[str, Any]) -> None:
    """With 5 s of CPU it is the memory limit that stops a memory bomb, or an error that the program saw."""
    limits = LimitsAsked(cpu_ms=5000, wall_ms=25_000)
    result = client.run_source(_source(case), _prompt(case), env=case.get("env"), limits=limits)
    expected = case["expect"]["quickjs"] if isinstance(case["expect"], dict) else case["expect"]
    assert result.outcome.__struct_config__.tag in expected, result.outcome
    assert result.usage.peak_memory_bytes <= 128 << 20
