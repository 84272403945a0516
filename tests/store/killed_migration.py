"""What test_migration.py runs in a process of its own: migrations that SIGKILL ends before each of their system calls.

python -m tests.store.killed_migration FOLDER
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptlogd.store import Store
from tests.store import version_1

_CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate")


def die_before(number: int) -> None:
    """Let this process be killed before the call of this number that can change the disk."""
    left = itertools.count(number, -1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            if not next(left):
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return made

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))


def migrate_and_die(state: Path, number: int) -> bool:
    """Open the store in a child that is killed before a call; return whether the child was done before that."""
    pid = os.fork()
    if not pid:
        die_before(number)
        Store.open(state)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
    return os.WIFEXITED(status)


def main(folder: Path) -> None:
    """Kill at each point, twice in a row at some, and see that the next start goes on."""
    killed = 0
    for number in itertools.count():
        state = version_1.extract(folder)
        done = migrate_and_die(state, number)
        if number % 3 == 1:
            migrate_and_die(state, number // 2)
        if number % 2:  # so that the metadata alone says who, when and for what
            for path in state.glob("facts.sqlite3*"):
                path.unlink()
        version_1.check(state, facts=not number % 2)
        left = [path.name for path in state.glob("programs/*/*/*") if path.name not in ("source", "meta.json")]
        assert left == [], left
        assert not list(state.glob("*.new"))
        shutil.rmtree(state)
        if done:
            break
        killed += 1
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
