"""What a submit that is refused leaves in memory."""

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


async def test_a_refused_program_does_not_wait_for_the_collector_of_cycles() -> None:
    """Its text is gone as soon as the client has been told."""
    program = Program.of_text(b"return }", language="javascript", engine="quickjs")
    gc.disable()
    try:
        nobody: Any = None
        principal = Principal(connection=1, uid=0, process=None)
        storing = _Storing(
            cast(Store, nobody), cast(StoreThreads, nobody), cast(Collector, nobody), program, principal, nobody
        )
        storing.refused = RequestError("bad_request", "no")
        with pytest.raises(RequestError) as raised:
            await storing.publish()
        left = weakref.ref(storing)
        del storing, raised
        assert left() is None
    finally:
        gc.enable()
