"""show: one program, with its names, their moves, and optionally its source."""

from __future__ import annotations

from typing import cast

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.store import Store, Viewer
from promptlogd.wire import MAX_FRAME_BYTES, Encoded, Encoding, encode_text
from promptlogd.wire.messages import HolderInfo, NameChange, Show, Shown

_MOST_SOURCE_BYTES = MAX_FRAME_BYTES - (1 << 20)
"""Largest encoded source in a reply. Names and their moves take 0.5 MB of the frame at most."""


class ShowHandler:
    """Handles `show`."""

    def __init__(self, store: Store, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: Show, sink: Sink) -> None:
        """Reply with the program. Raises RequestError."""
        self._rights.require(principal, "submit")
        viewer = self._rights.viewer(principal)
        sink.spawn(lambda: self._threads.read(principal, lambda: self._shown(request, viewer, sink.encoding), sink))

    def _shown(self, request: Show, viewer: Viewer, encoding: Encoding) -> Shown:
        hash = self._store.resolve(request.hash, viewer)
        shown = self._store.show(hash, viewer)
        if request.source and not self._store.holds(hash, viewer):
            message = "reading the source of another user's program requires the right `manage`"
            raise RequestError("forbidden", message, {"right": "manage"})
        fact = shown.fact
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
            names=shown.names,
            more_names=shown.more_names,
            history={
                name: [NameChange(hash=move.hash, at=move.at) for move in moves if move.hash is not None]
                for name, moves in shown.history.items()
            },
            holders=[
                HolderInfo(uid=one.uid, tenant=one.tenant, visibility=one.visibility, at=one.at)
                for one in shown.holders
            ],
            # Already encoded: the session inserts it into the message.
            source=cast(str, self._source(hash, encoding)) if request.source else None,
        )

    def _source(self, hash: str, encoding: Encoding) -> Encoded:
        source = self._store.load(hash).source
        encoded = encode_text(source, encoding)
        size = encoded.size
        if size > _MOST_SOURCE_BYTES:
            raise RequestError(
                "too_large",
                f"the source of {len(source)} bytes is {size} bytes in JSON, the maximum is {_MOST_SOURCE_BYTES}; use "
                "MessagePack, or read the file in programs/ in the state folder",
                {"size": size, "limit": _MOST_SOURCE_BYTES},
            )
        return encoded
