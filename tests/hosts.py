"""Engine hosts with the default configuration, for tests that start cells themselves."""

from __future__ import annotations

from pathlib import Path

import msgspec

from promptlogd.config import Config, DenoSettings
from sandbox.cells.plan import Plan
from sandbox.engines import ENGINES
from sandbox.engines.host.engine_host import EngineHost, Setting, host_of
from sandbox.jail.cgroup import Cgroup
from sandbox.jail.identities import shared


def host(engine: str, folder: Path, *, cgroup: Cgroup | None = None, options: DenoSettings | None = None) -> EngineHost:
    """Return the host of an engine that builds its root folder here; its jails share one uid."""
    config = Config()
    return host_of(ENGINES[engine])(
        Setting(
            folder=folder,
            default=config.default_limits(engine),
            most_memory_bytes=config.limits.max.limits().memory_bytes,
            cgroup=cgroup,
            identities=shared("no range of uids was chosen"),
            options=options,
        )
    )


def in_cgroup(plan: Plan, cgroup: Cgroup) -> Plan:
    """Return a plan that starts a QuickJS cell whose jail is below this cgroup."""
    at = plan.arguments.index("--")
    arguments = [*plan.arguments[:at], *cgroup.arguments, *plan.arguments[at:]]
    return msgspec.structs.replace(plan, arguments=arguments, cgroup=cgroup)
