"""One job on its way through a Deno cell: handed over, watched, ended, and how it ended told from the evidence.

What comes over the data socket counts only with the run's token. Not here: how a cell starts and goes on.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from sandbox.cells.deno_process import DenoProcess
from sandbox.cells.exchange import Exchange
from sandbox.cells.frames import TOKEN_BYTES, deno_frame
from sandbox.cells.job import LONG_S, Job, Trial
from sandbox.cells.process import Ending, Supervisor
from sandbox.cells.verdict import Evidence, Verdict, of_evidence, of_last_words
from sandbox.cgroup import Group
from sandbox.engines.deno import stack
from sandbox.engines.deno.stripped import is_stripped
from sandbox.engines.replies import BadReply, ReplyReader, Wrapped
from sandbox.errors import CellLost
from sandbox.outcome import Crashed, LogLine, Outcome, Usage, WallLimit

_REAP_S = 0.75
"""How long nsjail may take to end, once killed, for its account of memory."""

_WRAPPED_MORE_BYTES = 1024
_KINDS = {"run": frozenset("lvobxs"), "source": frozenset("lvobxsq"), "check": frozenset("wsqx")}
"""What the runner says of each kind of job. It never says that memory ran out: the kernel does."""

_FORMS = {"javascript": (b"B", b"M"), "typescript": (b"T", b"N")}
_BLANKED = (b"b", b"m")
_LOOK_S = 0.001
"""The least time between two looks at the process's CPU clock."""

_CORES = len(os.sched_getaffinity(0))


