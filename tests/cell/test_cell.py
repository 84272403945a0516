"""A cell with a real jail: limits held by the kernel, outcomes told apart, and the invariant."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.job import Job, Result
from sandbox.cells.plan import Plan
from sandbox.cells.policy import Steady
from sandbox.cells.pool import Pool
from sandbox.cells.process import only_child
from sandbox.engines.quickjs.host import filter as second_filter
from sandbox.engines.quickjs.host import start as cells
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import MIB, Limits
from sandbox.outcome import (
    Cancelled,
    CpuLimit,
    Crashed,
    MemoryLimit,
    Ok,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
    WallLimit,
)
from sandbox.protocol.events import Checked, Value
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, a_reactor, finish, run_on, take
from tests.daemon.processes import children, cpu_s, is_alive, until

_DEFAULT = Limits()
_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which moves with the kernel's ticks
_TICK_MS = time.clock_getres(_COARSE) * 1000
"""How often the kernel looks at a process's CPU timers."""

_OVER_MS = 10 + 2 * _TICK_MS
"""CPU time that a run may have over its limit: the tick at which that is seen, and the end of the process."""


async def test_each_run_has_a_process_of_its_own(plan: Plan) -> None:
    """What one run leaves in globals, prototypes or the random state is not there in the next."""
    seen = []
    async with a_cell(plan) as cell:
        for _ in range(5):
            result = await run_on(
                cell, "const was = globalThis.x; globalThis.x = 1; return [was ?? null, Math.random()]"
            )
            assert isinstance(result.outcome, Ok)
            was, random = msgspec.json.decode(result.outcome.value)
            assert was is None
            seen.append(random)
        assert cell.usable
    assert len(set(seen)) == 5


async def test_cpu_is_held_by_the_kernel(plan: Plan) -> None:
    """A loop, and a native that the engine can't interrupt, end two ticks and 10 ms after the limit at the latest."""
    for source in (
        "for(;;){}",
        "'a'.repeat(2e6).indexOf('a'.repeat(1e6) + 'b')",
        "const result = {get a() { for(;;); }}",
    ):
        async with a_cell(plan) as cell:
            result = await run_on(cell, source)
            assert isinstance(result.outcome, CpuLimit), source
            assert _DEFAULT.cpu_ms <= result.usage.cpu_ms <= _DEFAULT.cpu_ms + _OVER_MS
            assert isinstance((await run_on(cell, "return 1")).outcome, Ok)


async def test_a_run_may_have_other_limits_than_the_blank_child(plan: Plan) -> None:
    """A child with the run's own limits takes the blank one's place; the next run has the default again."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "const t = Date.now(); while (Date.now() - t < 100); return 1", cpu_ms=500)
        assert isinstance(result.outcome, Ok)
        result = await run_on(cell, "for(;;){}")
        assert isinstance(result.outcome, CpuLimit)
        assert result.outcome.limit == _DEFAULT.cpu_ms


@pytest.mark.parametrize(
    "source",
    [
        "const a = []; for (;;) a.push(new Array(10000).fill(1.5))",
        "const a = []; for (;;) a.push({a: 1})",
        "const a = []; for (let i = 0; ; i++) a.push(('x' + i).repeat(100000))",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
        "return new Uint8Array(1 << 30).length",
    ],
)
async def test_memory_is_held_by_the_kernel(plan: Plan, source: str) -> None:
    """A memory bomb ends as memory_limit, with a peak of 128 MiB at the most."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, cpu_ms=5000, wall_ms=10_000)
    assert isinstance(result.outcome, MemoryLimit)
    assert result.usage.peak_memory_bytes <= 128 * MIB


async def test_a_program_without_memory_still_has_its_stack(plan: Plan) -> None:
    """Calls in calls, where no memory is left, are no end by a signal, which would cost the cell as well."""
    source = """
        const taken = [];
        for (let size = 1 << 24; size > 64; size >>= 1) {
            try { for (;;) taken.push(new Uint8Array(size)); } catch {}
        }
        const deeper = (n) => n === 0 ? 0 : 1 + deeper(n - 1);
        try { deeper(2000); } catch {}
        taken.length = 0;
        return 1;
    """
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, cpu_ms=5000)
        assert isinstance(result.outcome, Ok | MemoryLimit)
        assert cell.usable


