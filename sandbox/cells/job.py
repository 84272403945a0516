"""A job for a cell, what has come of it, and how a cell is started: plain records that every engine's cell shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from sandbox.cgroup import Cgroup
from sandbox.engines.replies import Refused, Wrapped
from sandbox.errors import CellStartError
from sandbox.identities import Identities, Identity
from sandbox.jail import identity_arguments
from sandbox.limits import Limits
from sandbox.outcome import LogLine, Outcome, Usage

LONG_S = 0.005
"""Wall time after which a run is a long one, and gives way to others."""

Engine = Literal["quickjs", "deno"]
Language = Literal["javascript", "typescript"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run, or one check, for a cell.

    kind: `run` wrapped code; `source` check and run a source; `check` a source and wrap it.
    `env` is the text of a JSON object. `source_name` is what stacks call the program.
    """

    kind: Literal["run", "source", "check"]
    code: bytes
    engine: Engine = "quickjs"
    language: Language = "javascript"
    prompt: str = ""
    env: str = "{}"
    limits: Limits
    source_name: str = "program.js"

    @property
    def source(self) -> bytes:
        """The program as its author wrote it; behind a wrapped body there is the wrapper's end as well."""
        if self.kind != "run":
            return self.code
        # A letter says the form; a body for QuickJS stands below one line of wrapper.
        wrapped = self.engine == "quickjs" and self.code[:1] == b"B"
        return self.code[self.code.index(b"\n") + 1 :] if wrapped else self.code[1:]


class Trial:
    """What has come of one job so far; complete once `outcome` or, for a check, `checked` is set."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.checked: Wrapped | Refused | None = None
        self.logs: list[LogLine] = []
        self.logs_truncated = False
        self.usage = Usage(cpu_ms=0.0, wall_ms=0.0, peak_memory_bytes=0)

    def end(self, how: Outcome | Wrapped | Refused) -> None:
        """Note how it ended."""
        if isinstance(how, Wrapped | Refused):
            self.checked = how
            if isinstance(how, Refused):
                self.outcome = how.error
        else:
            self.outcome = how


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a cell: the program to spawn, its arguments, and the limits its blank children have."""

    engine: str
    executable: Path
    arguments: list[str]
    """All but those that say who the jail is outside: see `Plan.arguments_for`."""
    identities: Identities
    folder: Path
    default: Limits
    cgroup: Cgroup | None = None
    data_bytes: int | None = None
    """RLIMIT_DATA of the engine's process, where that holds its memory."""

    def take_identity(self) -> Identity:
        """Return who the next jail is to be. Raises CellStartError if no identity is free."""
        identity = self.identities.take()
        if identity is None:
            raise CellStartError(self.engine, "no uid is free for its jail; raise the number of ids in pool.uids")
        return identity

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of subprocess.Popen that depend on who the daemon is.

        nsjail drops supplementary groups for root alone: a jail with a uid of its own should not keep the daemon's.
        """
        return {} if self.identities.shared or os.geteuid() == 0 else {"extra_groups": []}

    def arguments_for(self, identity: Identity) -> list[str]:
        """Return the arguments for a jail with this identity."""
        return [*identity_arguments(identity), *self.arguments]
