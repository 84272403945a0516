"""promptlogctl completion: print the script for shell completion of commands and options."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command

_BASH = """\
%(complete_func)s() {
    local replies kind text
    replies=$(_PROMPTLOGCTL_LINE="${COMP_LINE:0:COMP_POINT}" _PROMPTLOGCTL_WORD="$2" \\
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=, read -r kind text; do
        case $kind in
            plain) COMPREPLY+=("$text") ;;
            file | dir) compopt -o default ;;
        esac
    done <<< "$replies"
}
complete -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(ShellComplete):
    """Bash also splits words at `@`, `=` and `:`. So its script passes the line, and the part of a word to replace."""

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the start of the word at the cursor."""
        line = os.environ.get("_PROMPTLOGCTL_LINE", "")
        words = split_arg_string(line)[1:]
        at_new_word = not words or line[-1:].isspace()
        return (words, "") if at_new_word else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line of the reply."""
        _, incomplete = self.get_completion_args()
        if incomplete.startswith("-"):
            incomplete = incomplete.rpartition("=")[2]  # click completes what stands after `--option=`
        replaced = os.environ.get("_PROMPTLOGCTL_WORD", "")
        kept = len(incomplete) - len(replaced) if incomplete.endswith(replaced) else 0
        return f"{item.type},{item.value[kept:]}"


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
    # Not `source` of click's own classes, which may execute a shell found in $PATH.
    script = ShellComplete.source(kind(root, {}, "promptlogctl", "_PROMPTLOGCTL_COMPLETE"))
    if app.json:
        output.as_json({"script": script})
    else:
        click.echo(script)
