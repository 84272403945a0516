"""A cell in a real jail: limits that the kernel enforces, distinct outcomes, and the invariant."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from itertools import product
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
from sandbox.engines.host import run as run_module
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
_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which advances with the kernel's ticks
_TICK_MS = time.clock_getres(_COARSE) * 1000
"""Interval at which the kernel checks a process's CPU timers."""

_OVER_MS = 10 + 2 * _TICK_MS
"""CPU time that a run may use over its limit: until the tick that detects it, and for the exit."""


async def test_each_run_has_its_own_process(plan: Plan) -> None:
    """Changes of globals, prototypes and the random state by one run are not visible in the next."""
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


async def test_the_kernel_enforces_the_cpu_limit(plan: Plan) -> None:
    """A loop and an uninterruptible native function end at most two ticks and 10 ms after the limit."""
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


async def test_a_run_may_have_other_limits_than_the_default(plan: Plan) -> None:
    """A child with the run's own limits replaces the blank one; the next run has the default limits again."""
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
async def test_the_kernel_enforces_the_memory_limit(plan: Plan, source: str) -> None:
    """A memory bomb ends as memory_limit, with a peak of at most 128 MiB."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, cpu_ms=5000, wall_ms=10_000)
    assert isinstance(result.outcome, MemoryLimit)
    assert result.usage.peak_memory_bytes <= 128 * MIB


async def test_deep_recursion_without_free_memory_is_no_crash(plan: Plan) -> None:
    """Deep recursion when no memory is left does not end by a signal, which would also cost the cell."""
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


async def test_a_forged_out_of_memory_error_is_an_exception(plan: Plan) -> None:
    """An error that only looks like the engine's out-of-memory error is not memory_limit."""
    async with a_cell(plan) as cell:
        for source in ("throw new InternalError('out of memory')", "throw null", "throw new RangeError('x')"):
            result = await run_on(cell, source)
            assert isinstance(result.outcome, ProgramException)


@pytest.mark.parametrize("thrown", ["null", "new InternalError('out of memory')"])
async def test_a_program_can_claim_memory_limit_after_a_failed_allocation(plan: Plan, thrown: str) -> None:
    """A program that caught a failed allocation can still have its run reported as memory_limit, as documented.

    The evidence is the kernel's refusal, which JavaScript cannot forge; the program controls what it throws afterwards.
    """
    source = f"try {{ new Uint8Array(2 ** 30) }} catch {{}} throw {thrown}"
    async with a_cell(plan) as cell:
        result = await run_on(cell, source)
    assert isinstance(result.outcome, MemoryLimit)
    assert result.usage.peak_memory_bytes < 64 * MIB


async def test_the_daemon_enforces_the_wall_limit(plan: Plan) -> None:
    """A run is killed at its wall limit, long before its CPU limit, and its usage still comes from the kernel."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "for(;;){}", cpu_ms=5000, wall_ms=200)
    assert isinstance(result.outcome, WallLimit)
    assert 200 <= result.usage.wall_ms < 2000
    assert 0 < result.usage.cpu_ms < 2000
    assert result.usage.peak_memory_bytes > MIB


async def test_logs_before_a_limit_are_kept(plan: Plan) -> None:
    """The lines logged before the CPU limit kills a run are returned."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "console.warn('here', {a: 1}); for(;;){}")
    assert [(line.level, line.text) for line in result.logs] == [("warn", "here { a: 1 }")]


async def test_large_inputs_and_outputs(plan: Plan) -> None:
    """A prompt and a result of 1 MiB, larger than the socket's buffers, arrive complete."""
    async with a_cell(plan) as cell:
        prompt = "x" * (MIB - 2)
        result = await run_on(cell, "return prompt", prompt=prompt, cpu_ms=500)
        assert result.outcome == Value(json=b'"' + prompt.encode() + b'"')  # the decoder reads results of this size
        result = await run_on(cell, "return prompt + 'x'", prompt=prompt, cpu_ms=500)
        assert isinstance(result.outcome, OutputLimit)
        assert result.outcome.used == MIB + 1


async def _until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until the condition is true; fail if it takes too long."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.001)


