"""A host without free descriptors for a cell: the start fails with an error, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from sandbox.cells.cell import Cell
from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.engines.quickjs.host import start as quickjs
from sandbox.errors import CellStartError
from sandbox.jail.identities import Identities
from sandbox.user_namespace import NOBODY
from tests.cell.cells import a_reactor
from tests.daemon.processes import children

_MOST = 24
"""Upper bound of the descriptors that starting a cell opens."""


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # the listing itself uses one


@contextmanager
def _descriptors_left(count: int) -> Iterator[None]:
    """Limit this process to this number of free descriptors within a block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(max(used) + count + 2) if number not in used][count]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def start_with_few(plan: Plan, start: Callable[[Plan, Reactor], Awaitable[Cell]]) -> None:
    """Try to start a cell with more and more free descriptors, until it starts."""
    async with a_reactor() as reactor:
        await _start_with_few(plan, lambda plan: start(plan, reactor))


async def _start_with_few(plan: Plan, start: Callable[[Plan], Awaitable[Cell]]) -> None:
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    one = Identities(range(uid, uid + 1), range(uid, uid + 1))
    plan = msgspec.structs.replace(plan, identities=one)
    gc.collect()  # it may close files of earlier tests, which would be missed below
    before, processes = _descriptors(), set(children(os.getpid()))
    failed = 0
    for count in range(_MOST):
        try:
            with _descriptors_left(count):
                cell = await start(plan)
        except CellStartError:
            failed += 1
            assert (_descriptors(), set(children(os.getpid()))) == (before, processes), count
            continue
        await cell.close()
        break
    assert 4 <= failed < _MOST
    assert _descriptors() == before
    assert one.take() is not None, "the identity was not given back"


async def test_a_quickjs_cell_needs_descriptors(plan: Plan) -> None:
    """With too few free descriptors, starting a QuickJS cell is an error that leaves nothing behind."""
    await start_with_few(plan, quickjs.start)
