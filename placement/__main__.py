"""Runs the sample programs in a tracing cell, and writes the bytecode file and the placement table."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from cell_build import cache, cell, checkout, description, embedded, engine_source
from placement.table import TAKEN, Table, as_header
from sandbox.cells.job import Job
from sandbox.engines.quickjs.host.job import frame
from sandbox.engines.quickjs.host.root import build_root
from sandbox.limits import Limits
from sandbox.program import Artifact, Form
from sandbox.protocol.frames import Task

ROOT = Path(__file__).parents[1]
HEADER = ROOT / checkout.SOURCE_FOLDER / "placement.h"
BYTECODE = ROOT / embedded.ENGINES / embedded.BYTECODE
TRACE = "trace.out"

STARTS = 3
"""Number of cells that are traced. Their addresses differ, and a few of the writes depend on addresses."""

ANSWER_HEADER_BYTES = 5 + 1
"""The part before the bytecode in the reply to a check: the frame's header, and one letter for the form."""

WAIT_S = 120
"""Time limit of one run, because a traced run is slow."""

PROMPT = "hello world"
LIMITS = Limits(wall_ms=60_000)


def samples() -> dict[str, bytes]:
    """Return the sample programs by name."""
    paths = [*sorted((ROOT / "placement/samples").glob("*.js")), *sorted((ROOT / "examples").glob("*.js"))]
    return {path.name: path.read_bytes() for path in paths}


def jobs(source: bytes, bytecode: bytes) -> list[Job]:
    """Return the ways in which a program runs: checked and run at once, from its source, and from its bytecode."""
    form = Form.MODULE if b"export default" in source else Form.BODY
    once = Job(task=Task.CHECK_AND_RUN, source=source, prompt=PROMPT, limits=LIMITS)
    kept = [
        Job(
            task=Task.RUN, source=source, prompt=PROMPT, limits=LIMITS,
            artifact=Artifact(form=form, language="javascript", code=code),
        )
        for code in (None, bytecode)
    ]  # fmt: skip
    return [once, *kept]


def check(source: bytes) -> Job:
    """Return the job that compiles a program to bytecode."""
    return Job(task=Task.CHECK, source=source, artifact_bytes=1 << 20, limits=LIMITS)


def traces(executable: Path, root: Path) -> list[bytes]:
    """Start a cell without a jail, run all samples in it, and return the trace of each run."""
    noted = []
    data, their_data = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with data, control, their_data, their_control:
        control.settimeout(WAIT_S)
        process = subprocess.Popen(
            [str(executable), str(WAIT_S * 1000), str(1 << 30)],
            cwd=root,
            stdin=their_data.fileno(),
            stdout=their_control.fileno(),
            env={},
        )
        try:
            their_data.close()
            their_control.close()
            assert control.recv(64) == b"R"

            def done(job: Job) -> bytes:
                data.sendall(b"".join(frame(job)))
                kind, status = struct.unpack("=4si", control.recv(64)[:8])
                output = data.recv(1 << 20)
                assert (kind, status) == (b"E\0\0\0", 0), f"{job.source!r}: {kind!r} {status} {output!r}"
                return output

            for source in samples().values():
                for job in jobs(source, done(check(source))[ANSWER_HEADER_BYTES:]):
                    _forget(root / TRACE)
                    done(job)
                    noted.append((root / TRACE).read_bytes())
        finally:
            process.kill()
            process.wait()
    return noted


def _forget(trace: Path) -> None:
    """Clear the trace of the last run. The cell has mapped the file."""
    with trace.open("r+b") as file:
        taken = file.read().rstrip(b"\0")
        file.seek(0)
        file.write(bytes([TAKEN]) * len(taken))


def compile_scripts() -> bytes:
    """Return the content of the file with the scripts' bytecode."""
    made = checkout.build(ROOT, ["COMPILE"])
    done = subprocess.run([made / cell.EXECUTABLE, "compile"], env={}, stdout=subprocess.PIPE, check=True)
    engine = engine_source.find(cache.open_folder())
    assert engine is not None, "the build has just used it"
    return embedded.bytecode_file(ROOT, engine, done.stdout)


def main() -> None:
    """Write the scripts' bytecode, and then the placement table of a cell with this bytecode, to the source tree."""
    BYTECODE.write_bytes(compile_scripts())
    made = checkout.build(ROOT, ["TRACE"])
    engine_build = json.loads((made / description.FACTS).read_bytes())["engine_build"]
    with tempfile.TemporaryDirectory(prefix="promptlog-placement-") as name:
        root = build_root(Path(name) / "root").path
        noted = [run for _ in range(STARTS) for run in traces(made / cell.EXECUTABLE, root)]
    table = Table.from_traces(noted)
    HEADER.write_text(as_header(table, engine_build))
    print(
        f"{HEADER.relative_to(ROOT)}: of {table.blocks} blocks, many runs write to {len(table.by_many)}, "
        f"some to {len(table.by_some)}"
    )


if __name__ == "__main__":
    main()
