"""Flow control of replies: a client that reads slowly gets no more replies until it has read enough."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Room:
    """Whether the client reads its replies fast enough for another run to start."""

    def has_room(self) -> bool:
        """Whether there is room now."""
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once there is room."""

    async def wait(self) -> None:
        """Wait until there is room."""
        while not self.has_room():
            told = trio.Event()
            self.when_room(told.set)
            await told.wait()


ALWAYS_ROOM = Room()
