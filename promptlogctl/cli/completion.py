"""promptlogctl completion: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@command
def completion(app: App, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: eval "$(promptlogctl completion bash)".
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    # Not BashComplete.source(), which would run `bash` from $PATH.
    script = ShellComplete.source(kind(root, {}, "promptlogctl", "_PROMPTLOGCTL_COMPLETE"))
    if app.json:
        output.as_json({"script": script})
    else:
        click.echo(script)
