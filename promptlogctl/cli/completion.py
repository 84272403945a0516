"""promptlogctl completion: the script that makes a shell complete commands, options, files and stored programs.

In each shell the script calls promptlogctl with the line up to the cursor, and gets one line for each candidate.
Paths are left to the shell itself, which knows quoting, `~` and variables.
"""

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
            at-file)
                while IFS= read -r text; do
                    printf -v text %%q "$text"
                    COMPREPLY+=("${2%%%%[^@]*}$text")
                done < <(compgen -f -- "${2#@}")
                ;;
        esac
    done <<< "$replies"
}
complete -F %(complete_func)s %(prog_name)s
"""

# `eval`, or a file `_promptlogctl` in $fpath.  `${(Q)~...}`: the command as typed, without quotes, `~` expanded.
_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX" kind text help
    local -a plain described
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    _PROMPTLOGCTL_LINE=$line %(complete_var)s=zsh_complete ${(Q)~words[1]} 2>/dev/null |
        while IFS=$'\\t' read -r kind text help; do
            case $kind in
                plain) [[ -n $help ]] && described+=("${text//:/\\\\:}:$help") || plain+=("$text") ;;
                file) _files ;;
                dir) _files -/ ;;
                at-file) compset -P 1 '@'; _files ;;
            esac
        done
    (( $#described )) && _describe %(prog_name)s described
    (( $#plain )) && compadd -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -lx _PROMPTLOGCTL_LINE (commandline -cp | string collect)
    set -lx %(complete_var)s fish_complete
    set -l program (string replace -r -- '^~(?=/)' $HOME (commandline -opc)[1])
    for line in ($program 2>/dev/null)
        set -l parts (string split -m 1 \\t -- $line)
        switch $parts[1]
            case plain
                printf '%%s\\n' $parts[2]
            case file dir at-file
                set -l option (string match -r -- '^--[a-z-]+=' (commandline -ct))
                test $parts[1] = at-file; and set option "$option@"
                set -l path (string replace -- "$option" '' (commandline -ct))
                printf '%%s\\n' "$option"(complete -C "'' $path")
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


class _Line(ShellComplete):
    """A shell whose script gives the line up to the cursor."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the beginning of the one at the cursor."""
        # With a letter at the cursor there is a word there, also if it ends with a quoted blank, or is empty.
        words = split_arg_string(os.environ.get("_PROMPTLOGCTL_LINE", "") + "x")
        return words[1:-1], words[-1][:-1]

    @property
    def _option(self) -> str:
        """The text `--option=` at the cursor. click completes only the text after it."""
        _, incomplete = self.get_completion_args()
        name, equals, _ = incomplete.partition("=")
        return name + equals if equals and name.startswith("-") else ""

    def _described(self, item: CompletionItem, prefix: str = "") -> str:
        """Return the kind, the text and its description, with tabs between."""
        return "\t".join((item.type, prefix + item.value, " ".join((item.help or "").split())))


@add_completion_class
class Bash(_Line):
    """Bash splits words at `@`, `=` and `:` as well. So it also gives the part of a word that it replaces."""

    name = "bash"
    source_template = _BASH

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line of the reply."""
        _, incomplete = self.get_completion_args()
        incomplete = incomplete.removeprefix(self._option)
        replaced = os.environ.get("_PROMPTLOGCTL_WORD", "")
        kept = len(incomplete) - len(replaced) if incomplete.endswith(replaced) else 0
        return f"{item.type},{item.value[kept:]}"


@add_completion_class
class Zsh(_Line):
    """Zsh shows descriptions. Its script tells it that `--option=` stays."""

    name = "zsh"
    source_template = _ZSH

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line of the reply."""
        return self._described(item)


@add_completion_class
class Fish(_Line):
    """Fish shows descriptions, and replaces the whole word, `--option=` too."""

    name = "fish"
    source_template = _FISH

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line of the reply."""
        return self._described(item, self._option)


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@command
def completion(app: App, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    ~/.bashrc:  eval "$(promptlogctl completion bash)"
    ~/.zshrc, after compinit:  eval "$(promptlogctl completion zsh)"
    ~/.config/fish/config.fish:  promptlogctl completion fish | source
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
