"""Outcomes of Deno runs: syntax errors, exceptions with places, crashes and forged frames."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import pytest
import trio

from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.jail.root import Root
from sandbox.limits import MIB, Limits
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, ProgramException, ProgramSyntaxError
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task
from tests.cell.cells import finish, run_on
from tests.cell.deno.cells import a_cell
from tests.cell.deno.plans import deno_plan
from tests.few import a_few


async def test_a_check_does_not_run_the_program(plan: Plan) -> None:
    """A check parses and links a body or a module, in JavaScript or TypeScript, and does not run it."""
    never = "for (;;) {}"
    texts: tuple[tuple[str, Language], ...] = (
        (never, "javascript"),
        (f"{never}\nexport default () => 1", "javascript"),
        (f"const a: number = 1; {never}", "typescript"),
        (f"enum A {{B}} {never}\nexport default (a: A) => a", "typescript"),
    )
    for source, language in texts:
        async with a_cell(plan) as cell:
            result = await run_on(cell, source, task=Task.CHECK, language=language, cpu_ms=1000)
            assert isinstance(result.outcome, Checked), (source, result.outcome)


@pytest.mark.parametrize(
    ("source", "module", "code"),
    [
        ("const a: number = 1;\nreturn a as any", False, "const a         = 1;\nreturn a       "),
        (
            "interface A { b: 'c' }\nexport default (a: A) => a",
            True,
            "                      \nexport default (a   ) => a",
        ),
        ("let s: 'é' | '漢' = 'é'; return s", False, "let s" + " " * 11 + " = 'é'; return s"),
        ("enum A {B} return A.B", False, None),
        ("class A { constructor(public a: 1) {} } return 1", False, None),
        ("enum A {B}\nexport default (a: A) => a", True, None),
    ],
)
async def test_types_are_removed_once(plan: Plan, source: str, module: bool, code: str | None) -> None:
    """TypeScript is stored as JavaScript with blanks in place of types, if only types must be removed."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, task=Task.CHECK, language="typescript", cpu_ms=1000)
        assert isinstance(result.outcome, Checked), result.outcome
        assert result.outcome.module == module
        stripped = result.outcome.code
        if code is None or stripped is None:
            assert stripped is None
            assert code is None
            return
        assert len(stripped) == len(source.encode())
        found = bytes(stripped).decode()
        assert "".join(" " if blank.isspace() and blank != "\n" else blank for blank in found) == code


@pytest.mark.parametrize(
    ("source", "language", "line", "column"),
    [
        ("let a = ;", "javascript", 1, 9),
        ("let a;\n  let a;", "javascript", 2, 7),
        ("export default }", "javascript", 1, 16),
        ("const n: number = ;", "typescript", 1, 19),
        ("\n\nlet x: = 1", "typescript", 3, 8),
        ("} evil(); function x() {", "javascript", 1, None),
        ("}); evil(); (async function () {", "javascript", None, None),
        ("}[globalThis.x = 1] = function () {", "javascript", None, None),
        ("} evil(); function x() {", "typescript", 1, 3),
        ("}); evil(); (async function () {", "typescript", None, None),
        ("}, evil() {", "typescript", None, None),
        ("} static evil = 1; x() {", "typescript", None, None),
        ("if (prompt)", "javascript", 1, 12),
        ("return 1 /*", "javascript", 1, 10),
    ],
)
async def test_syntax_errors_have_places(plan: Plan, source: str, language: Language, line: int, column: int) -> None:
    """A program that does not parse, or closes its wrapper, is rejected with the place in its own text."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, task=Task.CHECK, language=language, cpu_ms=1000)
        error = result.outcome
        assert isinstance(error, ProgramSyntaxError), error
        if line is not None:
            assert error.line == line, error
        if column is not None:
            assert error.column == column, error


@pytest.mark.parametrize(
    ("source", "language", "message"),
    [
        ("await fetch('http://a.b/')", "javascript", 'no program has net access to "a.b:80"'),
        ("await import('https://a.b/c')", "javascript", 'no program has import access to "a.b:443"'),
        ("await import('npm:lodash')", "javascript", "no program can import npm specifiers"),
        ("await import('jsr:@a/b')", "javascript", "module not found: jsr:@a/b"),
        ("await import('lodash')", "javascript", "module not found: lodash"),
        ("await import('node:fs')", "javascript", "module not found: node:fs"),
        ("await import('node:fs')", "typescript", "module not found: node:fs"),
        ("await import('lodash')", "typescript", "module not found: lodash"),
        ("import fs from 'fs';\nexport default fs", "javascript", "module not found: fs"),
        ("import fs from 'fs';\nreturn fs", "javascript", "a program cannot import other modules"),
        ("import fs from 'fs';\nreturn fs", "typescript", "a program cannot import other modules"),
    ],
)
async def test_errors_for_unavailable_features_do_not_mention_deno_options(
    plan: Plan, source: str, language: Language, message: str
) -> None:
    """For network access and imports, the message says what no program can do, and names no option of Deno."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language=language, cpu_ms=1000)
        outcome = result.outcome
        assert isinstance(outcome, ProgramException | ProgramSyntaxError), outcome
        assert outcome.message == message


