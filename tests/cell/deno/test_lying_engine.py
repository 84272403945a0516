"""What a Deno process says of a check is no more than a letter, or the program's own text without its types."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from sandbox.cells.job import Plan, Trial
from sandbox.engines.replies import Wrapped
from sandbox.outcome import Crashed
from tests.cell.deno.cells import a_cell, run_on

# In the place of nsjail and of Deno: a process that starts one other, which says that it is ready, reads its job and
# answers with what the test wants. The token of the run is the first thing in the job.
_ENGINE = """#!{python} -S
import os
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
else:
    os.write(1, b"R")
    job = b""
    while len(job) < 38 or len(job) < 38 + sum(int.from_bytes(job[at : at + 4], "big") for at in (18, 22, 26)):
        job += os.read(0, 65536)
    payload = bytes.fromhex("{payload}")
    os.write(1, job[:16] + b"w" + len(payload).to_bytes(4, "big") + payload)
    os.read(0, 1)
"""

SOURCE = "let secret: number = 1;\nreturn secret"
STRIPPED = "let secret         = 1;\nreturn secret"


async def _checked(plan: Plan, folder: Path, payload: bytes, language: str) -> Trial:
    engine = folder / "engine"
    engine.write_text(_ENGINE.format(python=sys.executable, payload=payload.hex()))
    engine.chmod(0o755)
    async with a_cell(msgspec.structs.replace(plan, executable=engine, cgroup=None, data_bytes=None)) as cell:
        return await run_on(cell, SOURCE, kind="check", language=language)


@pytest.mark.parametrize(
    ("language", "payload", "kept"),
    [
        ("javascript", b"B", b"B" + SOURCE.encode()),
        ("javascript", b"M", b"M" + SOURCE.encode()),
        ("typescript", b"T", b"T" + SOURCE.encode()),
        ("typescript", b"b" + STRIPPED.encode(), b"b" + STRIPPED.encode()),
        ("typescript", b"b" + STRIPPED.replace("return secret", "       secret").encode(), None),
    ],
)
async def test_an_honest_answer_is_kept(
    plan: Plan, tmp_path: Path, language: str, payload: bytes, kept: bytes | None
) -> None:
    """A letter stands for the text that the client sent; of TypeScript the text may have blanks in places."""
    trial = await _checked(plan, tmp_path, payload, language)
    assert isinstance(trial.checked, Wrapped), trial.outcome
    assert trial.checked.code == (kept or payload)


@pytest.mark.parametrize(
    ("language", "payload"),
    [
        ("javascript", b"Breturn 2"),
        ("javascript", b"T"),
        ("javascript", b"b" + STRIPPED.encode()),
        ("typescript", b"B"),
        ("typescript", b"Z"),
        ("typescript", b""),
        ("typescript", b"b" + STRIPPED.replace("1", "2").encode()),
        ("typescript", b"b" + STRIPPED.replace("\n", " ").encode()),
        ("typescript", b"b" + STRIPPED[:-1].encode()),
    ],
)
async def test_a_lie_is_not_kept(plan: Plan, tmp_path: Path, language: str, payload: bytes) -> None:
    """A letter of another language, code beside a letter, or a text with a byte of its own: nothing is kept."""
    trial = await _checked(plan, tmp_path, payload, language)
    assert trial.checked is None
    assert trial.outcome == Crashed(message="the engine wrote a form that there is not")
