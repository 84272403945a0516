"""promptlogctl exec."""

from __future__ import annotations

from typing import Any

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.files import LANGUAGE, Source, language_of, read_text
from promptlogctl.cli.options import checked, run_options
from promptlogctl.cli.output import Exit
from promptlogctl.client import Client, Engine, Language, RequestRefused


@click.command(name="exec")
@click.argument("file", metavar="FILE|-")
@click.option("--no-keep", is_flag=True, help="Do not keep the program in the store.")
@LANGUAGE
@run_options
@command
def exec_(app: App, file: str, no_keep: bool, language: Language | None, show_usage: bool, **given: Any) -> Exit:
    """Submit and run the program in FILE; it is kept, but for --no-keep.

    Default and maximum of a limit are those of a daemon whose settings say nothing else.
    """
    if file == "-" and given["prompt_file"] == "-":
        raise click.UsageError("the program and the prompt can't both be standard input")
    prompt, options = checked(**given)
    text = read_text(file, "program")
    language = language or language_of(file)
    app.source = Source(file, text, language)
    with app.client() as client:
        hash = None if no_keep else _keep(client, text, options["engine"], language)
        if hash is None:
            result = client.run_source(text, prompt, language=language, **options)
        else:
            result = client.run(hash, prompt, **options)
    return output.end_of_run(result, app.source, json=app.json, show_usage=show_usage)


def _keep(client: Client, text: str, engine: Engine | None, language: Language | None) -> str | None:
    """Keep a program and return its hash. One that is kept as something else stays that: None, it is run as given."""
    try:
        return client.submit(text, engine=engine, language=language).hash
    except RequestRefused as refused:
        hash, kept, kind = (refused.detail.get(field) for field in ("hash", "engine", "language"))
        if not isinstance(hash, str):
            raise
        output.note(f"not kept: this very text is kept as {kind} for {kept} already ({hash[:12]})")
        return None
