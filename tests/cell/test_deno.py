"""A Deno cell with a real jail: limits, outcomes told apart by the kernel's evidence, one run a process."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import msgspec
import pytest
import trio

from promptlogd.config import Config
from promptlogd.server import deno_plan
from sandbox import cgroup, root
from sandbox.cells import deno
from sandbox.cells.deno import DenoCell
from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import Ending, ending, only_child
from sandbox.demand import DemandPool
from sandbox.engines.deno.stack import shown
from sandbox.engines.replies import BadReply, Refused, ReplyReader, Wrapped
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import MIB, Limits
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, Ok, ProgramException, ProgramSyntaxError, WallLimit
from sandbox.root import Root


@pytest.fixture(scope="module")
def made() -> Iterator[Root]:
    """The root of Deno's jails."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield root.build_deno_root(folder / "root", root.deno_executable())
    finally:
        rmtree(folder)


@pytest.fixture(params=["jit", "jitless"])
def plan(made: Root, request: pytest.FixtureRequest) -> Iterator[Plan]:
    """How to start a Deno cell: with JIT in a cgroup, and without either."""
    default = Config().limits.default.limits()
    if request.param == "jitless":
        yield deno_plan(made, default, None, jit=False)
        return
    group = cgroup.make(f"promptlog-test-{os.getpid()}", 192 * MIB)
    assert group is not None, "no cgroup can be made here: Deno's JIT can't be tested (be root, or delegate one)"
    assert group.memory_bytes, "no memory cgroup can be made here: Deno's JIT can't be tested"
    try:
        yield deno_plan(made, default, group, jit=True)
    finally:
        group.remove()


@asynccontextmanager
async def a_cell(plan: Plan) -> AsyncIterator[DenoCell]:
    """A cell for the length of a block."""
    cell = await deno.start(plan)
    try:
        yield cell
    finally:
        await cell.close()


async def _run(
    cell: DenoCell, source: str, *, kind: Any = "source", language: Any = "javascript", **limits: int
) -> Trial:
    trial = Trial()
    with trio.fail_after(30):
        job = Job(kind=kind, code=source.encode(), language=language, limits=Limits(**limits))
        await cell.run(job, trial)
    return trial


def _value(trial: Trial) -> Any:
    assert isinstance(trial.outcome, Ok), trial.outcome
    return msgspec.json.decode(trial.outcome.value)


async def test_each_run_has_a_process_and_namespaces_of_its_own(plan: Plan) -> None:
    """After a clean end nsjail starts the next process, and nothing of the last run is there."""
    seen: list[tuple[int, str]] = []
    async with a_cell(plan) as cell:
        for number in range(4):
            pid = only_child(cell.process.pid)
            seen.append((pid, os.readlink(f"/proc/{pid}/ns/pid")))
            assert _value(await _run(cell, "const was = globalThis.x; globalThis.x = 1; return was ?? null")) is None
            assert cell.usable, number
            await cell.ready()
    assert len({pid for pid, _ in seen}) == 4
    assert len({namespace for _, namespace in seen}) >= 3  # a number may come again


async def test_the_process_has_the_data_socket_and_nothing_of_the_host(plan: Plan) -> None:
    """Its descriptors are that socket, /dev/null and its own event loop's; its files are the engine and the runner."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        links = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert links["0"] == links["1"]
        assert links["2"] == "/dev/null"
        for number, link in links.items():
            assert number in "012" or link.startswith(("anon_inode:", "socket:", "/dev/null")), (number, link)
        files = {str(path.relative_to(plan.folder)) for path in plan.folder.rglob("*") if path.is_file()}
        assert {file for file in files if not file.startswith("lib")} == {
            "app/runner.js", "app/imports.json", "bin/deno", "proc/self/maps",
        }  # fmt: skip
        assert "/" not in (plan.folder / "proc/self/maps").read_text()  # of no process: it names no file
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status


async def test_what_one_process_left_in_the_socket_is_not_the_next_ones(plan: Plan) -> None:
    """A reply after the last word, and a forged R, are thrown away; who is ready is told by the kernel's pid."""
    async with a_cell(plan) as cell:
        trial = await _run(cell, "setInterval(() => console.log('late'), 0); console.log('x'); return 1")
        assert _value(trial) == 1
        await cell.ready()
        trial = await _run(cell, "return 2")
        assert (_value(trial), trial.logs) == (2, [])


