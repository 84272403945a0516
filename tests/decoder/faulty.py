"""A decoder process that exits, hangs, or sends an invalid answer if the payload of a question requests it.

The decoder under test runs it as a script, as it runs the real one.
"""

from __future__ import annotations

import os
import sys
import time

sys.path += [folder for folder in sys.argv[1:] if folder not in sys.path]

from promptlogd.decoder import answers, script  # the folder was added to sys.path above

_answer_to = answers.answer_to


def _faulty(kind: object, payload: bytes, bounds: object) -> bytes:
    match payload[:5]:
        case b"die  ":
            os._exit(1)
        case b"hang ":
            time.sleep(60)
        case b"spin ":
            while True:
                pass
        case b"talk ":
            return b"r\xff\xff\xff\xff"
        case b"junk ":
            return b"r\0\0\0\x04junk"
    return _answer_to(kind, payload, bounds)  # type: ignore[arg-type]


if __name__ == "__main__":
    import socket

    answers.answer_to = _faulty
    script.CPU_S = 1
    script.main(socket.socket(fileno=0))
