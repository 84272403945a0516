"""The frame of a job for a QuickJS child. The jail's frames.c decodes it, and documents its format."""

from __future__ import annotations

import os
import struct

from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.wrapper import BODY, BRACKETS
from sandbox.program import Form
from sandbox.protocol.frames import Task, job_frame

_HEADER = struct.Struct(">cII12sI5I")
_SEED_BYTES = 12
_SEEDS = 128
"""Seeds of Math.random that are read from the kernel at once: a system call takes as long as the rest of a header."""

_BEFORE, _AFTER = BODY[0].encode(), BODY[1].encode()
_BRACKETS = BRACKETS.encode()
_seeds: list[bytes] = []


def _seed() -> bytes:
    """Return an unpredictable seed that was never returned before."""
    if not _seeds:
        data = os.urandom(_SEEDS * _SEED_BYTES)
        _seeds.extend(data[at : at + _SEED_BYTES] for at in range(0, len(data), _SEED_BYTES))
    return _seeds.pop()


def frame(job: Job) -> tuple[bytes | memoryview, ...]:
    """Return the frame of a job, in parts, without copying its texts."""
    before, bytecode, after, brackets = b"", b"", b"", b""
    match job.task:
        case Task.RUN:
            artifact = job.artifact
            assert artifact is not None
            body = artifact.form is Form.BODY
            if body:
                before, after = _BEFORE, _AFTER
            if artifact.code is not None:
                kind, bytecode = b"K", artifact.code
            else:
                kind = b"L" if body else b"M"
        case Task.CHECK:
            kind, brackets = b"C", _BRACKETS
        case Task.CHECK_AND_RUN:
            kind, brackets = b"S", _BRACKETS
    prompt, env = job.prompt_bytes(), job.env.encode()
    header = _HEADER.pack(
        kind,
        job.limits.result_bytes,
        job.limits.log_bytes,
        _seed(),
        job.artifact_bytes,
        len(before) + len(job.source) + len(after),
        len(bytecode),
        len(prompt),
        len(env),
        len(brackets),
    )
    return job_frame(header, before, *job.source_parts(), after, bytecode, prompt, env, brackets)