class DenoRun:
    """The one job on its way through a cell."""

    def __init__(
        self,
        jail: Supervisor,
        group: Group | None,
        engine: DenoProcess,
        poll: select.epoll,
        data: socket.socket,
        job: Job,
        trial: Trial,
        on_log: Callable[[LogLine], None] | None,
    ) -> None:
        self.began = trio.current_time()
        self._jail = jail
        self._group = group
        self._engine = engine
        self._poll = poll
        self._job = job
        self._trial = trial
        self._ended = False
        self._peak_bytes = 0
        self._killed_for: Outcome | None = None
        self._oom_before = group.oom_kills() if group is not None else 0
        self._reaped_before_s = jail.reaped_cpu_s()
        self._cpu_before_s = self._cpu_s = engine.cpu_s()
        token = os.urandom(TOKEN_BYTES)
        self._reader = ReplyReader(
            limits=job.limits,
            source_name=job.source_name,
            stacks=stack,
            source=lambda: job.source,
            token=token,
            kinds=_KINDS[job.kind],
            wrapped_bytes=len(job.code) + _WRAPPED_MORE_BYTES if job.kind == "check" else 0,
        )
        self._exchange = Exchange(data, poll, deno_frame(job, token), self._reader, trial, on_log)

    @property
    def begun(self) -> bool:
        """Whether anything of the job was handed over."""
        return self._exchange.begun

    async def go(self) -> None:
        """Hand the job over, read what comes, watch the clocks. Raises CellLost if nothing was handed over."""
        limits = self._job.limits
        try:
            with trio.move_on_after(limits.wall_ms / 1000) as deadline:
                await self._until_the_end(limits.cpu_ms / 1000)
            if deadline.cancelled_caught:
                self._killed_for = WallLimit(limit=limits.wall_ms, used=self._wall_ms())
        except BadReply as error:
            self._killed_for = Crashed(message=f"the engine wrote {error}")
        except CellLost:
            if not self.begun:
                raise
            self._ended = True

    async def _until_the_end(self, limit_s: float) -> None:
        """Return at the last word, at the process's end, or at the end of its CPU time."""
        self._exchange.listen()
        self._exchange.send()
        short_until = self.began + LONG_S
        while True:
            left_s = limit_s - self._used_s()
            if left_s <= 0:
                return
            if self._group is None:
                self._peak_bytes = max(self._peak_bytes, self._engine.peak_bytes())
            # With all cores at work for it, it can't be over sooner.
            look_at = trio.current_time() + max(left_s / _CORES, _LOOK_S)
            with trio.move_on_at(min(look_at, short_until)):
                await trio.lowlevel.wait_readable(self._poll.fileno())
            if trio.current_time() >= short_until:
                short_until = math.inf
                self._engine.lower_priority()
            for descriptor, _ in self._poll.poll(0):
                if descriptor == self._engine.fileno():
                    self._ended = True
                elif self._exchange.unsent:
                    self._exchange.send()
            # After the process's end all that it has written is there to be read.
            if not self._exchange.receive(to_the_end=self._ended):
                self._ended = True
            if self._ended or self._reader.said is not None:
                return

    def _used_s(self) -> float:
        """Return the CPU time that the run has used, or had used at the last look."""
        with suppress(CellLost):
            self._cpu_s = self._engine.cpu_s()
        return self._cpu_s - self._cpu_before_s

    async def settle(self) -> bool:
        """Read the kernel's accounts, end the process, and tell how it ended; return whether its nsjail may go on."""
        jail, group, limits, said = self._jail, self._group, self._job.limits, self._reader.said
        told_ms = looked_ms = self._used_s() * 1000
        peak_bytes = (group.peak_bytes() if group is not None else 0) or self._engine.peak_bytes()
        # A process that is there, and took all that it was sent, is ended by us: nsjail had no part in it, and goes on.
        there = not self._ended and self._engine.is_alive() and self._exchange.was_read()
        there = there and not isinstance(self._killed_for, Crashed)
        how: Ending | None = None
        oom = jail_gone = False
        if there:
            self._engine.kill()
        else:
            oom = group is not None and group.oom_kills() > self._oom_before
            if self._ended:
                how = await jail.how_it_ended(self._engine.pid)
                jail_gone = how is None and not jail.is_alive()
                reaped_s = jail.reaped_cpu_s() - self._reaped_before_s
                # In steps of 10 ms, too coarse to hold against the program.
                told_ms = max(looked_ms, (reaped_s - self._cpu_before_s) * 1000)
            jail.kill()
            if group is None and self._ended:
                # No run before this one had a quarter of the limit: it would have been the last.
                with trio.move_on_after(_REAP_S):
                    await jail.wait()
                peak_bytes = max(peak_bytes, self._peak_bytes, jail.peak_bytes - self._engine.file_bytes)
        self._trial.logs_truncated = self._reader.logs_truncated
        self._trial.usage = Usage(cpu_ms=round(told_ms, 3), wall_ms=self._wall_ms(), peak_memory_bytes=peak_bytes)
        evidence = Evidence(
            oom=oom,
            cpu_looked_ms=looked_ms,
            cpu_told_ms=told_ms,
            peak_bytes=peak_bytes,
            ended_by_us=self._killed_for,
            said=await self._checked(said) if there else None,
            at_least=self._reader.at_least,
            jail_gone=jail_gone,
            how=how,
            words=of_last_words(jail.read_errors()) if how is not None else None,
            data_limited=self._engine.data_bytes is not None,
        )
        self._trial.end(of_evidence(evidence, limits))
        # Else a later run's end could be taken for one for lack of memory.
        return there and (group is not None or peak_bytes < limits.memory_bytes // 4)

    async def _checked(self, said: Verdict | None) -> Verdict | None:
        """Build the wrapped code of a check from the client's text. Only the form comes from the process.

        Of TypeScript the process may give the text without types, which is checked to add nothing.
        """
        if not isinstance(said, Wrapped):
            return said
        form, blanked = said.code[:1], said.code[1:]
        if not blanked and form in _FORMS[self._job.language]:
            return Wrapped(code=form + self._job.code)
        if self._job.language == "typescript" and form in _BLANKED and await is_stripped(self._job.code, blanked):
            return said
        return Crashed(message="the engine wrote a form that there is not")

    def _wall_ms(self) -> float:
        return round((trio.current_time() - self.began) * 1000, 3)
