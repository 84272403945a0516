"""promptlogctl submit."""

from __future__ import annotations

from typing import Any

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import LANGUAGE, App, Source, command, language_of, read_text


@click.command()
@click.argument("file")
@click.option("--name", help="Put this name on the program; it is then also @NAME.")
@click.option("--engine", type=click.Choice(["quickjs", "deno"]), help="What runs it where a run does not say.")
@LANGUAGE
@command
def submit(app: App, file: str, name: str | None, engine: Any, language: Any) -> None:
    """Keep the program in FILE (- for standard input) and print its hash. A .ts file is TypeScript, for Deno."""
    source = read_text(file, "program")
    language = language or language_of(file)
    app.source = Source(file, source, language)
    with app.client() as client:
        kept = client.submit(
            source,
            name=None if name is None else name.removeprefix("@"),
            engine=engine,
            language=language,
        )
    if app.temporary:
        output.note("kept in a temporary store, which is gone now; --state-dir DIR keeps it")
    if app.json:
        output.as_json(kept)
    else:
        click.echo(kept.hash)