async def test_exceptions_in_typescript_have_places(plan: Plan) -> None:
    """A stack refers to the submitted TypeScript, although its types were removed."""
    source = "enum A {B = 7}\ninterface C {\n  d: string;\n}\n"
    source += "function f(c: C): never {\n  throw new RangeError(c.d)\n}\nf({d: 'x'})"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language="typescript")
        assert isinstance(result.outcome, ProgramException)
        assert (result.outcome.name, result.outcome.line, result.outcome.column) == ("RangeError", 6, 9)
        assert result.outcome.stack.splitlines()[-1].endswith("(program.js:8:1)")


async def test_helper_functions_of_decorators_are_not_in_the_stack(plan: Plan) -> None:
    """Deno appends helpers for decorators after the program's last line; places stay those of the program."""
    async with a_cell(plan) as cell:
        result = await run_on(
            cell, "class A {\n @(undefined as any) m() {}\n}\nreturn 1", language="typescript", cpu_ms=1000
        )
        assert isinstance(result.outcome, ProgramException), result.outcome
        assert result.outcome.line in (1, 2), result.outcome
        assert max(int(frame.split(":")[-2]) for frame in result.outcome.stack.splitlines()) <= 4


async def test_the_daemons_memory_does_not_count_for_a_run(made: Root) -> None:
    """A crash is `crashed` with the peak of its own process, although nsjail was forked from a process of 300 MiB."""
    large = bytearray(os.urandom(1 << 20) * 300)
    async with a_cell(deno_plan(made)) as cell:
        result = await run_on(cell, _CRASH % (20_000, 20_000), cpu_ms=1000)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert 0 < result.usage.peak_memory_bytes < 60 * MIB < len(large)


_CRASH = (
    "await import(URL.createObjectURL(new Blob(['export default ' + '('.repeat(%d) + '1' + ')'.repeat(%d)],"
    " {type: 'application/typescript'}))); return 1"
)


async def test_a_crash_is_not_a_limit(plan: Plan) -> None:
    """A fault of the engine is `crashed`, even if the program had used much memory or CPU time before."""
    if plan.cgroup is not None:
        async with a_cell(plan) as cell:
            much = "globalThis.k = new Uint8Array(72 << 20).fill(1); globalThis.k = null; "
            result = await run_on(cell, much + _CRASH % (60_000, 60_000), cpu_ms=2000)
            assert isinstance(result.outcome, Crashed), result.outcome
            assert result.usage.peak_memory_bytes > 72 * MIB
    # Bounded by work and not by time, because on a shared core the program would do little work in that time.
    busy = "let sum = 0; for (let i = 0; i < %d; i++) sum += i %% 7; globalThis.sum = sum; "
    for millions in (40, 50):
        rounds = (millions if plan.cgroup is not None else millions // 8) * 1_000_000  # slower without JIT
        async with a_cell(plan) as cell:
            result = await run_on(cell, busy % rounds + _CRASH % (20_000, 20_000), cpu_ms=500)
            # With RLIMIT_DATA, a fault at half of the limit may be due to lack of memory.
            assert isinstance(result.outcome, Crashed | MemoryLimit if plan.cgroup is None else Crashed), result.outcome
            assert 20 < result.usage.cpu_ms < 500


async def test_a_kill_during_parsing_is_not_a_syntax_error(plan: Plan) -> None:
    """Only an exit by the parser itself counts as a syntax error of the program."""
    source = "".join(f"function f{i}(a: number): number {{ return a + {i} }}\n" for i in range(4000))
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:
        pid = only_child(cell.process.pid)

        @nursery.start_soon
        async def kill() -> None:
            began = time.clock_gettime((~pid << 3) | 2)
            while time.clock_gettime((~pid << 3) | 2) - began < 0.005:  # it parses now
                await trio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)

        result = await run_on(cell, source, task=Task.CHECK, language="typescript", cpu_ms=5000)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert result.outcome.signal == "SIGKILL"


