"""The argument that names a stored program, and its shell completion."""

from __future__ import annotations

from itertools import islice

import click

from promptlogctl.cli.app import socket_of
from promptlogctl.client import Client, PromptlogError


def complete_program(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names and hashes of stored programs with this prefix; nothing if no daemon answers."""
    try:
        with Client(socket_of(context)) as client:
            programs = list(islice(client.list(), 1000))
    except PromptlogError:
        return []
    found = [f"@{name}" for row in programs for name in row.names]
    if incomplete and not incomplete.startswith("@"):
        found += [row.hash for row in programs]
    return sorted(text for text in found if text.startswith(incomplete))


PROGRAM = click.argument("program", metavar="HASH|PREFIX|@NAME", shell_complete=complete_program)
