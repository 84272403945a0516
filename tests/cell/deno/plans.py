"""Plans that start Deno cells in an existing root folder."""

from __future__ import annotations

from sandbox.cells.plan import Plan
from sandbox.engines.deno.host.host import FILES_BYTES, nsjail_arguments, policy_text
from sandbox.jail.arguments import nsjail_path
from sandbox.jail.cgroup import Cgroup
from sandbox.jail.identities import shared
from sandbox.jail.root import Root
from sandbox.limits import MIB, Limits


def deno_plan(made: Root, group: Cgroup | None = None, *, memory_bytes: int = 128 * MIB) -> Plan:
    """Return a plan for a Deno cell with this memory limit: with JIT in a cgroup, else with RLIMIT_DATA."""
    jit = group is not None
    return Plan(
        engine="deno",
        executable=nsjail_path(),
        arguments=nsjail_arguments(made, policy_text(jit=jit), jit=jit, memory_bytes=memory_bytes),
        identities=shared("no range of uids was chosen"),
        folder=made.path,
        default=Limits(memory_bytes=memory_bytes),
        cgroup=group,
        data_bytes=None if jit else memory_bytes - FILES_BYTES,
    )
