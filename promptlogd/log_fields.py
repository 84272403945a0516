"""The fields of log lines about requests, for programs that read the log.

The set of fields is fixed, so that no line can contain a prompt, an env, or text from a program.
"""

from __future__ import annotations

from typing import Literal

Event = Literal["submit", "run", "remove", "name", "refuse", "collect", "backup"]


def about(
    event: Event,
    *,
    uid: int,
    tenant: str | None = None,
    connection: int | None = None,
    hash: str | None = None,
    name: str | None = None,
    engine: str | None = None,
    outcome: str | None = None,
    code: str | None = None,
    cpu_ms: float | None = None,
) -> dict[str, dict[str, str | int | float]]:
    """Return the argument `extra` of a logging call.

    `uid`, `tenant`: the client. `hash`, `name`, `engine`: the program. `outcome`: how a run ended, or what a submit
    did. `code`: the error code of a refused request. Fields that are None are omitted.
    """
    fields = {
        "event": event,
        "uid": uid,
        "tenant": tenant,
        "connection": connection,
        "hash": hash,
        "name": name,
        "engine": engine,
        "outcome": outcome,
        "code": code,
        "cpu_ms": cpu_ms,
    }
    return {"fields": {key: value for key, value in fields.items() if value is not None}}
