"""promptlogctl import: submit the programs of an export. Its format: archive.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.archive import BadArchive, Exported, read
from promptlogctl.cli.files import FILE
from promptlogctl.cli.options import VISIBILITY
from promptlogctl.cli.output import Exit
from promptlogctl.client import Client, Language, RequestRefused, Visibility

_OF_ONE_PROGRAM = ("bad_request", "too_large", "unsupported")
"""Codes of errors after which the other programs are still imported."""


class _Counts:
    """What an import has done."""

    def __init__(self) -> None:
        self.programs = self.created = self.names = 0
        self.failed: list[str] = []
        self.kept_names: list[str] = []
        self.refused_names: list[str] = []
        """Names of other users, also of users whose names this one does not see."""


@click.command("import")
@click.argument("file", metavar="FILE|-", type=FILE)
@click.option("--move-names", is_flag=True, help="Also move names that other programs have here.")
@VISIBILITY
@command
def import_(app: App, file: str, move_names: bool, visibility: Visibility | None) -> Exit:
    """Submit the programs of an export.

    With - as FILE, the command reads standard input. The daemon checks each program. Names that other programs have
    here do not move, unless --move-names is given. An export does not say who sees a program: see --visibility. An
    import can be repeated. Exit code 1: a program or a name was refused; the others are stored.
    """
    counts = _Counts()
    with app.client() as client, _opened(file) as source:
        try:
            for program, text in read(source):
                _import_one(client, program, text, move_names, visibility, counts)
        except BadArchive as error:
            stored = f"; {counts.programs} programs before that were stored" if counts.programs else ""
            return output.problem("bad_archive", f"can't import {file}: {error}{stored}", Exit.USAGE, json=app.json)
    if app.json:
        output.as_json(
            {
                "programs": counts.programs,
                "created": counts.created,
                "names": counts.names,
                "kept_names": counts.kept_names,
                "refused_names": counts.refused_names,
                "failed": counts.failed,
            }
        )
    else:
        output.note(f"imported {counts.programs} programs, {counts.created} of them new, and {counts.names} names")
        if counts.kept_names:
            output.note(f"{len(counts.kept_names)} names are on other programs here; --move-names moves them")
    return Exit.PROGRAM if counts.failed or counts.refused_names else Exit.OK


def _import_one(
    client: Client, program: Exported, text: bytes, move_names: bool, visibility: Visibility | None, counts: _Counts
) -> None:
    try:
        # A language that does not exist is refused by the daemon.
        language = cast(Language, program.language)
        kept = client.submit(text, engine=program.engine, language=language, visibility=visibility)
        for name in program.names:
            present = _hash_of(client, name)
            if present == kept.hash:
                continue
            if present is not None and not move_names:
                counts.kept_names.append(name)
                continue
            try:
                client.label(name, kept.hash, visibility=visibility)
            except RequestRefused as refused:
                if refused.code != "forbidden":
                    raise
                counts.refused_names.append(name)
                output.error(f"program {program.hash}: the name {name} belongs to another user")
                continue
            counts.names += 1
    except RequestRefused as refused:
        if refused.code not in _OF_ONE_PROGRAM:
            raise
        counts.failed.append(program.hash)
        output.error(f"program {program.hash}: {refused}")
    except ValueError as error:  # not UTF-8
        counts.failed.append(program.hash)
        output.error(f"program {program.hash}: {error}")
    else:
        counts.programs += 1
        counts.created += kept.created


def _hash_of(client: Client, name: str) -> str | None:
    try:
        return client.show(f"@{name}").hash
    except RequestRefused as refused:
        if refused.code != "not_found":
            raise
        return None


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below; the block's own OSErrors are not about this file
    except OSError as error:
        raise click.UsageError(f"can't read {path}: {error.strerror}") from None
    with file:
        yield file
