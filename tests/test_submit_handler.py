"""Memory of a refused submit."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import pytest

from promptlogd.collector import Collector
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.submit import _Storing
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.store import Store
from sandbox.program import Program


async def test_a_refused_program_is_freed_without_garbage_collection() -> None:
    """The program's text is freed as soon as the client has got the error."""
    program = Program.of_text(b"return }", language="javascript", engine="quickjs")
    gc.disable()
    try:
        nobody: Any = None
        store = cast(Store, nobody)
        principal = Principal(connection=1, uid=0, process=None)
        storing = _Storing(
            store,
            cast(StoreThreads, nobody),
            cast(Collector, nobody),
            principal,
            lambda: store.stage(program, uid=0),
            nobody,
        )
        storing.refused = RequestError("bad_request", "no")
        with pytest.raises(RequestError) as raised:
            await storing.publish()
        left = weakref.ref(storing)
        del storing, raised
        assert left() is None
    finally:
        gc.enable()
