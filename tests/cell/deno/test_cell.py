"""A Deno cell in a real jail: limits, outcomes from the kernel's evidence, and one run for each process."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import trio

from sandbox.cells.plan import Plan
from sandbox.cells.process import Ending, Supervisor, ending, only_child
from sandbox.engines.deno.host import start as deno
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import MIB, Limits
from sandbox.outcome import CpuLimit, Crashed, LogLine, MemoryLimit, ProgramException, WallLimit
from tests.cell.cells import a_reactor, run_on, until_blank
from tests.cell.deno.cells import a_cell, kill_blank, value_of
from tests.daemon.processes import cpu_s, is_alive

_LIMIT_MS = Limits().cpu_ms


async def test_each_run_has_its_own_process_and_namespaces(plan: Plan) -> None:
    """After a normal exit, nsjail starts the next process, and nothing of the last run is visible in it."""
    seen: list[tuple[int, int]] = []
    with ExitStack() as held:
        async with a_cell(plan) as cell:
            for number in range(4):
                pid = only_child(cell.process.pid)
                # Keep the namespace open, so that its number is not reused.
                namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
                held.callback(os.close, namespace)
                seen.append((pid, os.fstat(namespace).st_ino))
                assert (
                    value_of(await run_on(cell, "const was = globalThis.x; globalThis.x = 1; return was ?? null"))
                    is None
                )
                assert cell.usable, number
                await until_blank(cell)
    assert len({pid for pid, _ in seen}) == 4
    assert len({namespace for _, namespace in seen}) == 4


async def test_the_process_sees_nothing_of_the_host(plan: Plan) -> None:
    """Its descriptors are the data socket, a pipe and those of its event loop; its files are engine and runner."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        links = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert links["0"] == links["1"]
        assert links["2"].startswith("pipe:")
        assert int(Path(f"/proc/{pid}/fdinfo/2").read_text().split("flags:")[1].split()[0], 8) & 3 == os.O_WRONLY
        for number, link in links.items():
            assert link.startswith(("anon_inode:", "socket:", "/dev/null")) or link == links["2"], (number, link)
        files = {str(path.relative_to(plan.folder)) for path in plan.folder.rglob("*") if path.is_file()}
        assert {file for file in files if not file.startswith("lib")} == {
            "app/runner.js", "app/imports.json", "bin/deno", "proc/self/maps",
        }  # fmt: skip
        assert "/" not in (plan.folder / "proc/self/maps").read_text()  # without processes, it names no file
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status


async def test_late_output_of_a_process_does_not_reach_the_next_run(plan: Plan) -> None:
    """Late output and forged ready messages of a process are dropped, because the kernel reports the sender's pid."""
    async with a_cell(plan) as cell:
        # The program writes until it is killed, so much output remains when the daemon ends the process.
        result = await run_on(cell, "const late = async () => { for (;;) await console.log('late') }; late(); return 1")
        assert value_of(result) == 1
        await until_blank(cell)
        result = await run_on(cell, "return 2")
        assert (value_of(result), result.logs) == (2, [])


@pytest.mark.timed
@pytest.mark.parametrize(
    "source",
    [
        "for(;;){}",
        "const f = () => Promise.resolve().then(f); await f()",
        "'a'.repeat(2e7).indexOf('a'.repeat(1e7) + 'b')",
        "return {get a() { for(;;); }}",
    ],
)
async def test_the_cpu_limit_uses_the_clock_of_the_process(plan: Plan, source: str) -> None:
    """Loops, native functions and getters end within 10 ms after the limit, in most runs even on a busy machine."""
    used = []
    for _ in range(3):
        async with a_cell(plan) as cell:
            result = await run_on(cell, source)
            assert isinstance(result.outcome, CpuLimit), result.outcome
            used.append(result.usage.cpu_ms)
            # nsjail starts the next process itself. Without a cgroup, the cell may retire after a run that used much
            # memory.
            if plan.cgroup is not None or cell.usable:
                await until_blank(cell)
                assert value_of(await run_on(cell, "return 1")) == 1
    assert min(used) >= _LIMIT_MS
    assert sorted(used)[1] <= _LIMIT_MS + 10, used


async def test_rlimit_cpu_is_a_second_cpu_limit(plan: Plan) -> None:
    """RLIMIT_CPU ends a run, at most two seconds after its CPU limit, if the daemon does not."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        blank_s = cpu_s(pid)
        limits: list[str] = []

        def look(_: Sequence[LogLine]) -> None:
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
            limits.extend(line for line in lines if line.startswith("Max cpu time"))

        result = await run_on(cell, "console.log('on'); return 1", on_lines=look, cpu_ms=3000)
        assert value_of(result) == 1
    (line,) = limits
    soft, hard = map(int, line.split()[3:5])
    assert blank_s + 3 < soft <= blank_s + 3 + 2
    assert hard == soft + 1


@pytest.mark.parametrize(
    "source",
    [
        "const a = []; for (;;) a.push({b: [1, 2, 3]})",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
        "let s = 'x'; const a = []; for (;;) { s += s.slice(0, 1 << 20); a.push(s + a.length); }",
    ],
)
async def test_the_memory_limit(plan: Plan, source: str) -> None:
    """A memory bomb ends at the memory limit; without a cgroup, at most 20 MiB above it."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, source, cpu_ms=10_000)
        if plan.cgroup is None and isinstance(result.outcome, ProgramException):
            assert result.outcome.name == "RangeError"  # V8 throws when it cannot allocate an ArrayBuffer
        else:
            assert isinstance(result.outcome, MemoryLimit), result.outcome
        assert result.usage.peak_memory_bytes <= (128 if plan.cgroup else 148) * MIB
        if plan.cgroup is not None:  # otherwise this large test process is the floor: see test_deno.py
            assert result.usage.peak_memory_bytes > 64 * MIB
        assert result.usage.cpu_ms > 0


