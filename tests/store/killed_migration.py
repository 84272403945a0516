"""Run migrations for test_migration.py, and kill each with SIGKILL before one of its system calls.

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
    """Kill this process before its nth system call that can change the disk."""
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
    """Open the store in a child process that is killed before its nth call. Return whether it finished first."""
    pid = os.fork()
    if not pid:
        die_before(number)
        Store.open(state)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
    return os.WIFEXITED(status)


def main(folder: Path) -> None:
    """Kill a migration at each point, at some points twice, and check that the next start completes it."""
    killed = 0
    for number in itertools.count():
        state = version_1.extract(folder)
        done = migrate_and_die(state, number)
        if number % 3 == 1:
            migrate_and_die(state, number // 2)
        if number % 2:  # so that only the metadata has owner, time and engine
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
