"""A host without free descriptors for a Deno cell: the start fails with an error, and leaves nothing behind."""

from __future__ import annotations

from sandbox.cells.plan import Plan
from sandbox.engines.deno.host import start as deno
from tests.cell.test_descriptors import start_with_few


async def test_a_deno_cell_needs_descriptors(plan: Plan) -> None:
    """With too few free descriptors, starting a Deno cell is an error that leaves nothing behind."""
    await start_with_few(plan, deno.start)