async def test_a_forged_out_of_memory_is_an_exception(plan: Plan) -> None:
    """An error that only reads like the engine's is no memory_limit."""
    async with a_cell(plan) as cell:
        for source in ("throw new InternalError('out of memory')", "throw null", "throw new RangeError('x')"):
            result = await run_on(cell, source)
            assert isinstance(result.outcome, ProgramException)


@pytest.mark.parametrize("thrown", ["null", "new InternalError('out of memory')"])
async def test_memory_limit_can_be_claimed_once_memory_was_refused(plan: Plan, thrown: str) -> None:
    """A program that caught the kernel's refusal of memory can still have its run told as memory_limit, as documented.

    The evidence that no JavaScript produces is the refusal; what the program throws afterwards is its own affair.
    """
    source = f"try {{ new Uint8Array(2 ** 30) }} catch {{}} throw {thrown}"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source)
    assert isinstance(result.outcome, MemoryLimit)
    assert result.usage.peak_memory_bytes < 64 * MIB


async def test_wall_time_is_held_by_the_daemon(plan: Plan) -> None:
    """A run that goes on is killed at its deadline, long before its CPU limit, and its usage is still the kernel's."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "for(;;){}", cpu_ms=5000, wall_ms=200)
    assert isinstance(result.outcome, WallLimit)
    assert 200 <= result.usage.wall_ms < 2000
    assert 0 < result.usage.cpu_ms < 2000
    assert result.usage.peak_memory_bytes > MIB


async def test_logs_before_a_limit_are_kept(plan: Plan) -> None:
    """What was logged before the CPU limit killed the run is returned."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "console.warn('here', {a: 1}); for(;;){}")
    assert [(line.level, line.text) for line in result.logs] == [("warn", "here { a: 1 }")]


async def test_a_large_input_and_output_pass(plan: Plan) -> None:
    """A prompt and a result of 1 MiB, larger than the socket's buffers, go through."""
    async with a_cell(plan) as cell:
        prompt = "x" * (MIB - 2)
        result = await run_on(cell, "return prompt", prompt=prompt)
        assert result.outcome == Value(json=b'"' + prompt.encode() + b'"')  # so large a one is read elsewhere
        result = await run_on(cell, "return prompt + 'x'", prompt=prompt)
        assert isinstance(result.outcome, OutputLimit)
        assert result.outcome.used == MIB + 1


async def _until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what must come about by then."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.001)


