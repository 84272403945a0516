"""The one frame that hands a job to an engine's process. Pure; the other end reads it (zygote.py, runner.js)."""

from __future__ import annotations

import os
import struct

from msgspec import json

from sandbox.cells.job import Job

_QUICKJS_HEADER = struct.Struct(">cIIII")
_SEEDS = struct.Struct("<iii")
_IN_THE_CALL = 4096
"""Up to so many characters, prompt and env stand in the text that a QuickJS child evaluates."""

_DENO_HEADER = struct.Struct(">16sccIIIII")
TOKEN_BYTES = 16
"""Of the secret that Deno's runner puts before each of its frames."""


def quickjs_frame(job: Job) -> bytes:
    """Return the frame that a QuickJS child reads (zygote.py, `_read_job`)."""
    prompt, env = b"", b""
    in_the_call = len(job.prompt) + len(job.env) <= _IN_THE_CALL
    if in_the_call:
        # A JSON string is a JavaScript string; to the engine, arguments cost less than a call of the host's.
        given = json.encode(job.prompt) + b", " + json.encode(job.env)
    else:
        given = b"void 0, void 0"
        prompt, env = job.prompt.encode(), job.env.encode()
    numbers = (job.limits.result_bytes, job.limits.log_bytes, *_SEEDS.unpack(os.urandom(_SEEDS.size)))
    arguments = b", %b, %d, %d, %d, %d, %d)" % (given, *numbers)
    code = job.code
    if job.kind == "run":
        # The wrapped code's first letter tells a body from a module.
        if code[:1] == b"B" and in_the_call:
            return b"%08d%b%b" % (8 + len(code) + len(arguments), code, arguments)
        kind, code = (b"L" if code[:1] == b"B" else b"M"), code[1:]
    else:
        kind = b"S" if job.kind == "source" else b"C"
    header = _QUICKJS_HEADER.pack(kind, len(code), len(arguments), len(prompt), len(env))
    parts = (header, code, arguments, prompt, env)
    return b"".join((b"%08d" % (8 + sum(map(len, parts))), *parts))


def deno_frame(job: Job, token: bytes) -> bytes:
    """Return the frame that Deno's runner reads (runner.js)."""
    kind = {"run": b"R", "source": b"S", "check": b"C"}[job.kind]
    language = b"t" if job.language == "typescript" else b"j"
    prompt, env = job.prompt.encode(), job.env.encode()
    sizes = (len(job.code), len(prompt), len(env), job.limits.result_bytes, job.limits.log_bytes)
    return b"".join((_DENO_HEADER.pack(token, kind, language, *sizes), job.code, prompt, env))
