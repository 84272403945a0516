"""`promptlogctl play` starts everything that the page needs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile

import httpx2 as httpx

from tests.daemon.processes import until


def test_play() -> None:
    """play starts a private daemon and a server, chooses another port if 8787 is in use, and prints the page's URL."""
    with tempfile.TemporaryFile("w+") as log, socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 8787))
        taken.listen()
        command = [sys.executable, "-m", "promptlogctl", "play", "--no-browser", "--socket", "/nonexistent/socket"]
        process = subprocess.Popen(command, stderr=log)

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            until(lambda: "listening on" in said() or process.poll() is not None, 30)
            [url] = re.findall(r"http://127\.0\.0\.1:\d+/", said())
            assert ":8787/" not in url
            with httpx.Client(base_url=url, timeout=20) as web:
                assert "<title>promptlog</title>" in web.get("/").text
                assert web.post("/exec", json={"code": "return 1"}).json() == 1
                for name in ("page.js", "page.css", "editor.js", "icon.svg"):
                    assert web.get(f"/static/{name}").status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
        assert "Traceback" not in said()
