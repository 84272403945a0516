"""The bytes of one run on Deno, when the next process writes to the same socket."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from sandbox.cells.job import Job
from sandbox.engines.deno.host import stack
from sandbox.engines.deno.host.run import DenoRun
from sandbox.engines.host.run import Run
from sandbox.limits import Limits
from sandbox.outcome import LogLine
from sandbox.protocol.events import Trusted
from sandbox.protocol.frames import Task, job_frame
from sandbox.protocol.machine import Machine

_ABSENT = cast(Any, None)
"""Placeholder for collaborators that this test never calls."""


async def test_bytes_of_the_next_process_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a process has ended, only its own bytes are processed, even if this takes several turns."""
    data, jailed = socket.socketpair()
    with data, jailed:
        data.setblocking(False)
        lines: list[LogLine] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"", engine="deno", limits=Limits())
        run = Run(job, machine=Machine(), frame=job_frame(), stacks=stack, done=_ABSENT, on_lines=lines.extend)
        deno = DenoRun(
            run, _ABSENT, jail=_ABSENT, engine=_ABSENT, data=data, watch=_ABSENT, grouped=False,
            set_due=lambda _: None, over=_ABSENT,
        )  # fmt: skip
        settled: list[bool] = []
        monkeypatch.setattr(deno, "_settle", lambda *, ended: settled.append(ended))
        run.machine.happen(Trusted.JOB)
        run.send(data)
        jailed.recv(100)
        jailed.sendall(b"l\0\0\0\0021a" * 200)
        deno.on_end()
        assert 0 < len(lines) < 200
        jailed.sendall(b"next")
        while not settled:
            deno.on_data()
        deno.on_data()
        assert len(lines) == 200
        assert data.recv(100) == b"next"
