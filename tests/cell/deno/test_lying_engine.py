"""A Deno process can answer a check only with the form of the program, and with its own text without types."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from sandbox.cells.plan import Plan
from sandbox.outcome import Crashed
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import run_on
from tests.cell.deno.cells import a_cell
from tests.hosts import host

# Takes the place of nsjail and Deno. It starts a process that reports ready, reads its job, and answers with the
# payload
# of the test. The token of the run comes first in the job.
_ENGINE = """#!{python} -S
import os
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
else:
    os.write(1, b"R")
    job = b""
    while len(job) < 5 or len(job) < 5 + int.from_bytes(job[1:5], "big"):
        job += os.read(0, 65536)
    payload = bytes.fromhex("{payload}")
    os.write(1, job[5:21] + b"f" + len(payload).to_bytes(4, "big") + payload)
    os.read(0, 1)
"""

SOURCE = "let secret: number = 1;\nreturn secret"
STRIPPED = "let secret         = 1;\nreturn secret"
BLANKED = STRIPPED.replace("return secret", "       secret")


async def _checked(plan: Plan, folder: Path, payload: bytes, language: Language) -> Artifact | Crashed | None:
    """Return the artifact after a check whose process answers with this payload."""
    engine = folder / "engine"
    engine.write_text(_ENGINE.format(python=sys.executable, payload=payload.hex()))
    engine.chmod(0o755)
    async with a_cell(msgspec.structs.replace(plan, executable=engine, cgroup=None, data_bytes=None)) as cell:
        outcome = (await run_on(cell, SOURCE, task=Task.CHECK, language=language)).outcome
    if isinstance(outcome, Crashed):
        return outcome
    assert isinstance(outcome, Checked)
    return await host("deno", folder).artifact(SOURCE.encode(), language, outcome)


_BODY, _MODULE = (Artifact(form=form, language="javascript") for form in Form)


@pytest.mark.parametrize(
    ("language", "payload", "kept"),
    [
        ("javascript", b"B", _BODY),
        ("javascript", b"M", _MODULE),
        ("typescript", b"B", Artifact(form=Form.BODY, language="typescript")),
        ("typescript", b"M", Artifact(form=Form.MODULE, language="typescript")),
        ("typescript", b"B" + STRIPPED.encode(), msgspec.structs.replace(_BODY, code=STRIPPED.encode())),
        ("typescript", b"B" + BLANKED.encode(), msgspec.structs.replace(_BODY, code=BLANKED.encode())),
    ],
)
async def test_a_valid_answer_is_stored(
    plan: Plan, tmp_path: Path, language: Language, payload: bytes, kept: Artifact
) -> None:
    """The answer is a letter for the form.

    For TypeScript, the submitted text with blanks in place of types may follow.
    """
    assert await _checked(plan, tmp_path, payload, language) == kept


@pytest.mark.parametrize(
    ("language", "payload"),
    [
        ("javascript", b"Breturn 2"),
        ("javascript", b"T"),
        ("javascript", b"B" + STRIPPED.encode()),
        ("typescript", b"Z"),
        ("typescript", b""),
        ("typescript", b"B" + STRIPPED.replace("1", "2").encode()),
        ("typescript", b"B" + STRIPPED.replace("\n", " ").encode()),
        ("typescript", b"B" + STRIPPED[:-1].encode()),
        ("typescript", b"B" + STRIPPED.encode() + b" "),
    ],
)
async def test_a_forged_answer_is_not_stored(plan: Plan, tmp_path: Path, language: Language, payload: bytes) -> None:
    """An unknown form, code for JavaScript, or a text that differs in more than blanks is not stored."""
    assert not isinstance(await _checked(plan, tmp_path, payload, language), Artifact)
