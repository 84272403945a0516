"""Room for the replies to one client: a client that reads slowly gets no more replies meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Room:
    """Whether the client reads its replies fast enough that another run may begin for it."""

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
