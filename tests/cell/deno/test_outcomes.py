"""How a Deno run ended: what does not parse, exceptions with their places, crashes, frames that nobody sent."""

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
    """What is submitted is parsed and linked, as a body or a module, JavaScript or TypeScript, and not run."""
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
async def test_types_are_taken_off_once(plan: Plan, source: str, module: bool, code: str | None) -> None:
    """What is kept of TypeScript is JavaScript with blanks in place of types, where types are all there is to it."""
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
    """What does not parse, or closes its wrapper, is refused with its place in the user's own text."""
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
        ("import fs from 'fs';\nreturn fs", "javascript", "a program has its own text alone, and can not import"),
        ("import fs from 'fs';\nreturn fs", "typescript", "a program has its own text alone, and can not import"),
    ],
)
async def test_what_is_out_of_reach_is_told_in_words_of_ours(
    plan: Plan, source: str, language: Language, message: str
) -> None:
    """Who wrote a program reads what no program has, and not which of Deno's options its daemon left out."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language=language, cpu_ms=1000)
        outcome = result.outcome
        assert isinstance(outcome, ProgramException | ProgramSyntaxError), outcome
        assert outcome.message == message


async def test_exceptions_have_places_in_typescript_too(plan: Plan) -> None:
    """A stack is in terms of the text as submitted, whatever became of its types."""
    source = "enum A {B = 7}\ninterface C {\n  d: string;\n}\n"
    source += "function f(c: C): never {\n  throw new RangeError(c.d)\n}\nf({d: 'x'})"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language="typescript")
        assert isinstance(result.outcome, ProgramException)
        assert (result.outcome.name, result.outcome.line, result.outcome.column) == ("RangeError", 6, 9)
        assert result.outcome.stack.splitlines()[-1].endswith("(program.js:8:1)")


async def test_helpers_behind_a_programs_text_are_no_frames_of_it(plan: Plan) -> None:
    """What TypeScript's decorators become stands behind the program's last line: the place is the author's."""
    async with a_cell(plan) as cell:
        result = await run_on(
            cell, "class A {\n @(undefined as any) m() {}\n}\nreturn 1", language="typescript", cpu_ms=1000
        )
        assert isinstance(result.outcome, ProgramException), result.outcome
        assert result.outcome.line in (1, 2), result.outcome
        assert max(int(frame.split(":")[-2]) for frame in result.outcome.stack.splitlines()) <= 4


async def test_the_daemons_own_size_is_none_of_a_runs(made: Root) -> None:
    """A fault is `crashed`, its peak the process's own, though nsjail began as a copy of a process of 300 MiB."""
    large = bytearray(os.urandom(1 << 20) * 300)
    async with a_cell(deno_plan(made)) as cell:
        result = await run_on(cell, _CRASH % (20_000, 20_000), cpu_ms=1000)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert 0 < result.usage.peak_memory_bytes < 60 * MIB < len(large)


_CRASH = (
    "await import(URL.createObjectURL(new Blob(['export default ' + '('.repeat(%d) + '1' + ')'.repeat(%d)],"
    " {type: 'application/typescript'}))); return 1"
)


