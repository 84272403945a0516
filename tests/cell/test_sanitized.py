"""The cell's debug build with the real protocol and without a jail.

ASan checks all code, UBSan promptlog's own files.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cell_build import cell, checkout, compiler
from sandbox.cells.plan import Plan
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.engines.quickjs.host.root import build_root
from sandbox.jail.cell_cgroup import JailGroup
from sandbox.jail.identities import Identity, shared
from sandbox.limits import MIB, Limits
from sandbox.outcome import CpuLimit, MemoryLimit, Ok, OutputLimit, ProgramException, ProgramSyntaxError, WallLimit
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, run_on, until_blank

_CPU_MS = 20_000
"""Enough CPU time on a busy machine, because sanitizers slow the cell down by a multiple."""

_EVERYTHING = """
console.log('é'.repeat(5000), new Map([[1, {a: 2n}]]), new Error('x', {cause: [1]}));
const bytes = new TextEncoder().encode(prompt), broken = new Uint8Array([0xef, 0xbb, 0xbf, 0xf0, 0x9f, 65, 0xc0]);
const url = new URL('http://example.org/ü/a/../b?c=%ff#d'), form = new URLSearchParams('a=%f0%9f&b=1');
const texts = [new TextDecoder().decode(bytes), new TextDecoder().decode(broken), url.href, form.get('a')];
const items = Array.from({length: 3000}, (_, i) => ({i: i * 7919 % 3000, text: 'x'.repeat(i)}));
const sorted = items.sort((a, b) => a.i - b.i);
const found = 'ab'.repeat(1000).replace(/(?<x>a)b/gu, '$<x>').length, date = new Date(0).toISOString();
return [prompt.length, texts.map((text) => text.length), sorted[2].i, found, date, JSON.stringify({a: 'é'}).length];
"""

_ERRORS = """
const broken = [() => { const o = {}; o.a.b\n.c(1); }, () => { const { a: [b] } = null; },
  () => { const [c] = prompt.length; },
  () => { const d = 1; d += 2; }, () => { new prompt.x(1); }, () => Math.max(...1), () => prompt[0](`${1}`),
  () => { class E { f = this.g.h; } new E(); }, () => [1].map(1), () => { class F {} F(); }, () => Symbol() + ''];
for (const run of broken) {
  try { run(); } catch (error) { console.log(error.stack, error); }
}
const plain = [1, 'é😀', { k: -0, 'a b': 1.5, n: [null, undefined, [], {}] }];
console.log(plain, Array(120).fill('x'), Object.create({ a: 1 }));
return broken.length;
"""

_PROMPTS = ("é" * 20_000, "p")

_SHORTER = """
const buffer = new ArrayBuffer(1 << 16, {maxByteLength: 1 << 16}), view = new Uint8Array(buffer);
Uint8Array.prototype.subarray = () => view;
buffer.resize(8);
return new TextDecoder().decode(new Uint8Array(1));
"""


class _Bare(Plan, frozen=True, kw_only=True):
    """A shell in place of nsjail."""

    def arguments_for(self, identity: Identity, group: JailGroup | None = None) -> list[str]:
        """Return the arguments without the identity, which only nsjail understands."""
        return self.arguments


@pytest.fixture(scope="module")
def debug_build() -> Path:
    """The executable. The first build takes a minute; later ones come from the build's cache."""
    if compiler.choose(compiler.target_architecture()).is_zig:
        pytest.skip("a debug build needs the machine's own C compiler, with its sanitizers")
    return checkout.build(Path(__file__).parents[2], sanitized=True) / cell.EXECUTABLE


@asynccontextmanager
async def _debug_cell(debug_build: Path, folder: Path, limits: Limits) -> AsyncIterator[QuickJSCell]:
    """A cell of this build. When it ends, the sanitizers must have reported nothing."""
    if not (folder / "root").exists():
        build_root(folder / "root")
    found = folder / "found"
    options = f"detect_leaks=0:handle_abort=1:allocator_may_return_null=1:log_path={found}"
    words = [str(debug_build), str(limits.cpu_ms), str(limits.memory_bytes)]
    script = f"ASAN_OPTIONS={options} UBSAN_OPTIONS=print_stacktrace=1:log_path={found} {shlex.join(words)}; exit $?"
    plan = _Bare(
        engine="quickjs",
        executable=Path("/bin/sh"),
        arguments=["-c", script],
        identities=shared("no jail"),
        folder=folder / "root",
        default=limits,
    )
    async with a_cell(plan) as started:
        yield started
    assert [path.read_text() for path in folder.glob("found*")] == []


