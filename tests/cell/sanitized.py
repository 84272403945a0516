"""Runs the hostile corpus and the conformance tables under ASan and UBSan: `make test-sanitized`. Takes minutes.

The cell is built with both sanitizers, which need memory and system calls that a child may not have. It therefore runs
without a jail, without the second filter and without a memory limit. pytest does not collect this module by default.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cell_build import checkout
from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.job import frame
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task

ROOT = Path(__file__).parents[2]
_NO_LIMIT = str(1 << 46)  # a limit above everything that is mapped at the start; the cell adds the mapped size
_FAULT = 99
"""Exit code of a process in which a sanitizer has found something."""

_HOSTILE = [
    json.loads(line)
    for name in ("corpus", "more")
    for line in (ROOT / f"tests/hostile/{name}.jsonl").read_text().splitlines()
]
_CASES = [case for case in _HOSTILE if "quickjs" in case["engines"] and case["group"] != "memory"]
_CASES += [
    case | {"name": case["id"]}
    for case in map(json.loads, (ROOT / "tests/conformance/cases.jsonl").read_text().splitlines())
]
_CASES += [
    {"name": f"place-{number}", "source": json.loads(line)["source"]}
    for number, line in enumerate((ROOT / "tests/conformance/places.jsonl").read_text().splitlines())
]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The data and control sockets of a zygote that was built with sanitizers."""
    executable = checkout.build(ROOT, ["TAKEOVER"], sanitized=True) / "quickjs-cell"
    data, their_data = socket.socketpair()
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = tmp_path_factory.mktemp("sanitized") / "log"
    options = f"log_path={log}:exitcode={_FAULT}:detect_leaks=0:allocator_may_return_null=1"
    with their_data, their_control:
        process = subprocess.Popen(
            [str(executable), "250", _NO_LIMIT, "no-filter"],
            stdin=their_data.fileno(),
            stdout=their_control.fileno(),
            env={"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options},
        )
    control.settimeout(60)
    assert control.recv(64) == b"R"
    yield data, control
    control.close()
    data.close()
    process.wait(20)
    assert list(log.parent.iterdir()) == []


def _run(data: socket.socket, control: socket.socket, job: bytes) -> int:
    """Run a job, and return the wait status of its child."""
    data.setblocking(True)
    data.sendall(job)
    while True:
        readable, _, _ = select.select([data, control], [], [], 60)
        assert readable, "it hangs"
        if control in readable:
            report = control.recv(64)
            assert report[:1] == b"E"
            break
        assert data.recv(1 << 20)
    while select.select([data], [], [], 0)[0]:
        assert data.recv(1 << 20)
    return int(struct.unpack_from("<i", report, 4)[0])


@pytest.mark.parametrize("task", [Task.CHECK_AND_RUN, Task.RUN, Task.CHECK])
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["name"])
def test_the_sanitizers_report_nothing(
    sockets: tuple[socket.socket, socket.socket], case: dict[str, Any], task: Task
) -> None:
    """Whatever a program does, the sanitizers find no error in the cell; the child exits or reaches its CPU limit."""
    source = case["source"] if "source" in case else eval(case["source_gen"])
    prompt = case.get("prompt", "") if "prompt_gen" not in case else eval(case["prompt_gen"])
    form = Form.MODULE if "export default" in source else Form.BODY
    artifact = Artifact(form=form, language="javascript") if task is Task.RUN else None
    job = Job(
        task=task, source=source.encode(), prompt=prompt, limits=Limits(), artifact=artifact, artifact_bytes=1 << 21
    )  # a check compiles, serializes and loads bytecode
    status = _run(*sockets, b"".join(frame(job)))
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGXCPU)
