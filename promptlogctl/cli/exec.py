"""promptlogctl exec."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.files import FILE, LANGUAGE, Source, language_of, read_text
from promptlogctl.cli.live_console import printed
from promptlogctl.cli.options import checked, run_options, whole
from promptlogctl.cli.output import Exit
from promptlogctl.client import Client, Engine, Language, RequestRefused


@click.command(name="exec")
@click.argument("file", metavar="[FILE|-]", required=False, type=FILE)
@click.option("-e", "--eval", "code", metavar="CODE", help="The program itself, instead of a file.")
@click.option("--keep", is_flag=True, help="Also store the program, and print its hash on standard error.")
@LANGUAGE
@run_options
@command
def exec_(
    app: App,
    file: str | None,
    code: str | None,
    keep: bool,
    language: Language | None,
    show_usage: bool,
    **given: Any,
) -> Exit:
    """Run the program in FILE, or CODE, without storing it.

    The daemon's configuration can change the defaults and maxima of limits that are listed here.
    """
    if file is None and code is None:
        raise click.UsageError("give a FILE (- for standard input), or -e CODE")
    if file is not None and code is not None:
        raise click.UsageError("give a FILE or -e CODE, not both")
    if file == "-" and given["prompt_file"] == "-":
        raise click.UsageError("the program and the prompt can't both be standard input")
    prompt, options = checked(stdin_is_free=file != "-", **given)
    if file is None:
        file, text = "-e", whole(code or "", "-e")
    else:
        text = read_text(file, "program")
        language = language or language_of(file)
    app.source = Source(file, text, language)
    live = nullcontext() if app.json else printed()
    with app.client() as client, live as options["on_log"]:
        hash = _keep(client, text, options["engine"], language, json=app.json) if keep else None
        if hash is None:
            result = client.run_source(text, prompt, language=language, **options)
        else:
            result = client.run(hash, prompt, **options)
    return output.end_of_run(result, app.source, json=app.json, show_usage=show_usage)


def _keep(client: Client, text: str, engine: Engine | None, language: Language | None, *, json: bool) -> str | None:
    """Store a program and return its hash, or None if it was not stored.

    It is not stored if it has a syntax error, which its run reports, or if it is already stored for another engine or
    language.
    """
    try:
        hash = client.submit(text, engine=engine, language=language).hash
    except RequestRefused as refused:
        if "syntax_error" in refused.detail:
            return None
        present, kept, kind = (refused.detail.get(field) for field in ("hash", "engine", "language"))
        if not isinstance(present, str):
            raise
        output.note(f"not stored: the same text is already stored as {kind} for {kept} ({present[:12]})")
        return None
    if not json:
        output.note(f"kept as {hash}")
    return hash