async def test_a_crash_is_no_limit(plan: Plan) -> None:
    """A fault of the engine's own is `crashed`, though the program had much memory, or much CPU time, before it."""
    if plan.cgroup is not None:
        async with a_cell(plan) as cell:
            much = "globalThis.k = new Uint8Array(72 << 20).fill(1); globalThis.k = null; "
            result = await run_on(cell, much + _CRASH % (60_000, 60_000), cpu_ms=2000)
            assert isinstance(result.outcome, Crashed), result.outcome
            assert result.usage.peak_memory_bytes > 72 * MIB
    # Work, and not a time to be waited for: a core that others want gives the program little of that.
    busy = "let sum = 0; for (let i = 0; i < %d; i++) sum += i %% 7; globalThis.sum = sum; "
    for millions in (40, 50):
        rounds = (millions if plan.cgroup is not None else millions // 8) * 1_000_000  # without JIT it takes longer
        async with a_cell(plan) as cell:
            result = await run_on(cell, busy % rounds + _CRASH % (20_000, 20_000), cpu_ms=500)
            # Where RLIMIT_DATA holds memory, a fault at half of it may be for lack of it.
            assert isinstance(result.outcome, Crashed | MemoryLimit if plan.cgroup is None else Crashed), result.outcome
            assert 20 < result.usage.cpu_ms < 500


async def test_a_kill_while_it_parses_is_no_syntax_error(plan: Plan) -> None:
    """Only an end of the parser's own making is the program's fault."""
    source = "".join(f"function f{i}(a: number): number {{ return a + {i} }}\n" for i in range(4000))
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:
        pid = only_child(cell.process.pid)

        @nursery.start_soon
        async def kill() -> None:
            began = time.clock_gettime((~pid << 3) | 2)
            while time.clock_gettime((~pid << 3) | 2) - began < 0.005:  # it is at it
                await trio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)

        result = await run_on(cell, source, task=Task.CHECK, language="typescript", cpu_ms=5000)
    assert isinstance(result.outcome, Crashed), result.outcome
    assert result.outcome.signal == "SIGKILL"


async def test_many_jobs_for_threads_are_no_crash(plan: Plan) -> None:
    """Cryptography takes a thread for each job: eight at once, so that Deno lacks none and the daemon has its turn."""
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
                with suppress(OSError):  # it has just ended
                    threads.append(len(os.listdir(f"/proc/{pid}/task")))
                await trio.sleep(0.005)

        result = await run_on(cell, source, cpu_ms=1000)
        nursery.cancel_scope.cancel()
    assert isinstance(result.outcome, CpuLimit), result.outcome
    # One thread of the blank process may take a job, too; all 60 at once would be as many more.
    assert before + 6 <= max(threads) <= before + 10


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", f"export default async () => {{ {_CRASH % (20_000, 20_000)} }}"),
        ("typescript", f"export default async (): Promise<any> => {{ {_CRASH % (20_000, 20_000)} }}"),
        ("typescript", _CRASH % (20_000, 20_000)),
    ],
)
async def test_what_parses_and_then_crashes_is_no_syntax_error(plan: Plan, language: Language, source: str) -> None:
    """What was to be told if the parser did not survive the program is taken back before that runs."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, language=language, cpu_ms=1000)
        assert isinstance(result.outcome, Crashed), result.outcome


@pytest.mark.parametrize("task", [Task.CHECK_AND_RUN, Task.CHECK])
@pytest.mark.parametrize(
    "source", ["return " + "(" * 40_000 + "1" + ")" * 40_000, "{" * 40_000 + "}" * 40_000 + "return 1"]
)
async def test_typescript_too_deep_for_its_parser_is_a_syntax_error(plan: Plan, task: Task, source: str) -> None:
    """Deno's parser has no bound for how deep it goes, and ends its process: which is no fault of the engine's."""
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
async def test_lack_of_memory_is_no_crash(plan: Plan, made: Root, source: str, memory_mb: int) -> None:
    """V8 ends by itself when its heap is full, or one large piece is refused to it while little is resident."""
    memory_bytes = memory_mb * MIB
    async with a_cell(deno_plan(made, plan.cgroup, memory_bytes=memory_bytes)) as cell:
        result = await run_on(cell, source, cpu_ms=5000, memory_bytes=memory_bytes)
        if plan.cgroup is None and isinstance(result.outcome, ProgramException):
            assert result.outcome.name == "RangeError"  # refused to an ArrayBuffer, which can say so
        else:
            assert isinstance(result.outcome, MemoryLimit), result.outcome


async def test_a_kept_module_without_a_program_is_a_syntax_error(plan: Plan) -> None:
    """As on QuickJS; the cell goes on."""
    async with a_cell(plan) as cell:
        artifact = Artifact(form=Form.MODULE, language="javascript")
        job = Job(task=Task.RUN, source=b"export default 5", artifact=artifact, limits=Limits())
        result = await finish(cell, job)
        assert isinstance(result.outcome, ProgramSyntaxError), result.outcome
        assert cell.usable
