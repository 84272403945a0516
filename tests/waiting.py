"""Admission for tests that wait for their turn in tasks."""

from __future__ import annotations

from collections.abc import Hashable

import trio

from promptlogd.admission import Admission, Slot


class Busy(Exception):
    """The queue is full."""


class Late(Exception):
    """No slot was free for too long."""


class Waiting(Admission):
    """Admission with a way to wait in a task."""

    async def acquire(self, client: Hashable, after_ms: float = 0.0) -> Slot:
        """Wait for a slot. Raises Busy and Late. A cancelled wait leaves the queue, or gives its slot back."""
        slot = self.take(client, after_ms)
        if slot is not None:
            return slot
        if self.is_full:
            raise Busy
        answer: list[Slot | None] = []
        came = trio.Event()

        def granted(slot: Slot | None) -> None:
            answer.append(slot)
            came.set()

        turn = self.wait(client, after_ms, granted)
        try:
            await came.wait()
        except trio.Cancelled:
            self.leave(turn)
            if answer and answer[0] is not None:
                self.release(answer[0], 0.0)
            raise
        if answer[0] is None:
            raise Late
        return answer[0]