@pytest.mark.parametrize(
    "source",
    [
        "for(;;){}",
        "const f = () => Promise.resolve().then(f); await f()",
        "'a'.repeat(2e7).indexOf('a'.repeat(1e7) + 'b')",
        "return {get a() { for(;;); }}",
    ],
)
async def test_cpu_is_held_by_the_processs_clock(plan: Plan, source: str) -> None:
    """Loops, natives and getters end within 10 ms of the limit; on a machine that is busy with others, most times."""
    used = []
    async with a_cell(plan) as cell:
        for _ in range(3):
            trial = await _run(cell, source)
            assert isinstance(trial.outcome, CpuLimit), trial.outcome
            used.append(trial.usage.cpu_ms)
            # nsjail had no part in it: the next process is on its way.
            await cell.ready()
        assert _value(await _run(cell, "return 1")) == 1
    assert min(used) >= 50
    assert sorted(used)[1] <= 60, used


async def test_the_kernel_stands_behind_the_cpu_limit(plan: Plan) -> None:
    """RLIMIT_CPU is set for the run: one second over at the most, should the daemon not look."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        cell._set_cpu_limit(Limits(cpu_ms=3000))
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max cpu time"))
        assert line.split()[3:5] in (["5", "6"], ["4", "5"])


@pytest.mark.parametrize(
    "source",
    [
        "const a = []; for (;;) a.push({b: [1, 2, 3]})",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
        "let s = 'x'; const a = []; for (;;) { s += s.slice(0, 1 << 20); a.push(s + a.length); }",
    ],
)
async def test_memory_is_held(plan: Plan, source: str) -> None:
    """A memory bomb ends at the limit, without a cgroup at most 20 MiB over it."""
    async with a_cell(plan) as cell:
        trial = await _run(cell, source, cpu_ms=10_000, wall_ms=20_000)
        assert isinstance(trial.outcome, MemoryLimit | ProgramException), trial.outcome
        assert trial.usage.peak_memory_bytes <= (128 if plan.cgroup else 148) * MIB
        assert trial.usage.cpu_ms > 0


async def test_wall_time_is_held_by_the_daemon(plan: Plan) -> None:
    """A program that waits, or stops itself, is ended at the wall limit."""
    async with a_cell(plan) as cell:
        trial = await _run(cell, "await new Promise((r) => setTimeout(r, 60000))", wall_ms=300)
        assert isinstance(trial.outcome, WallLimit)
        assert trial.usage.wall_ms < 1300


async def test_a_check_does_not_run_the_program(plan: Plan) -> None:
    """What is submitted is parsed and linked, as a body or a module, JavaScript or TypeScript, and not run."""
    never = "for (;;) {}"
    for source, language in (
        (never, "javascript"),
        (f"{never}\nexport default () => 1", "javascript"),
        (f"const a: number = 1; {never}", "typescript"),
        (f"enum A {{B}} {never}\nexport default (a: A) => a", "typescript"),
    ):
        async with a_cell(plan) as cell:
            trial = await _run(cell, source, kind="check", language=language, cpu_ms=1000)
            assert isinstance(trial.checked, Wrapped), (source, trial.outcome)


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
        ("if (prompt)", "javascript", 1, None),
        ("return 1 /*", "javascript", None, None),
    ],
)
async def test_syntax_errors_have_places(plan: Plan, source: str, language: str, line: int, column: int) -> None:
    """What does not parse, or closes its wrapper, is refused with its place in the user's own text."""
    async with a_cell(plan) as cell:
        trial = await _run(cell, source, kind="check", language=language, cpu_ms=1000)
        assert isinstance(trial.checked, Refused), trial.outcome
        error = trial.checked.error
        if line is not None:
            assert error.line == line, error
        if column is not None:
            assert error.column == column, error


async def test_exceptions_have_places_in_typescript_too(plan: Plan) -> None:
    """A stack is in terms of the text as submitted, whatever became of its types."""
    source = "enum A {B = 7}\ninterface C {\n  d: string;\n}\n"
    source += "function f(c: C): never {\n  throw new RangeError(c.d)\n}\nf({d: 'x'})"
    async with a_cell(plan) as cell:
        trial = await _run(cell, source, language="typescript")
        assert isinstance(trial.outcome, ProgramException)
        assert (trial.outcome.name, trial.outcome.line, trial.outcome.column) == ("RangeError", 6, 9)
        assert trial.outcome.stack.splitlines()[-1].endswith("(program.js:8:1)")


