"""The frame that hands a job to a QuickJS child. The other end is the jail's frames.c."""

from __future__ import annotations

import os
import struct

from msgspec import json

from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.wrapper import BODY, BRACKETS
from sandbox.program import Form
from sandbox.protocol.frames import Task, job_frame

_HEADER = struct.Struct(">cIIIII")
_SEEDS = struct.Struct("<iii")

_IN_THE_CALL = 4096
"""If the prompt and the env have up to so many characters, they stand in the text that the child evaluates: to the
engine, arguments cost less than a call of its host."""

_BEFORE, _AFTER = BODY[0].encode(), BODY[1].encode()
_BRACKETS = BRACKETS.encode()


def frame(job: Job) -> tuple[bytes, ...]:
    """Return the frame of a job, in parts: its texts are not copied."""
    prompt, env = b"", b""
    in_the_call = isinstance(job.prompt, str) and len(job.prompt) + len(job.env) <= _IN_THE_CALL
    if in_the_call:
        # A JSON string is a JavaScript string.
        given = json.encode(job.prompt) + b", " + json.encode(job.env)
    else:
        given = b"void 0, void 0"
        prompt, env = job.prompt_bytes(), job.env.encode()
    numbers = (job.limits.result_bytes, job.limits.log_bytes, *_SEEDS.unpack(os.urandom(_SEEDS.size)))
    arguments = b", %b, %d, %d, %d, %d, %d)" % (given, *numbers)
    code, before, after, brackets = job.source, b"", b"", b""
    if job.task is Task.RUN:
        assert job.artifact is not None
        if job.artifact.code is not None:
            code = job.artifact.code
        body = job.artifact.form is Form.BODY
        if body:
            before, after = _BEFORE, _AFTER
            if in_the_call:
                return job_frame(b"B", before, code, after, arguments)
        kind = b"L" if body else b"M"
    else:
        kind = b"S" if job.task is Task.CHECK_AND_RUN else b"C"
        brackets = _BRACKETS
    code_bytes = len(before) + len(code) + len(after)
    header = _HEADER.pack(kind, code_bytes, len(arguments), len(prompt), len(env), len(brackets))
    return job_frame(header, before, code, after, arguments, prompt, env, brackets)
