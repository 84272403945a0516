"""list: programs, newest first, a page at a time."""

from __future__ import annotations

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors
from promptlogd.services import Services
from promptlogd.wire.messages import List, Listed, Listing


async def handle(request: List, services: Services, client: Client) -> Listed:
    """Return a page of programs. Raises RequestError."""
    with StoreErrors():
        page = services.store.list(request.limit, request.after)
    rows = [
        Listing(
            hash=fact.hash,
            size=fact.size,
            created_at=fact.created_at,
            engine=fact.engine,
            runs=fact.runs,
            last_run_at=fact.last_run_at,
            names=names,
        )
        for fact, names in page.rows
    ]
    return Listed(id=request.id, programs=rows, next=page.next)