async def test_many_thread_pool_jobs_do_not_crash_deno(plan: Plan) -> None:
    """At most eight jobs of cryptography have a thread at once, so Deno does not fail to create threads."""
    source = (
        "const k = await crypto.subtle.importKey('raw', new Uint8Array(8), 'PBKDF2', false, ['deriveBits']);"
        "const one = () => crypto.subtle.deriveBits({name: 'PBKDF2', hash: 'SHA-256', salt: new Uint8Array(8),"
        " iterations: 1e7}, k, 256); await Promise.all(Array.from({length: 60}, one))"
    )
    threads: list[int] = []
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:
        pid = only_child(cell.process.pid)
        before = len(os.listdir(f"/proc/{pid}/task"))

        @nursery.start_soon
        async def look() -> None:
            while True:
                with suppress(OSError):  # the process has just ended
                    threads.append(len(os.listdir(f"/proc/{pid}/task")))
                await trio.sleep(0.005)

        result = await run_on(cell, source, cpu_ms=1000)
        nursery.cancel_scope.cancel()
    assert isinstance(result.outcome, CpuLimit), result.outcome
    # One thread of the blank process may take a job too. All 60 jobs at once would start 60 threads.
    assert before + 6 <= max(threads) <= before + 10


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", f"export default async () => {{ {_CRASH % (20_000, 20_000)} }}"),
        ("typescript", f"export default async (): Promise<any> => {{ {_CRASH % (20_000, 20_000)} }}"),
        ("typescript", _CRASH % (20_000, 20_000)),
    ],
)
async def test_a_crash_after_parsing_is_not_a_syntax_error(plan: Plan, language: Language, source: str) -> None:
    """The provisional outcome for a crash of the parser no longer applies when the program runs."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language=language, cpu_ms=1000)
        assert isinstance(result.outcome, Crashed), result.outcome


@pytest.mark.parametrize("task", [Task.CHECK_AND_RUN, Task.CHECK])
@pytest.mark.parametrize(
    "source", ["return " + "(" * 40_000 + "1" + ")" * 40_000, "{" * 40_000 + "}" * 40_000 + "return 1"]
)
async def test_deeply_nested_typescript_is_a_syntax_error(plan: Plan, task: Task, source: str) -> None:
    """Deno's parser has no nesting limit and ends its process; this is a syntax error, not a crash."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, task=task, language="typescript", cpu_ms=1000)
        found = result.outcome
        assert isinstance(found, ProgramSyntaxError), result.outcome
        assert "nested too deeply" in found.message


@pytest.mark.parametrize(
    "source",
    [
        "const a = []; for (;;) a.push('x'.repeat(1e6) + a.length)",
        "const m = new Map(); for (let i = 0; ; i++) m.set('k' + i, {i})",
        "const a = []; for (;;) a.push(new Array(10000).fill(1))",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
        "const a = []; a.length = 3e7; return a.fill(0).length",
        "let s = 'x'; for (let i = 0; i < 28; i++) s += s; return s.replaceAll('x', 'yy').length",
    ],
)
@pytest.mark.parametrize("memory_mb", a_few([64, 72, 128]))
async def test_lack_of_memory_is_not_a_crash(plan: Plan, made: Root, source: str, memory_mb: int) -> None:
    """Lack of memory is memory_limit, whether V8's heap is full or one large allocation fails with little resident."""
    memory_bytes = memory_mb * MIB
    async with a_cell(deno_plan(made, plan.cgroup, memory_bytes=memory_bytes)) as cell:
        result = await run_on(cell, source, cpu_ms=5000, memory_bytes=memory_bytes)
        if plan.cgroup is None and isinstance(result.outcome, ProgramException):
            assert result.outcome.name == "RangeError"  # V8 throws when it cannot allocate an ArrayBuffer
        else:
            assert isinstance(result.outcome, MemoryLimit), result.outcome


async def test_a_stored_module_that_exports_no_program_is_a_syntax_error(plan: Plan) -> None:
    """As on QuickJS, this is a syntax error, and the cell stays usable."""
    async with a_cell(plan) as cell:
        artifact = Artifact(form=Form.MODULE, language="javascript")
        job = Job(task=Task.RUN, source=b"export default 5", artifact=artifact, limits=Limits())
        result = await finish(cell, job)
        assert isinstance(result.outcome, ProgramSyntaxError), result.outcome
        assert cell.usable
