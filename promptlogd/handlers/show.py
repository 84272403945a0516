"""show: all that is known of one program."""

from __future__ import annotations

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.services import Services
from promptlogd.wire.messages import NameChange, Show, Shown


async def handle(request: Show, services: Services, client: Client) -> Shown:
    """Tell about a program. Raises RequestError."""
    hash = resolve(services, request.hash)
    with StoreErrors():
        fact, names, history = services.store.show(hash)
        source = services.store.load(hash).source.decode("utf-8") if request.source else None
    return Shown(
        id=request.id,
        hash=fact.hash,
        size=fact.size,
        created_at=fact.created_at,
        created_by=fact.created_by,
        engine=fact.engine,
        language=fact.language,
        runs=fact.runs,
        last_run_at=fact.last_run_at,
        names=names,
        history={
            name: [NameChange(hash=move.hash, at=move.at) for move in moves if move.hash is not None]
            for name, moves in history.items()
        },
        source=source,
    )
