"""promptlogctl export: write all programs to a tar. Its format: archive.py."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.archive import Exported, Writer
from promptlogctl.cli.files import FILE
from promptlogctl.cli.output import Exit
from promptlogctl.client import Client, RequestRefused


@click.command()
@click.argument("file", metavar="FILE|-", type=FILE)
@command
def export(app: App, file: str) -> Exit:
    """Write all programs that you may read to a tar file.

    The file also has their names, engines and languages. With - as FILE, the command writes to standard output. Equal
    programs and names give equal bytes. Exit code 1: a program could not be read, and is not in the file.
    """
    if os.path.isdir(file):
        raise click.UsageError(f"can't write {file}: it is a folder")
    if file == "-" and sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal; give a FILE, or redirect it")
    count = others = 0
    failed: list[str] = []
    with app.client() as client:
        hashes = sorted(row.hash for row in client.list())
        with _opened(file) as target:
            writer = Writer(target)
            for hash in hashes:
                try:
                    count += _add(client, writer, hash)
                except RequestRefused as refused:
                    if refused.code == "forbidden":
                        others += 1
                        continue
                    if "damaged" not in refused.detail and refused.code == "not_found":
                        continue  # it was removed in between
                    if refused.code not in ("not_found", "too_large", "internal"):
                        raise
                    failed.append(hash)
                    output.error(f"program {hash} is left out: {refused.message}")
            writer.end()
    if app.json and file != "-":
        output.as_json({"programs": count, "failed": failed, "of_others": others})
    else:
        output.note(f"exported {count} programs" + (f", and left out {len(failed)}" if failed else ""))
        if others:
            output.note(f"left out {others} programs of other users: reading them requires the right `manage`")
    return Exit.PROGRAM if failed else Exit.OK


def _add(client: Client, writer: Writer, hash: str) -> int:
    shown = client.show(hash, source=True)
    source = (shown.source or "").encode()
    if hashlib.sha256(source).hexdigest() != hash:
        output.note(f"program {hash} has several files, and is left out")
        return 0
    if shown.more_names:
        output.note(f"program {hash} has {shown.more_names} more names than an export has")
    record = Exported(
        hash=hash,
        engine=shown.engine,
        language=shown.language,
        created_at=shown.created_at,
        created_by=shown.created_by,
        names=shown.names,
    )
    writer.add(record, source)
    return 1


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file for the export. Raises click.UsageError.

    A file gets its name, and replaces an existing file, when it is complete. A pipe or a device, such as /dev/stdout,
    is written to, and not replaced.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not path:
        raise click.UsageError("the path is empty")
    is_special = os.path.exists(path) and not os.path.isfile(path)
    place = os.path.realpath(path)  # the target of a symbolic link is replaced, and not the link
    temporary = ""
    try:
        if is_special:
            target: BinaryIO = open(path, "wb")  # noqa: SIM115  # closed below; this fails for a folder
        else:
            number, temporary = tempfile.mkstemp(prefix=".promptlog-export-", dir=os.path.dirname(place))
            target = open(number, "wb")  # noqa: SIM115  # as above
    except OSError as error:
        raise click.UsageError(f"can't write {path}: {error.strerror}") from None
    try:
        with target:
            yield target
            target.flush()
            if temporary:
                os.fsync(target.fileno())
                os.replace(temporary, place)
    except BaseException:
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        raise
