"""cancel: end a run of the same connection. The run answers for itself, with the outcome `cancelled`."""

from __future__ import annotations

from promptlogd.client import Client
from promptlogd.services import Services
from promptlogd.wire.messages import Cancel, Cancelling


async def handle(request: Cancel, services: Services, client: Client) -> Cancelling:
    """Cancel a run, if there is such a one."""
    scope = client.runs.get(request.target)
    if scope is not None:
        scope.cancel()
    return Cancelling(id=request.id, found=scope is not None)
