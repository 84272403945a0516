"""Imports promptlogctl once, and forks for each command that `command.py` runs.

Each command has its own arguments, environment, folder and standard streams, as if a shell had started it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

import click

from promptlogctl.__main__ import main
from promptlogctl.cli import cli

_MOST_BYTES = 1 << 20
"""Maximum size of a request."""


def _serve(requests: socket.socket) -> None:
    """Start a command for each request, until the client has closed its socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel removes commands that have ended
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            *streams, reply = descriptors
            os.write(reply, str(os.getpid()).encode())
            code = _run(request, streams)
            os.write(reply, str(code).encode())
            os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)


def _run(data: bytes, streams: list[int]) -> int:
    """Run a command in this process, and return its exit code."""
    code = 0
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request: dict[str, Any] = json.loads(data)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.argv = ["promptlogctl", *request["arguments"]]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _import_commands() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        cli.get_command(context, name)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _import_commands()
        _serve(requests)
