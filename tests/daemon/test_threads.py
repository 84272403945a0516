"""A host on which the daemon cannot start threads: requests that need one fail, and all others succeed."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from promptlogctl.client import Client, PromptlogError, RequestRefused
from tests.daemon.ordinary_user import ordinary_user
from tests.daemon.processes import until

pytestmark = pytest.mark.timed


def _is_ready(path: Path) -> bool:
    try:
        with Client(path) as client:
            return client.run_source("return 1").ok
    except PromptlogError:
        return False


def test_the_daemon_survives_without_threads() -> None:
    """Without threads, the daemon answers every request, some with an error; it recovers when threads can start."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run"))
    path, log = folder / "socket", folder / "log"
    become = ordinary_user(folder)
    command = [*become, sys.executable, "-m", "promptlogd"]
    try:
        with log.open("w") as stderr:
            options = ["--socket", str(path), "--state-dir", str(folder / "state")]
            daemon = subprocess.Popen([*command, *options], stderr=stderr, cwd="/")
        try:
            until(lambda: path.exists() and _is_ready(path), 20)
            errors = _submit_without_threads(become, daemon.pid, path)
            assert daemon.poll() is None, log.read_text()[-2000:]
            assert set(errors) == {"internal"}
            with Client(path) as client:
                assert client.run(client.submit("return 'again'").hash).value == "again"
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0, log.read_text()[-2000:]
    finally:
        shutil.rmtree(folder)


def _submit_without_threads(become: list[str], pid: int, path: Path) -> list[str]:
    """Submit and run with eight clients for two seconds, and return the errors that they got."""
    errors: list[str] = []
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limit = [*become, "prlimit", f"--pid={pid}"]  # as the daemon's user, because root in a container may not do this
    subprocess.run([*limit, "--nproc=1:"], check=True)
    until_s = time.monotonic() + 2

    def submit(number: int) -> None:
        with Client(path) as client:
            count = 0
            while time.monotonic() < until_s:
                count += 1
                try:
                    client.submit(f"return {number} + {count}")
                    client.run_source("return 1")  # refused when cells are worn out and cannot be replaced
                except RequestRefused as error:
                    errors.append(error.code)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subprocess.run([*limit, f"--nproc={'unlimited' if most < 0 else most}:"], check=True)
    return errors
