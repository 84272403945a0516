"""show: one program, with its names, their moves, and optionally its source."""

from __future__ import annotations

from typing import cast

from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire import MAX_FRAME_BYTES, Encoded, Encoding, encode_text
from promptlogd.wire.messages import NameChange, Show, Shown

_MOST_SOURCE_BYTES = MAX_FRAME_BYTES - (1 << 20)
"""Largest encoded source in a reply. Names and their moves take 0.5 MB of the frame at most."""


class ShowHandler:
    """Handles `show`."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: Show, sink: Sink) -> None:
        """Reply with the program."""
        sink.spawn(lambda: self._threads.read(principal, lambda: self._shown(request, sink.encoding), sink))

    def _shown(self, request: Show, encoding: Encoding) -> Shown:
        hash = self._store.resolve(request.hash)
        shown = self._store.show(hash)
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