def _is_there(pid: int) -> bool:
    try:
        return bool(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False  # gone, or dead and not reaped yet


async def _kill_blank(cell: DenoCell, *, nsjail: bool = False) -> None:
    pid = only_child(cell.process.pid)
    os.kill(cell.process.pid if nsjail else pid, signal.SIGKILL)
    while cell._is_alive():
        await trio.sleep(0.001)


async def test_a_killed_process_is_told(plan: Plan) -> None:
    """Killed from outside in mid-run: crashed, with the signal that the kernel told nsjail; blank: CellLost."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)

        async def kill() -> None:
            await trio.sleep(0.1)
            os.kill(pid, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            trial = await _run(cell, "await new Promise((r) => setTimeout(r, 900))")
        assert isinstance(trial.outcome, Crashed)
        assert trial.outcome.signal == "SIGKILL"
        assert not cell.usable
    async with a_cell(plan) as cell:
        await _kill_blank(cell)
        with pytest.raises(CellLost):
            await _run(cell, "return 1")


async def test_a_cancelled_run_leaves_no_process(plan: Plan) -> None:
    """Cancelled, the run's process and its nsjail are gone when `run` and `close` have returned."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        with trio.move_on_after(0.2):
            await _run(cell, "for(;;){}", cpu_ms=5000, wall_ms=5000)
    assert not _is_there(pid)


async def test_a_cell_that_cannot_start_says_why(plan: Plan) -> None:
    """The error has what nsjail said of the end, or the system's reason."""
    with pytest.raises(CellStartError, match="nowhere"):
        await deno.start(msgspec.structs.replace(plan, executable=Path("/nowhere")))
    arguments = [*plan.arguments[:-1], "/app/nowhere.js"]
    with pytest.raises(CellStartError, match="exited with status: 1"):
        await deno.start(msgspec.structs.replace(plan, arguments=arguments))


def test_frames_without_their_token_are_no_frames() -> None:
    """What a program gets written to the descriptor counts for nothing: it does not know the token."""
    token = bytes(range(16))
    reader = ReplyReader(limits=Limits(), source_name="p.js", shown=shown, token=token)
    assert reader.feed(token + b"l\0\0\0\x02" + b"1x")[0].text == "x"
    with pytest.raises(BadReply, match="no frame"):
        reader.feed(b"v\0\0\0\x01" + b"1" + bytes(40))


def test_nsjails_account_of_an_end() -> None:
    """The line of this very process counts; a signal is told from an exit code of the same number."""
    log = (
        "[I] pid=12 ([STANDALONE MODE]) exited with status: 137, (PIDs left: 0)\n"
        "[I] pid=13 ([STANDALONE MODE]) terminated with signal: SIGKILL (9), (PIDs left: 0)\n"
    )
    assert ending(log, 12) == Ending(pid=12, exit_code=137)
    assert ending(log, 13) == Ending(pid=13, signal=9)
    assert ending(log, 1) is None


async def test_the_pool_keeps_none_until_one_is_wanted(plan: Plan) -> None:
    """Nothing is started before the first request; then as many as were wanted at once; after a while none."""
    plans = 0

    async def make(memory_bytes: int | None) -> Plan:
        nonlocal plans
        plans += 1
        return plan

    pool = DemandPool(make, blank=2, idle_s=1.0, max_age_s=60, runs_per_cell=3)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        await trio.sleep(0.2)
        assert (plans, pool.counts().started) == (0, 0)
        with trio.fail_after(20):
            for number in range(7):
                cell = await pool.take()
                assert _value(await _run(cell, f"return {number}")) == number
                pool.give(cell)
            fresh = await pool.take(fresh=True)
            assert fresh.runs == 0
            pool.give(fresh, fresh=True)
            while pool.counts().blank != 0 or pool.counts().size != 0:
                await trio.sleep(0.1)
        assert 3 <= pool.counts().started <= 8
        nursery.cancel_scope.cancel()


async def test_the_pool_bears_cells_that_die_blank(plan: Plan) -> None:
    """A blank process, or its nsjail, killed while it waits: another takes its place, and runs go on."""

    async def make(memory_bytes: int | None) -> Plan:
        return plan

    pool = DemandPool(make, blank=2, idle_s=60.0, max_age_s=60, runs_per_cell=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        with trio.fail_after(30):
            for kill_nsjail in (False, True, False):
                while True:
                    cell = await pool.take()
                    try:
                        assert _value(await _run(cell, "return 1")) == 1
                        break
                    except CellLost:
                        continue
                    finally:
                        pool.give(cell)
                while pool.counts().blank == 0:
                    await trio.sleep(0.01)
                for blank in list(pool._blank):
                    await _kill_blank(blank, nsjail=kill_nsjail)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_cell_killed_while_it_starts_is_not_the_waiters_affair(
    plan: Plan, tmp_path: Path, *, fresh: bool
) -> None:
    """Who waits gets the next one; only if that does not start either, the reason."""
    never, once = tmp_path / "never", tmp_path / "once"
    never.write_text("#!/bin/sh\nkill -9 $$\n")
    hit = tmp_path / "hit"
    once.write_text(f'#!/bin/sh\n[ -e {hit} ] || {{ : > {hit}; kill -9 $$; }}\nexec {plan.executable} "$@"\n')
    never.chmod(0o755)
    once.chmod(0o755)
    plans = [msgspec.structs.replace(plan, executable=once)]

    async def make(memory_bytes: int | None) -> Plan:
        return plans[0]

    pool = DemandPool(make, blank=1, idle_s=60.0, max_age_s=60, runs_per_cell=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        with trio.fail_after(20):
            cell = await pool.take(fresh=fresh)
            assert _value(await _run(cell, "return 1")) == 1
            pool.give(cell, fresh=True)
            plans[0] = msgspec.structs.replace(plan, executable=never)
            with pytest.raises(CellStartError, match="did not start"):
                await pool.take(fresh=fresh)
        nursery.cancel_scope.cancel()


async def test_a_run_cancelled_before_it_began_costs_no_cell(plan: Plan) -> None:
    """The cell is blank still, and the next run has it at once."""

    async def make(memory_bytes: int | None) -> Plan:
        return plan

    pool = DemandPool(make, blank=1, idle_s=60.0, max_age_s=60, runs_per_cell=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        with trio.fail_after(20):
            cell = await pool.take()
            with trio.CancelScope() as scope:
                scope.cancel()
                try:
                    await cell.run(Job(kind="source", code=b"return 1", limits=Limits()), Trial())
                finally:
                    pool.give(cell)
        with trio.fail_after(3):
            again = await pool.take()
            assert again is cell
            assert _value(await _run(again, "return 2")) == 2
            pool.give(again)
        nursery.cancel_scope.cancel()


async def test_cells_in_use_do_not_count_as_blank(plan: Plan) -> None:
    """Where few blank cells are kept, who waits gets one of their own, however long the others run."""

    async def make(memory_bytes: int | None) -> Plan:
        return plan

    pool = DemandPool(make, blank=1, idle_s=60.0, max_age_s=60, runs_per_cell=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        with trio.fail_after(10):
            cells = [await pool.take() for _ in range(3)]
            for cell in cells:
                pool.give(cell)
            while pool.counts().blank != 1:
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


_CRASH = (
    "await import(URL.createObjectURL(new Blob(['export default ' + '('.repeat(%d) + '1' + ')'.repeat(%d)],"
    " {type: 'application/typescript'}))); return 1"
)


async def test_a_crash_is_no_limit(plan: Plan) -> None:
    """A fault of the engine's own is `crashed`, though the program had much memory, or much CPU time, before it."""
    if plan.cgroup is not None:
        async with a_cell(plan) as cell:
            much = "globalThis.k = new Uint8Array(72 << 20).fill(1); globalThis.k = null; "
            trial = await _run(cell, much + _CRASH % (60_000, 60_000), cpu_ms=2000)
            assert isinstance(trial.outcome, Crashed), trial.outcome
            assert trial.usage.peak_memory_bytes > 72 * MIB
    busy = "const t = performance.now(); while (performance.now() - t < %d); "
    for busy_ms in (60, 75):
        async with a_cell(plan) as cell:
            trial = await _run(cell, busy % busy_ms + _CRASH % (20_000, 20_000), cpu_ms=200)
            # Where RLIMIT_DATA holds memory, a fault at half of it may be for lack of it.
            assert isinstance(trial.outcome, Crashed | MemoryLimit if plan.cgroup is None else Crashed), trial.outcome
            assert busy_ms / 2 < trial.usage.cpu_ms < 200


async def test_a_kept_module_without_a_program_is_a_syntax_error(plan: Plan) -> None:
    """As on QuickJS; the cell goes on."""
    async with a_cell(plan) as cell:
        trial = await _run(cell, "Mexport default 5", kind="run")
        assert isinstance(trial.outcome, ProgramSyntaxError), trial.outcome
        assert cell.usable
