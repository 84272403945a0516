"""The frame of a job for Deno's runner. The end of the jail's runner.js decodes it."""

from __future__ import annotations

import struct

from sandbox.cells.job import Job
from sandbox.program import Form
from sandbox.protocol.frames import Task, job_frame

READY = b"R"
"""Sent by the runner when it is ready for its job."""

TOKEN_BYTES = 16
"""Size of the secret that precedes each of the runner's frames."""

_HEADER = struct.Struct(">16scccIIIII")
_TASKS = {Task.RUN: b"R", Task.CHECK_AND_RUN: b"S", Task.CHECK: b"C"}
_LANGUAGES = {"javascript": b"j", "typescript": b"t"}
_FORMS = {Form.BODY: b"B", Form.MODULE: b"M"}


def frame(job: Job, token: bytes) -> tuple[bytes | memoryview, ...]:
    """Return the frame of a job, in parts, for a run with this token."""
    code, form, language = job.source_parts(), Form.BODY, job.language
    if job.artifact is not None:
        form, language = job.artifact.form, job.artifact.language
        if job.artifact.code is not None:
            code = (job.artifact.code,)
    prompt, env = job.prompt_bytes(), job.env.encode()
    sizes = (sum(map(len, code)), len(prompt), len(env), job.limits.result_bytes, job.limits.log_bytes)
    header = _HEADER.pack(token, _TASKS[job.task], _FORMS[form], _LANGUAGES[language], *sizes)
    return job_frame(header, *code, prompt, env)