async def test_outputs_that_fill_the_buffer_of_a_read(plan: Plan) -> None:
    """A result whose frame ends just before, at or after the end of a read, and console lines before it, are whole."""
    frame_bytes = len(b"v") + 4 + len('""')
    async with a_cell(plan) as cell:
        for reads, more, line in product((1, 2), (-1, 0, 1), ("", "console.log(1);")):
            length = reads * run_module._SHORT_BYTES - frame_bytes + more
            result = await run_on(cell, f"{line} return 'x'.repeat({length})")
            assert isinstance(result.outcome, Ok)
            assert bytes(result.outcome.value) == b'"%b"' % (b"x" * length)
            assert len(result.logs) == bool(line)
        assert (await run_on(cell, "return 1")).outcome == Ok(value=msgspec.Raw(b"1"))


async def test_cancelling_kills_the_child(plan: Plan) -> None:
    """When `run` has returned after a cancel, the process is gone and its usage recorded; the cell stays usable."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        results: list[Result] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=Limits(cpu_ms=9000, wall_ms=9000))

        async def run() -> None:
            results.append(await finish(cell, job))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await _until(lambda: any(cpu_s(child) > 0.02 for child in children(zygote)))  # more than a blank child uses
            (child,) = children(zygote)
            cell.cancel()
        (result,) = results
        assert result.outcome == Cancelled()
        assert not is_alive(child)
        assert 20 < result.usage.cpu_ms < 9000
        assert isinstance((await run_on(cell, "return 1")).outcome, Ok)


_LONG = b"const t = Date.now(); while (Date.now() - t < 100); return 2"


class _Backwards:
    """An epoll that reports events late and in reverse order, so that several are ready at once."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Return the ready events."""
        time.sleep(0.005)
        return self._epoll.poll(timeout)[::-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


async def test_a_job_waits_for_the_child_with_its_limits(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late event of the last run does not send the next job to a child with the last run's limits."""
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


async def test_an_unread_job_retires_the_cell(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a child is killed before it reads its job, the next child could read it: the cell takes no more jobs."""
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


async def test_a_job_cancelled_before_its_child_exists_leaves_a_blank_cell(plan: Plan) -> None:
    """A child with default limits replaces the one with other limits; after that the cell is blank."""
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
# A script and a module see different parts of this text as comments, because `<!--` starts one only in scripts.
_POLYGLOT = (
    "var x; 0<!--x/*\n}); function __promptlogrun_on() { return 'overridden' } (async function () { `*/\n"
    "export default 5\n//`\n"
)


@pytest.mark.parametrize("source", _CLOSES)
async def test_a_program_that_closes_its_wrapper_is_rejected_and_never_run(plan: Plan, source: str) -> None:
    """A check runs nothing of the program, not even code outside the wrapper."""
    async with a_cell(plan) as cell:
        assert isinstance((await run_on(cell, "while (true) {}", task=Task.CHECK)).outcome, Checked)
        for task in (Task.CHECK, Task.CHECK_AND_RUN):
            result = await run_on(cell, source, task=task)
            assert isinstance(result.outcome, ProgramSyntaxError), result
            assert result.logs == []


async def test_a_script_hidden_in_a_modules_comment_is_rejected(plan: Plan) -> None:
    """A text that closes its wrapper when parsed as a script is not a module, because it would declare functions."""
    async with a_cell(plan) as cell:
        module = await run_on(cell, "// a module\nexport default 5\n", task=Task.CHECK)
        assert module.outcome == Checked(module=True, code=None)
        result = await run_on(cell, _POLYGLOT, task=Task.CHECK)
        assert isinstance(result.outcome, ProgramSyntaxError), result


async def test_the_zygote_reads_no_user_bytes(plan: Plan) -> None:
    """The kernel's count of bytes read by the zygote does not change with a program and a prompt of 400 kB."""

    def read_bytes(pid: int) -> int:
        # Use the thread's count, because the process's count includes reaped children.
        lines = Path(f"/proc/{pid}/task/{pid}/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("rchar")).split()[1])

    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        await run_on(cell, "return 1")
        before = read_bytes(zygote)
        assert before > 0  # the zygote has read its modules
        for _ in range(3):
            result = await run_on(cell, "return prompt.length //" + "x" * 200_000, prompt="y" * 200_000)
            assert isinstance(result.outcome, Ok)
        await run_on(cell, "for(;;){}")
        assert read_bytes(zygote) == before


async def test_the_jail_contains_nothing_of_the_host(plan: Plan) -> None:
    """The zygote's read-only root contains one file, the cell, and no /proc, /dev or /etc."""
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
    """When nsjail is killed, zygote and child end."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
        cell.process.kill()
        await cell.process.wait()
        await _until(lambda: not is_alive(zygote) and not is_alive(child), 1)


async def test_a_closed_cell_exits_by_itself(plan: Plan) -> None:
    """When the daemon closes its end of the control socket, zygote, child and nsjail exit without a kill."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
    assert not is_alive(zygote)
    assert not is_alive(child)
    assert cell.process.returncode is not None
    assert cell.process.returncode >= 0, "nsjail was killed"


async def test_a_killed_blank_child_does_not_affect_a_run(plan: Plan) -> None:
    """If the blank child is killed from outside, the cell reports this before it takes a run, and is retired."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)
        os.kill(child, signal.SIGKILL)
        # When the next child exists, the zygote has reported the end of this one.
        await _until(lambda: children(zygote) not in ([], [child]))
        with pytest.raises(CellLost):
            await run_on(cell, "return 1")
        assert not cell.usable


async def test_a_dead_cell_is_replaced_by_the_pool(plan: Plan) -> None:
    """The pool replaces a cell that dies, and provides fresh cells on request."""
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


async def test_a_failed_start_has_a_reason(plan: Plan) -> None:
    """A missing executable and a failing jail raise CellStartError with a reason."""
    async with a_reactor() as reactor:
        with pytest.raises(CellStartError, match="nowhere"):
            await cells.start(msgspec.structs.replace(plan, executable=Path("/nowhere")), reactor)
        arguments = [argument if argument != "--bindmount_ro" else "--no-such-option" for argument in plan.arguments]
        with pytest.raises(CellStartError, match=r"nsjail|option|parse"):
            await cells.start(msgspec.structs.replace(plan, arguments=arguments), reactor)


# --- the filter as bytes, to test other machine types ----------------------------------------------------------


def _verdict(program: list[tuple[int, int, int, int]], arch: int, number: int, arguments: list[int]) -> int:
    """Run a classic BPF program over a struct seccomp_data, as the kernel would."""
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
def test_the_filter_allows_exactly_the_listed_calls(machine: second_filter.Machine) -> None:
    """On both machine types, only the listed calls of the first 1,000 pass, and only with the listed arguments."""
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


async def test_a_cell_that_is_closed_during_a_run_reports_a_crash(plan: Plan) -> None:
    """A run whose cell is closed ends as crashed, not with an exception."""
    async with a_cell(plan) as cell:
        results: list[Result | CellLost] = []
        job = Job(task=Task.CHECK_AND_RUN, source=b"for(;;){}", limits=Limits(wall_ms=9000))
        cell.begin(job, results.append)
        await cell.close()
        (result,) = results
        assert isinstance(result, Result)
        assert result.outcome == Crashed(signal="SIGKILL", message="its jail was killed from outside")


async def test_a_large_job_leaves_the_cell_usable(plan: Plan) -> None:
    """An event that more of the job can be sent may arrive after the run has ended; it does not retire the cell."""
    async with a_cell(plan) as cell:
        for _ in range(30):
            result = await run_on(cell, "return prompt.length //" + "x" * 500_000, prompt="y" * 500_000, cpu_ms=500)
            assert isinstance(result.outcome, Ok)
            assert cell.usable


async def test_an_unread_job_retires_the_cell_even_if_the_next_child_reads_it(plan: Plan) -> None:
    """If a child is killed before it reads its job, the cell is retired, also if the next child has read the job."""
    job = Job(task=Task.CHECK_AND_RUN, source=b"for (;;) {}", limits=Limits(wall_ms=20_000))
    async with a_cell(plan) as cell:
        zygote = only_child(cell.process.pid)
        child = only_child(zygote)
        os.kill(child, signal.SIGSTOP)
        ends: list[tuple[Result | CellLost, bool]] = []
        cell.begin(job, lambda result: ends.append((result, cell.usable)))
        for number in (signal.SIGXCPU, signal.SIGCONT):
            os.kill(child, number)
        # The loop is blocked and notices nothing. A child's warm-up uses a tenth of this CPU time.
        until(lambda: not is_alive(zygote) or any(cpu_s(other) > 0.02 for other in children(zygote)))
        with trio.fail_after(10):
            while not ends:
                await trio.sleep(0.001)
        ((result, usable),) = ends
        assert isinstance(result, Result)
        assert isinstance(result.outcome, CpuLimit)
        assert not usable
