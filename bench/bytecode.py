"""Measures the gain of stored bytecode: runs of the same programs from source and from bytecode, in turn, on one cell.

    python -m bench.bytecode [--rounds 12] [--runs 40] [--scratch FOLDER]

The bundles come from npm into the scratch folder (a temporary one by default).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from bench.placement import zygote_figures
from promptlogd.config import Config
from sandbox.cells.job import Job
from sandbox.cells.process import only_child
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.limits import MIB, Limits
from sandbox.outcome import Ok
from sandbox.program import Artifact, Form
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, finish, until_blank
from tests.hosts import host

_ROOT = Path(__file__).parents[1]
_BUNDLE = (
    "const module = {{ exports: {{}} }}, exports = module.exports;\n"
    "(function () {{\n{}\n}}).call(globalThis);\nreturn {}(module.exports);"
)
_PACKAGES = ("lodash@4.17.21", "zod@3.23.8", "esbuild@0.25.0")
_LIMITS = Limits(cpu_ms=5000, wall_ms=60_000)
TITLES = ("child us", "both us", "child faults", "job bytes")


@dataclass(frozen=True, kw_only=True)
class _Program:
    name: str
    source: bytes


def programs(scratch: Path) -> list[_Program]:
    """Return the sample, and typical bundles."""
    if not (scratch / "node_modules/zod").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(scratch), *_PACKAGES]
        subprocess.run(command, check=True)
    modules = scratch / "node_modules"
    lodash = (modules / "lodash/lodash.min.js").read_text("utf-8")
    (scratch / "zod_all.js").write_text("module.exports = require('zod');\n")
    command = [str(modules / ".bin/esbuild"), str(scratch / "zod_all.js"), "--bundle", "--format=cjs"]
    zod = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scratch).stdout
    use_lodash = "((_) => _.chunk(_.range(6), 2))"
    use_zod = "((zod) => zod.z.object({ a: zod.z.string() }).safeParse({ a: 1 }).success)"
    return [
        _Program(name="examples/reverse.js", source=(_ROOT / "examples/reverse.js").read_bytes()),
        _Program(name="lodash.min.js", source=_BUNDLE.format(lodash, use_lodash).encode()),
        _Program(name="zod, bundled", source=_BUNDLE.format(zod, use_zod).encode()),
    ]


async def kept(cell: QuickJSCell, source: bytes) -> Artifact:
    """Return the artifact that a check makes of a program."""
    result = await finish(cell, Job(task=Task.CHECK, source=source, artifact_bytes=16 * MIB, limits=_LIMITS))
    assert isinstance(result.outcome, Checked), result
    assert result.outcome.code is not None
    await until_blank(cell)
    form = Form.MODULE if result.outcome.module else Form.BODY
    return Artifact(form=form, language="javascript", code=bytes(result.outcome.code))


async def measure(cell: QuickJSCell, source: bytes, artifact: Artifact, runs: int) -> Sequence[float]:
    """Return means for one run, in the order of TITLES."""
    limits = msgspec.structs.replace(Config().default_limits("quickjs"), wall_ms=60_000)
    job = Job(task=Task.RUN, source=source, artifact=artifact, prompt="hello world", limits=limits)
    zygote = only_child(cell.process.pid)
    assert zygote is not None
    child_us, before = 0.0, zygote_figures(zygote)
    for _ in range(runs):
        result = await finish(cell, job)
        assert isinstance(result.outcome, Ok), result.outcome
        child_us += result.usage.cpu_ms * 1000
        await until_blank(cell)
    zygote_us, _, faults = (now - then for now, then in zip(zygote_figures(zygote), before, strict=True))
    return [child_us / runs, (child_us + zygote_us) / runs, faults / runs, len(source) + len(artifact.code or b"")]


async def main() -> None:
    """Print medians over the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    print(f"{'':36s}" + "".join(f"{title:>14s}" for title in TITLES))
    with tempfile.TemporaryDirectory(prefix="promptlog-bytecode-", dir="/run") as name:
        folder = Path(name)
        folder.chmod(0o755)
        plan = await host("quickjs", folder / "root").plan(None)
        for program in programs(options.scratch or folder):
            async with a_cell(plan) as cell:
                artifact = await kept(cell, program.source)
                ways = {"from source": msgspec.structs.replace(artifact, code=None), "from bytecode": artifact}
                rounds: dict[str, list[Sequence[float]]] = {way: [] for way in ways}
                for number in range(options.rounds):
                    for way in sorted(ways, reverse=number % 2 == 0):
                        rounds[way].append(await measure(cell, program.source, ways[way], options.runs))
            for way, figures in rounds.items():
                medians = [statistics.median(column) for column in zip(*figures, strict=True)]
                print(f"{f'{program.name}, {way}':36s}" + "".join(f"{figure:14.1f}" for figure in medians))
            pairs = zip(rounds["from bytecode"], rounds["from source"], strict=True)
            ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in pairs]
            medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
            print(f"{'  bytecode / source, paired':36s}" + "".join(f"{ratio:14.2f}" for ratio in medians))


if __name__ == "__main__":
    trio.run(main)
