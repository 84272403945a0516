"""The timer that ends waits of the asynchronous client on asyncio."""

from __future__ import annotations

import asyncio

import pytest

from promptlogctl.client.wait_timer import WaitTimer

_SECONDS = 0.2


@pytest.mark.timed
def test_each_wait_has_its_own_end() -> None:
    """A wait ends after the time of the timer, counted from its own start, and not at all if it was stopped."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer = WaitTimer(loop, _SECONDS)
        waits, starts, stopped = [], [], loop.create_future()
        timer.start(stopped)
        for _ in range(3):
            wait = loop.create_future()
            timer.start(wait)
            waits.append(wait)
            starts.append(loop.time())
            await asyncio.sleep(_SECONDS / 4)
        timer.stop(stopped)
        for wait, start in zip(waits, starts, strict=True):
            await asyncio.wait_for(wait, 5)
            assert _SECONDS - 0.002 <= loop.time() - start < 2 * _SECONDS
        assert not stopped.done()

    asyncio.run(main())


def test_a_closed_timer_ends_no_wait() -> None:
    """A wait of a closed timer does not end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer, wait, other = WaitTimer(loop, 0.05), loop.create_future(), loop.create_future()
        timer.start(wait)
        timer.close()
        WaitTimer(loop, 0.1).start(other)
        await asyncio.wait_for(other, 5)
        assert not wait.done()

    asyncio.run(main())