async def test_cancelling_kills_the_child(plan: Plan) -> None:
    """A cancelled run's process is gone when `run` has returned, its usage noted, and the cell goes on."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        results: list[Result] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=Limits(cpu_ms=9000, wall_ms=9000))

        async def run() -> None:
            results.append(await finish(cell, job))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await _until(lambda: any(cpu_s(child) > 0.02 for child in children(zygote)))  # a blank child uses less
            (child,) = children(zygote)
            cell.cancel()
        (result,) = results
        assert result.outcome == Cancelled()
        assert not is_alive(child)
        assert 20 < result.usage.cpu_ms < 9000
        assert isinstance((await run_on(cell, "return 1")).outcome, Ok)


_LONG = b"const t = Date.now(); while (Date.now() - t < 100); return 2"


class _Backwards:
    """An epoll that reports what is ready in the reverse order, and late, so that several things are."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Return what is ready."""
        time.sleep(0.005)
        return self._epoll.poll(timeout)[::-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


async def test_a_job_waits_for_the_child_with_its_limits(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of the last run that is reported after its end does not send the next job to the child of before."""
    monkeypatch.setattr("sandbox.cells.reactor.select", SimpleNamespace(epoll=_Backwards))
    results: list[Result | CellLost] = []
    ended = trio.Event()

    def last(result: Result | CellLost) -> None:
        results.append(result)
        ended.set()

    async with a_cell(plan) as cell:

        def first(result: Result | CellLost) -> None:
            results.append(result)
            other = Limits(cpu_ms=900, wall_ms=900)
            cell.begin(Job(task=Task.CHECK_AND_RUN, source=_LONG, limits=other), last)

        cell.begin(Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=_DEFAULT), first)
        await ended.wait()
        outcomes = [result.outcome for result in results if isinstance(result, Result)]
        assert [bytes(outcome.value) for outcome in outcomes if isinstance(outcome, Ok)] == [b"1", b"2"], results


async def test_a_job_that_its_child_did_not_read_is_never_run_for_another(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is killed before it has read its job leaves it to the next child: the cell takes no more jobs."""
    monkeypatch.setattr("sandbox.cells.reactor.select", SimpleNamespace(epoll=_Backwards))
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
        os.kill(child, signal.SIGSTOP)
        results: list[Result | CellLost] = []
        ended = trio.Event()

        def done(result: Result | CellLost) -> None:
            results.append(result)
            ended.set()

        cell.begin(Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=_DEFAULT), done)
        cell.cancel()
        await ended.wait()
        (result,) = results
        assert isinstance(result, Result)
        assert result.outcome == Cancelled()
        assert not cell.usable


async def test_a_job_that_is_cancelled_before_its_child_is_there_leaves_a_blank_cell(plan: Plan) -> None:
    """Its child with other limits is replaced by one with the default limits; the cell is blank after that."""
    async with a_cell(plan) as cell:
        blank = trio.Event()
        cell.on_blank = blank.set
        results: list[Result | CellLost] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=Limits(cpu_ms=9000, wall_ms=9000))
        cell.begin(job, results.append)
        cell.cancel()
        (result,) = results
        assert isinstance(result, Result)
        assert result.outcome == Cancelled()
        assert (cell.blank, cell.usable) == (False, True)
        await blank.wait()
        assert cell.blank
        result = await run_on(cell, "for(;;){}")
        assert isinstance(result.outcome, CpuLimit)
        assert result.outcome.limit == _DEFAULT.cpu_ms


_CLOSES = (
    "}); while (true) {} (async function () {",
    "}); __promptlog_log(1, 'ran'); (async function () {",
    "}}); while (true) {} ({async program() {",
    "}}); while (true) {} (class {async program() {",
    "} static { while (true) {} } async f() {",
    "}, [(() => { while (true) {} })()]() {",
    "}); function __promptlogrun_on() { while (true) {} } (async function () {",
    "}); class __promptlog_run {} (async function () {",
    "}); let undefined; (async function () {",
    "}); function undefined() {} (async function () {",
)
# What is a script's code is a module's comment, and the other way round: `<!--` is a comment in scripts alone.
_POLYGLOT = (
    "var x; 0<!--x/*\n}); function __promptlogrun_on() { return 'overridden' } (async function () { `*/\n"
    "export default 5\n//`\n"
)


@pytest.mark.parametrize("source", _CLOSES)
async def test_what_closes_its_wrapper_is_refused_and_never_executed(plan: Plan, source: str) -> None:
    """At a check nothing of the program runs, not even what stands outside of the wrapper."""
    async with a_cell(plan) as cell:
        assert isinstance((await run_on(cell, "while (true) {}", task=Task.CHECK)).outcome, Checked)
        for task in (Task.CHECK, Task.CHECK_AND_RUN):
            result = await run_on(cell, source, task=task)
            assert isinstance(result.outcome, ProgramSyntaxError), result
            assert result.logs == []


async def test_a_script_in_a_modules_comment_declares_nothing(plan: Plan) -> None:
    """What parses as a script that closes its wrapper is no module: its functions would be there when it runs."""
    async with a_cell(plan) as cell:
        module = await run_on(cell, "// a module\nexport default 5\n", task=Task.CHECK)
        assert module.outcome == Checked(module=True, code=None)
        result = await run_on(cell, _POLYGLOT, task=Task.CHECK)
        assert isinstance(result.outcome, ProgramSyntaxError), result


