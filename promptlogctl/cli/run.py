"""promptlogctl run."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from typing import Any

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.files import Source
from promptlogctl.cli.live_console import printed
from promptlogctl.cli.options import checked, run_options
from promptlogctl.cli.output import Exit
from promptlogctl.cli.program import PROGRAM
from promptlogctl.client import Client, RequestRefused


@click.command()
@PROGRAM
@run_options
@command
def run(app: App, program: str, show_usage: bool, **given: Any) -> Exit:
    """Run a stored program and print the JSON of its result.

    The daemon's configuration can change the defaults and maxima of limits that are listed here.
    """
    prompt, options = checked(**given)
    live = nullcontext() if app.json else printed()
    with app.client() as client, live as options["on_log"]:
        try:
            result = client.run(program, prompt, **options)
        except RequestRefused as refused:
            if refused.code in ("bad_request", "not_found") and os.path.isfile(program):
                refused.message += f"; did you mean: promptlogctl exec {shlex.quote(program)}"
            raise
        if not result.ok and not app.json:
            app.source = Source(program, _source(client, program))
    return output.end_of_run(result, app.source, json=app.json, show_usage=show_usage)


def _source(client: Client, program: str) -> str | None:
    try:
        return client.show(program, source=True).source
    except RequestRefused:
        return None