@pytest.mark.parametrize("all_prompts", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_all_kinds_of_programs(debug_build: Path, tmp_path: Path, *, all_prompts: bool) -> None:
    """The sanitizers report nothing for checks, runs, modules, errors and limits."""
    limits = Limits(cpu_ms=_CPU_MS)
    async with _debug_cell(debug_build, tmp_path, limits) as debug:
        for number, (source, task, kind) in enumerate((
            ("return 1", Task.CHECK, Checked),
            ("export default () => 1", Task.CHECK, Checked),
            (_EVERYTHING, Task.CHECK_AND_RUN, Ok),
            (_ERRORS, Task.CHECK_AND_RUN, Ok),
            ("const a = /x/; return /(/", Task.CHECK, ProgramSyntaxError),
            ("class A { #a; } return (o) => o.#b + (#a in o)", Task.CHECK, ProgramSyntaxError),
            ("export default (prompt) => prompt.length", Task.CHECK_AND_RUN, Ok),
            ("export default {fetch: () => new Response('x')}", Task.CHECK_AND_RUN, Ok),
            ("export default 1", Task.CHECK_AND_RUN, ProgramSyntaxError),
            ("export const a = 1", Task.CHECK, ProgramSyntaxError),
            ("import a from 'b'; export default a", Task.CHECK, ProgramSyntaxError),
            ("}\n}", Task.CHECK, ProgramSyntaxError),
            ("if (1) {\n", Task.CHECK, ProgramSyntaxError),
            ("[".join([""] * 100_000), Task.CHECK, ProgramSyntaxError),
            ("const f = () => f(); return f()", Task.CHECK_AND_RUN, ProgramException),
            ("throw Object.assign(new Error('\\0'), {name: '\\0'})", Task.CHECK_AND_RUN, ProgramException),
            (_SHORTER, Task.CHECK_AND_RUN, Ok),
            ("return 'x'.repeat(2 << 20)", Task.CHECK_AND_RUN, OutputLimit),
            ("await new Promise(() => 0)", Task.CHECK_AND_RUN, ProgramException),
            ("return new Uint8Array(1 << 30).length", Task.CHECK_AND_RUN, MemoryLimit),
            ("for (const a = [];;) a.push('x'.repeat(1000) + a.length)", Task.CHECK_AND_RUN, MemoryLimit),
        )):  # fmt: skip
            for prompt in _PROMPTS if all_prompts else _PROMPTS[number % 2 :][:1]:
                result = await run_on(debug, source, task=task, prompt=prompt, cpu_ms=_CPU_MS)
                assert isinstance(result.outcome, kind), (source[:80], result.outcome)
                await until_blank(debug)
        result = await run_on(debug, "for (;;);", cpu_ms=300)
        assert isinstance(result.outcome, CpuLimit)
        await until_blank(debug)
        result = await run_on(debug, "for (;;);", cpu_ms=_CPU_MS, wall_ms=300)
        assert isinstance(result.outcome, WallLimit)


@pytest.mark.parametrize("step_kib", [500, pytest.param(200, marks=pytest.mark.long)])
async def test_out_of_memory_at_any_allocation(debug_build: Path, tmp_path: Path, step_kib: int) -> None:
    """A child whose allocation fails, at any point, reports it or exits, and the sanitizers report nothing."""
    limits = Limits(cpu_ms=_CPU_MS)
    async with _debug_cell(debug_build, tmp_path, limits) as debug:
        outcomes = set()
        for kib in range(0, 6000, step_kib):
            result = await run_on(
                debug, _EVERYTHING, prompt="é" * 20_000, cpu_ms=_CPU_MS, memory_bytes=(kib << 10) + MIB // 2
            )
            outcomes.add(type(result.outcome))
            await until_blank(debug)
        assert outcomes <= {MemoryLimit, Ok, ProgramException}
        assert MemoryLimit in outcomes
