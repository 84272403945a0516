"""promptlogctl submit."""

from __future__ import annotations

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.files import FILE, LANGUAGE, Source, language_of, read_text
from promptlogctl.cli.options import VISIBILITY
from promptlogctl.client import Engine, Language, RequestRefused, Visibility
from sandbox.engines import ENGINES


@click.command()
@click.argument("file", metavar="FILE|-", type=FILE)
@click.option("--name", help="Give this name to the program. Commands accept @NAME.")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="The engine for runs that do not name one.")
@LANGUAGE
@VISIBILITY
@click.option("--replace", is_flag=True, help="If the program is already stored, change its engine and language.")
@command
def submit(
    app: App,
    file: str,
    name: str | None,
    engine: Engine | None,
    language: Language | None,
    visibility: Visibility | None,
    replace: bool,
) -> None:
    """Store the program in FILE, and print its hash.

    With - as FILE, the command reads standard input. A .ts file is TypeScript, and runs on Deno.
    """
    text = read_text(file, "program")
    language = language or language_of(file)
    app.source = Source(file, text, language)
    if name is not None:
        name = name.removeprefix("@")
    with app.client() as client:
        try:
            kept = client.submit(
                text, name=name, engine=engine, language=language, visibility=visibility, replace=replace
            )
        except RequestRefused as refused:
            if isinstance(hash := refused.detail.get("hash"), str):
                refused.message += (
                    f"; to change that: promptlogctl submit --replace; to remove it: promptlogctl remove --force {hash}"
                )
            raise
    if app.temporary:
        output.note("stored in a temporary store, which is now deleted; to keep it, give --state-dir DIR")
    if app.json:
        output.as_json(kept)
    else:
        click.echo(kept.hash)
