"""Programs run from bytecode behave as from their source. Damaged bytecode affects only its own run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.job import Job, Result
from sandbox.cells.plan import Plan
from sandbox.limits import MIB, Limits
from sandbox.outcome import Crashed, Ok, ProgramException
from sandbox.program import Artifact, Form
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, finish, run_on, until_blank

_LIMITS = Limits(cpu_ms=5000, wall_ms=60_000)

_PROGRAMS: dict[str, str] = json.loads(Path(__file__).with_name("bytecode.json").read_text("utf-8"))
"""Programs, by the name of the feature that they use."""


async def _checked(cell: Cell, source: str, artifact_bytes: int = 4 * MIB) -> Artifact:
    """Return the outcome of a check of this program."""
    job = Job(task=Task.CHECK, source=source.encode(), artifact_bytes=artifact_bytes, limits=_LIMITS)
    result = await finish(cell, job)
    checked = result.outcome
    assert isinstance(checked, Checked), result
    await until_blank(cell)
    form = Form.MODULE if checked.module else Form.BODY
    return Artifact(form=form, language="javascript", code=None if checked.code is None else bytes(checked.code))


async def _run(cell: Cell, source: str, artifact: Artifact, limits: Limits = _LIMITS) -> Result:
    with trio.fail_after(90):
        job = Job(
            task=Task.RUN, source=source.encode(), artifact=artifact, prompt="p", env='{"a":"b"}', limits=limits,
        )  # fmt: skip
        result = await finish(cell, job)
    return msgspec.structs.replace(
        result, usage=msgspec.structs.replace(result.usage, cpu_ms=0, wall_ms=0, peak_memory_bytes=0)
    )


@pytest.mark.parametrize("name", _PROGRAMS)
async def test_bytecode_behaves_like_its_source(plan: Plan, name: str) -> None:
    """Outcome, value, places, stacks, console lines and function texts are the same from bytecode and from source."""
    source = _PROGRAMS[name]
    async with a_cell(plan) as cell:
        artifact = await _checked(cell, source)
        assert artifact.code is not None
        from_source = await _run(cell, source, msgspec.structs.replace(artifact, code=None))
        await until_blank(cell)
        assert await _run(cell, source, artifact) == from_source
        assert isinstance(from_source.outcome, Ok | ProgramException)


async def test_bytecode_stores_its_source_once(plan: Plan) -> None:
    """Bytecode is little larger than its source, however deep functions are nested, and contains all of it."""
    deep = 6
    inner = "return '" + "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) + "'"
    source = "return " + "(() => { return " * (deep - 1) + "(() => {" + inner + "})()" * deep
    async with a_cell(plan) as cell:
        artifact = await _checked(cell, source)
        assert artifact.code is not None
        assert len(artifact.code) < 1.5 * len(source.encode())
        result = await _run(cell, source, artifact)
        assert isinstance(result.outcome, Ok)
        assert len(msgspec.json.decode(result.outcome.value)) == 20_000


async def test_bytecode_takes_less_cpu_time_than_parsing(plan: Plan) -> None:
    """From bytecode, a program of 200 KB takes less than half of the CPU time that it takes from its source."""
    source = (
        "".join(f"function f{n}(a, b) {{ return a.map((x) => x * {n} + b) }}\n" for n in range(4000))
        + "return f7([1], 2)"
    )
    async with a_cell(plan) as cell:
        artifact = await _checked(cell, source)
        used: list[list[float]] = [[], []]
        for _ in range(5):
            for kept, times in zip((artifact, msgspec.structs.replace(artifact, code=None)), used, strict=True):
                job = Job(task=Task.RUN, source=source.encode(), artifact=kept, limits=_LIMITS)
                result = await finish(cell, job)
                assert isinstance(result.outcome, Ok)
                times.append(result.usage.cpu_ms)
                await until_blank(cell)
        assert min(used[0]) < min(used[1]) / 2


async def test_bytecode_over_the_size_limit_is_omitted(plan: Plan) -> None:
    """If bytecode exceeds the size that the check may return, the check returns only the form."""
    async with a_cell(plan) as cell:
        assert (await _checked(cell, "return 1", artifact_bytes=100)).code is None
        assert (await _checked(cell, "return 1", artifact_bytes=0)).code is None


async def test_a_check_without_time_for_bytecode_succeeds(plan: Plan) -> None:
    """A check that has used more than a third of its CPU time returns the form and no bytecode."""
    source = "".join(f"function f{n}(a, b) {{ return a.map((x) => x * {n} + b) }}\n" for n in range(4000))
    async with a_cell(plan) as cell:
        job = Job(task=Task.CHECK, source=source.encode(), artifact_bytes=4 * MIB, limits=_LIMITS)
        used = (await finish(cell, job)).usage.cpu_ms
        await until_blank(cell)
        limits = msgspec.structs.replace(_LIMITS, cpu_ms=int(used * 0.9))  # of the time for check and bytecode
        result = await finish(cell, msgspec.structs.replace(job, limits=limits))
        assert isinstance(result.outcome, Checked), result
        assert result.outcome.code is None


@pytest.mark.parametrize("code", [b"x", b"garbage" * 100, b"\0\0\0\4abcd", b"\0" * 16, b"\xff" * 40])
async def test_data_that_is_not_bytecode_is_not_run(plan: Plan, code: bytes) -> None:
    """The run crashes, and its result reports that the code is unusable."""
    artifact = Artifact(form=Form.BODY, language="javascript", code=code)
    async with a_cell(plan) as cell:
        result = await _run(cell, "return 1", artifact)
        assert isinstance(result.outcome, Crashed)
        assert "can't be loaded" in result.outcome.message
        assert result.artifact_failed


async def test_bytecode_with_another_source_affects_only_its_run(plan: Plan) -> None:
    """Bytecode refers to its source. With another source, it fails to load, or does only what a program may do."""
    async with a_cell(plan) as cell:
        artifact = await _checked(cell, _PROGRAMS["nested toString"])
        await _run(cell, "return 1", artifact)
    async with a_cell(plan) as cell:
        assert isinstance((await run_on(cell, "return 1")).outcome, Ok)


async def test_forged_bytecode_stays_in_its_process(plan: Plan) -> None:
    """Randomly changed bytecode affects only its own process; the next runs are correct.

    The engine checks bytecode only superficially. Running it equals running native code behind the second filter, as
    when a
    program has taken over its process.
    """
    chance = random.Random(15)
    source = _PROGRAMS["classes"] + ";" + "/* " + "é" * 200 + " */"
    limits = Limits(cpu_ms=200, wall_ms=2000)
    outcomes = set()
    async with a_cell(plan) as cell:
        artifact = await _checked(cell, source)
    code = artifact.code
    assert code is not None
    at = 8  # after two sizes follow the version of the bytecode format and its checksum
    assert code[at] == 28
    code = code[: at + 1] + b"\xff" * 4 + code[at + 5 :]  # this value disables the checksum
    tries = 0
    while tries < 30:
        async with a_cell(plan) as cell:
            while cell.usable and tries < 30:
                forged = bytearray(code)
                for _ in range(chance.choice((1, 1, 2, 5))):
                    forged[chance.randrange(at + 5, len(forged))] = chance.randrange(256)
                tries += 1
                result = await _run(
                    cell, source, Artifact(form=Form.BODY, language="javascript", code=bytes(forged)), limits
                )
                outcomes.add(type(result.outcome).__name__)
                with trio.fail_after(20):
                    while not cell.blank and cell.usable:
                        await trio.sleep(0.001)
                if cell.usable:
                    honest = await run_on(cell, "return [prompt, 1 + 1]", prompt="q")
                    assert honest.outcome == Ok(value=msgspec.Raw(b'["q",2]'))
                    await until_blank(cell)
    assert "Crashed" in outcomes