async def test_the_zygote_reads_no_user_byte(plan: Plan) -> None:
    """The kernel's count of bytes that the zygote read does not move with a program and a prompt of 1 MB."""

    def read_bytes(pid: int) -> int:
        # The thread's own account: the process's takes in that of its reaped children.
        lines = Path(f"/proc/{pid}/task/{pid}/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("rchar")).split()[1])

    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        await run_on(cell, "return 1")
        before = read_bytes(zygote)
        assert before > 0  # it has read its modules
        for _ in range(3):
            result = await run_on(cell, "return prompt.length //" + "x" * 500_000, prompt="y" * 500_000)
            assert isinstance(result.outcome, Ok)
        await run_on(cell, "for(;;){}")
        assert read_bytes(zygote) == before


async def test_the_jail_holds_nothing_of_the_host(plan: Plan) -> None:
    """The zygote's root is one file, the cell; there is no /proc, /dev, /etc; and it can't be written to."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        root = Path(f"/proc/{zygote}/root")
        assert [path.name for path in root.iterdir()] == ["quickjs-cell"]
        with pytest.raises(OSError, match="Read-only"):
            (root / "x").write_bytes(b"")
        status = Path(f"/proc/{zygote}/status").read_text()
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status
        for namespace in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            ours = Path(f"/proc/self/ns/{namespace}").readlink()
            assert Path(f"/proc/{zygote}/ns/{namespace}").readlink() != ours


async def test_a_killed_jail_leaves_no_process(plan: Plan) -> None:
    """With nsjail killed, zygote and child are gone."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
        cell.process.kill()
        await cell.process.wait()
        await _until(lambda: not is_alive(zygote) and not is_alive(child), 1)


async def test_a_closed_cell_ends_by_itself(plan: Plan) -> None:
    """With the daemon's end of the control socket closed, zygote, child and nsjail end, and none has to be killed."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
    assert not is_alive(zygote)
    assert not is_alive(child)
    assert cell.process.returncode is not None
    assert cell.process.returncode >= 0, "nsjail was killed"


async def test_a_blank_child_that_was_killed_is_no_runs_affair(plan: Plan) -> None:
    """When the blank child is killed from outside, the cell says so before it takes a run, and is retired."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
        os.kill(child, signal.SIGKILL)
        # Once there is the next child, the zygote has reported the end of this one.
        await _until(lambda: children(zygote) not in ([], [child]))
        with pytest.raises(CellLost):
            await run_on(cell, "return 1")
        assert not cell.usable


async def test_a_dead_cell_is_replaced_by_the_pool(plan: Plan) -> None:
    """The pool starts another cell for one that dies, and gives fresh ones on request."""
    async with a_reactor() as reactor, trio.open_nursery() as nursery:

        async def start(memory_bytes: int | None) -> Cell:
            return await cells.start(plan, reactor)

        pool = Pool("quickjs", start, Steady(2), runs_per_cell=3, max_age_s=60, forks=True)
        await nursery.start(pool.serve)
        cell = await take(pool)
        cell.process.kill()
        with trio.fail_after(2):
            await cell.retired.wait()
        pool.give(cell)
        for _ in range(8):
            with trio.fail_after(10):
                cell = await take(pool)
            assert isinstance((await run_on(cell, "return 1")).outcome, Ok)
            pool.give(cell)
        first = await take(pool, fresh=True)
        assert first.runs == 0
        await run_on(first, "return 1")
        pool.give(first, fresh=True)
        assert not first.usable
        assert pool.counts().retired >= 2
        nursery.cancel_scope.cancel()


async def test_a_cell_that_can_not_start_says_why(plan: Plan) -> None:
    """A missing binary, and a jail that fails, are CellStartErrors with a reason."""
    async with a_reactor() as reactor:
        with pytest.raises(CellStartError, match="nowhere"):
            await cells.start(msgspec.structs.replace(plan, executable=Path("/nowhere")), reactor)
        arguments = [argument if argument != "--bindmount_ro" else "--no-such-option" for argument in plan.arguments]
        with pytest.raises(CellStartError, match=r"nsjail|option|parse"):
            await cells.start(msgspec.structs.replace(plan, arguments=arguments), reactor)


# --- the filter as bytes, for machines that are not at hand ----------------------------------------------------


def _verdict(program: list[tuple[int, int, int, int]], arch: int, number: int, arguments: list[int]) -> int:
    """Run classic BPF over a struct seccomp_data, as the kernel would."""
    data = number.to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(8)
    data += b"".join((argument % 2**64).to_bytes(8, "little") for argument in arguments)
    at, accumulator = 0, 0
    while True:
        code, when_true, when_false, k = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(data[k : k + 4], "little")
            case 0x06:
                return k
            case _:
                holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
                at += when_true if holds else when_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_exactly_what_it_lists(machine: second_filter.Machine) -> None:
    """On both machines, of the first 1,000 call numbers only the listed ones pass, with the right arguments only."""
    program = second_filter.instructions(machine)
    arch = second_filter.AUDIT_ARCH[machine]
    calls = {number: name for name, number in second_filter.SYSCALLS[machine].items()}
    for number in range(1000):
        allowed = _verdict(program, arch, number, [0] * 6) == 0x7FFF0000
        assert allowed == (number in calls), number
        wrong_arch = _verdict(program, arch ^ 1, number, [0] * 6)
        assert wrong_arch == 0x80000000
        assert _verdict(program, arch, number | 0x40000000, [0] * 6) == 0x80000000
    table = second_filter.SYSCALLS[machine]
    for name in ("read", "write"):
        for descriptor in (1, 2, -1, 1 << 32):
            assert _verdict(program, arch, table[name], [descriptor, 0, 0, 0, 0, 0]) == 0x80000000
    for protection, verdict in ((3, 0x7FFF0000), (4, 0x80000000), (5, 0x80000000), (7, 0x80000000)):
        assert _verdict(program, arch, table["mmap"], [0, 4096, protection, 0x22, -1, 0]) == verdict


async def test_a_cell_that_is_closed_in_a_run_reports_it(plan: Plan) -> None:
    """A run whose cell is closed under it is a crash and no error."""
    async with a_cell(plan) as cell:
        results: list[Result | CellLost] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=Limits(wall_ms=9000))
        cell.begin(job, results.append)
        await cell.close()
        (result,) = results
        assert isinstance(result, Result)
        assert result.outcome == Crashed(signal="SIGKILL", message="its jail was killed from outside")


