"""The decoder process: reads questions from the socket on standard input, and writes answers to the same socket.

Usage: script.py FOLDER... (the folders of this package and of msgspec). It is a separate process to keep the daemon's
loop responsive. It is not a security boundary: the daemon decodes smaller messages with the same code. It can open no
file and, unless it runs as root, start no process. Its memory and the CPU time of each answer are limited. It ends when
the daemon ends.
"""

import resource
import socket
import sys

MEMORY_BYTES = 512 << 20
"""Address space. A frame of 8 MiB, decoded and encoded again, takes up to 64 MiB in addition to Python's own."""

CPU_S = 5
"""CPU limit of one answer. An answer takes at most 0.1 s."""


def main(connection: socket.socket) -> None:
    from promptlogd.decoder import answers
    from promptlogd.decoder.messages import QUESTION_BYTES, read_question

    _confine()
    while True:
        header = _read(connection, QUESTION_BYTES)
        if len(header) < QUESTION_BYTES:
            return  # the daemon has closed the socket
        kind, size, bounds = read_question(header)
        payload = _read(connection, size)
        if len(payload) < size:
            return
        _limit_cpu()
        connection.sendall(answers.answer_to(kind, payload, bounds))
        del payload


def _read(connection: socket.socket, size: int) -> bytes:
    """Return this many bytes, or an empty value if the daemon closes the socket first."""
    data = bytearray(size)
    at = 0
    with memoryview(data) as view:
        while at < size and (count := connection.recv_into(view[at:])):
            at += count
    return bytes(data) if at == size else b""


def _confine() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _limit_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, hard))


if __name__ == "__main__":
    # After the standard library, and before another promptlog that may be installed.
    behind = next((at for at, folder in enumerate(sys.path) if folder.endswith("-packages")), len(sys.path))
    sys.path[behind:behind] = [folder for folder in sys.argv[1:] if folder not in sys.path]
    try:
        main(socket.socket(fileno=0))
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the daemon has ended