async def test_the_daemon_enforces_the_wall_limit(plan: Plan) -> None:
    """A program that waits for a minute ends at the wall limit."""
    async with a_cell(plan) as cell:
        result = await run_on(cell, "await new Promise((r) => setTimeout(r, 60000))", wall_ms=300)
        assert isinstance(result.outcome, WallLimit)
        assert 300 <= result.usage.wall_ms < 3000


async def test_a_killed_process_is_reported(plan: Plan) -> None:
    """A kill from outside is reported as crashed with its signal during a run, and as CellLost in a blank cell."""
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)

        def kill(_: Sequence[LogLine]) -> None:
            os.kill(pid, signal.SIGKILL)

        source = "console.log('on'); await new Promise((r) => setTimeout(r, 60000))"
        result = await run_on(cell, source, on_lines=kill)
        assert isinstance(result.outcome, Crashed)
        assert result.outcome.signal == "SIGKILL"
        assert not cell.usable
    async with a_cell(plan) as cell:
        await kill_blank(cell)
        with pytest.raises(CellLost):
            await run_on(cell, "return 1")


async def test_a_killed_nsjail_is_noticed_by_its_closed_log(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed log shows that nsjail has ended, even if its pidfd is not ready yet."""
    monkeypatch.setattr(Supervisor, "is_alive", lambda _: True)
    async with a_cell(plan) as cell:
        nsjail = cell.process.pid

        def kill(_: Sequence[LogLine]) -> None:
            os.kill(nsjail, signal.SIGKILL)

        source = "console.log(1); await new Promise((done) => setTimeout(done, 60000))"
        result = await run_on(cell, source, on_lines=kill, wall_ms=9000)
        assert result.outcome == Crashed(signal="SIGKILL", message="its jail was killed from outside")


async def test_a_cancelled_run_leaves_no_process(plan: Plan) -> None:
    """When `run` and `close` have returned after a cancel, the process and its nsjail have ended."""
    async with a_cell(plan) as cell:
        nsjail, pid = cell.process.pid, only_child(cell.process.pid)
        with trio.CancelScope() as scope:
            await run_on(
                cell, "console.log('on'); for(;;){}", on_lines=lambda _: scope.cancel(), cpu_ms=5000, wall_ms=5000
            )
        assert scope.cancelled_caught
    assert not is_alive(pid)
    assert not is_alive(nsjail)


async def test_a_failed_start_has_a_reason(plan: Plan) -> None:
    """The error contains Deno's message, nsjail's report of the exit, or the system's error."""
    async with a_reactor() as reactor:
        with pytest.raises(CellStartError, match="nowhere"):
            await deno.start(msgspec.structs.replace(plan, executable=Path("/nowhere")), reactor)
        arguments = [*plan.arguments[:-1], "/app/nowhere.js"]
        with pytest.raises(CellStartError, match=r"Module not found.*exited with status: 1"):
            await deno.start(msgspec.structs.replace(plan, arguments=arguments), reactor)


def test_nsjails_report_of_an_exit() -> None:
    """Only the log line of this process counts, and signals are distinguished from exit codes with the same number."""
    log = (
        "[I] pid=12 ([STANDALONE MODE]) exited with status: 137, (PIDs left: 0)\n"
        "[I] pid=13 ([STANDALONE MODE]) terminated with signal: SIGKILL (9), (PIDs left: 0)\n"
    )
    assert ending(log, 12) == Ending(pid=12, exit_code=137)
    assert ending(log, 13) == Ending(pid=13, signal=9)
    assert ending(log, 1) is None


async def test_a_run_uses_one_core(plan: Plan) -> None:
    """All threads of a run's process, including new ones, share one core, so that other runs are not delayed."""
    derive = (
        "const key = await crypto.subtle.importKey('raw', new Uint8Array(16), 'PBKDF2', false, ['deriveBits']);"
        "const how = {name: 'PBKDF2', hash: 'SHA-512', salt: new Uint8Array(16), iterations: 2e6};"
        "console.log('on');"
        "await Promise.all(Array.from({length: 12}, () => crypto.subtle.deriveBits(how, key, 256)))"
    )
    async with a_cell(plan) as cell:
        pid = only_child(cell.process.pid)
        before = len(os.listdir(f"/proc/{pid}/task"))
        begun = trio.Event()
        seen: list[list[str]] = []

        async def look() -> None:
            await begun.wait()
            while True:
                tasks = list(Path(f"/proc/{pid}/task").glob("*/status"))
                lines = [line for task in tasks for line in _lines(task)]
                seen.append([line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")])
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            result = await run_on(cell, derive, on_lines=lambda _: begun.set(), cpu_ms=200)
            nursery.cancel_scope.cancel()
    assert isinstance(result.outcome, CpuLimit), result.outcome
    assert result.outcome.used < 230
    assert max(map(len, seen)) > before, "no thread was started"
    assert all(len(set(cores)) <= 1 for cores in seen), seen
    assert all(core.isdigit() for cores in seen for core in cores), seen  # a single core, not 0-3 or 0,2


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # the thread has just ended
        return []
