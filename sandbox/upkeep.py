"""What every pool does for its cells: wait until one is of no more use, and for a while after one did not start."""

from __future__ import annotations

from typing import Protocol

import trio

_BACKOFF_S = (0.05, 0.2, 1.0, 5.0)


class _Process(Protocol):
    async def wait(self) -> object: ...


class _Kept(Protocol):
    @property
    def process(self) -> _Process: ...

    retired: trio.Event

    def retire(self) -> None: ...


async def until_retired(cell: _Kept) -> None:
    """Return once the cell is retired, which it is at the latest when its jail has ended."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await cell.process.wait()
            cell.retire()

        nursery.start_soon(watch)
        await cell.retired.wait()
        nursery.cancel_scope.cancel()


def backoff_s(failures: int) -> float:
    """Return how long to wait after a failed start, so many having failed before it in a row."""
    return _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