async def test_a_large_job_leaves_the_cell_usable(plan: Plan) -> None:
    """The event that there is room for more of a job may come after the run has ended: that retires no cell."""
    async with a_cell(plan) as cell:
        for _ in range(30):
            result = await run_on(cell, "return prompt.length //" + "x" * 500_000, prompt="y" * 500_000)
            assert isinstance(result.outcome, Ok)
            assert cell.usable


async def test_what_a_child_left_unread_is_no_job_of_the_next_one(plan: Plan) -> None:
    """A child that is killed before it has read its job: the cell is retired, also if the next child took the job."""
    job = Job(task=Task.CHECK_AND_RUN, source=b"for (;;) {}", limits=Limits(wall_ms=20_000))
    async with a_cell(plan) as cell:
        zygote = only_child(cell.process.pid)
        child = only_child(zygote)
        os.kill(child, signal.SIGSTOP)
        ends: list[tuple[Result | CellLost, bool]] = []
        cell.begin(job, lambda result: ends.append((result, cell.usable)))
        for number in (signal.SIGXCPU, signal.SIGCONT):
            os.kill(child, number)
        # The loop is held, and notices nothing. To warm its memory takes a child a tenth of that CPU time.
        until(lambda: not is_alive(zygote) or any(cpu_s(other) > 0.02 for other in children(zygote)))
        with trio.fail_after(10):
            while not ends:
                await trio.sleep(0.001)
        ((result, usable),) = ends
        assert isinstance(result, Result)
        assert isinstance(result.outcome, CpuLimit)
        assert not usable
