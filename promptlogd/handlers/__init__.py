"""The dispatch table: which request is handled where. A table of contents, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from promptlogd.client import Client
from promptlogd.handlers import cancel, list, name, ping, remove, run, show, stats, submit
from promptlogd.services import Services
from promptlogd.wire import messages
from promptlogd.wire.messages import Reply

Handler = Callable[[Any, Services, Client], Awaitable[Reply]]

HANDLERS: dict[type, Handler] = {
    messages.Submit: submit.handle,
    messages.Run: run.handle,
    messages.Cancel: cancel.handle,
    messages.Show: show.handle,
    messages.List: list.handle,
    messages.Remove: remove.handle,
    messages.Label: name.handle,
    messages.Stats: stats.handle,
    messages.Ping: ping.handle,
}

__all__ = ["HANDLERS", "Client", "Handler"]
