"""Peers that run as servers: installation from public packages, start and stop, and the effect of bombs on them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import load
from caller import EXPECT, PROMPT, SAMPLE
from load import Load
from table import say

from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client, Ok

HERE = Path(__file__).parent / "peers"
TRIALS = {
    "an endless loop": "while (true) {}\nconst result = 1",
    "an endless loop after await": "await null\nwhile (true) {}\nconst result = 1",
    "a memory bomb": "const kept = []; while (true) kept.push(new Array(100000).fill(kept.length)); const result = 1",
    "memory in native buffers": "const kept = []\nfor (let n = 0; n < 99; n++) kept.push(new Uint8Array(2e7).fill(1))\n"
    "const result = kept.length",
    "endless output": "while (true) console.log('x'.repeat(1000))\nconst result = 1",
    "a result of 200 MB": "const result = 'x'.repeat(200e6)",
}


class Server:
    """A peer that serves HTTP on 127.0.0.1: POST /submit, GET /ACTION/HASH?prompt=."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, action: str = "run", *, python: Path | None = None
    ) -> None:
        """`python`: folder of the peer's Python packages."""
        self.name = name
        self._environment = None if python is None else {**os.environ, "PYTHONPATH": str(python)}
        self._command = command
        self._folder = folder
        self._action = action
        self.port = 0
        self.pid = 0

    @contextmanager
    def up(self) -> Iterator[None]:
        """Context manager: run the server in its own process group, and kill the group at the end."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [part.replace("PORT", str(self.port)) for part in self._command]
        if "workerd" in self.name:
            text = (HERE / "workerd.capnp").read_text().replace("PORT", str(self.port))
            (self._folder / "run.capnp").write_text(text)
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, process_group=0
            )
        self.pid = process.pid
        try:
            for _ in range(100):
                time.sleep(0.1)
                try:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    break
                except OSError:
                    continue
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ask(self, method: str, path: str, body: str | None = None, timeout: float = 10.0) -> str:
        """Send one request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, self.headers)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    headers: Mapping[str, str] = {}
    """Headers of every request."""

    def body(self, source: str) -> str:
        """Return the body of the request that stores a program."""
        return source

    def hash_of(self, answer: str) -> str:
        """Return the hash in the reply to this request."""
        return answer

    def submit(self, source: str) -> str:
        """Store a program, and return its hash."""
        return self.hash_of(self.ask("POST", "/submit", self.body(source)))

    def path(self, hash: str, prompt: str = PROMPT) -> str:
        """The path of a run."""
        return f"/{self._action}/{hash}?prompt={quote(prompt)}"

    def request(self, hash: str) -> bytes:
        """Return a run's request as bytes."""
        return f"GET {self.path(hash)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    def loaded(self, tools: Path, hashes: Sequence[str], **options: float) -> Load:
        """Generate load: runs of these programs, in turn."""
        requests = [self.request(hash) for hash in hashes]
        return load.run(tools, str(self.port), "http", requests, expect=EXPECT, **options)  # type: ignore[arg-type]


class PromptlogHttp(Server):
    """promptlog's HTTP server, with its own daemon."""

    headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "promptlogctl", "http", "--spawn", "--listen", "127.0.0.1:PORT"]
        super().__init__("promptlog over HTTP", command, folder, python=HERE.parents[1])

    def body(self, source: str) -> str:
        """Return the body of the request that stores a program."""
        return json.dumps({"code": source})

    def hash_of(self, answer: str) -> str:
        """Return the hash in the reply to this request."""
        return str(json.loads(answer)["hash"])


class Promptlog(Server):
    """promptlog, with the interface of a peer."""

    def __init__(self) -> None:
        super().__init__("promptlog", (), Path())
        self._socket: Path | None = None

    @contextmanager
    def up(self) -> Iterator[None]:
        """Context manager: run a daemon."""
        with private_daemon(None) as self._socket:
            yield

    def submit(self, source: str) -> str:
        """Store a program, and return its hash."""
        with Client(self._socket) as client:
            return client.submit(source).hash

    def ask(self, method: str, path: str, body: str | None = None, timeout: float = 10.0) -> str:
        """Run the program in the path."""
        with Client(self._socket) as client:
            outcome = client.run(path.split("/")[2].partition("?")[0], PROMPT).outcome
        if isinstance(outcome, Ok):
            return str(memoryview(outcome.value), "utf-8")
        return str(outcome.__struct_config__.tag)


def tried(server: Server) -> dict[str, str]:
    """Send a bomb to a peer, and report how it serves the next client."""
    found = {}
    for what, source in TRIALS.items():
        with server.up():
            good, bad = server.submit(SAMPLE), server.submit(source)
            outcome: list[str] = []

            def hit(bad: str = bad, outcome: list[str] = outcome) -> None:
                try:
                    outcome.append("answered: " + server.ask("GET", server.path(bad), timeout=8)[:60])
                except OSError as error:
                    outcome.append(f"no answer ({type(error).__name__})")

            thread = threading.Thread(target=hit)
            thread.start()
            time.sleep(0.5)
            began = time.perf_counter()
            try:
                alive = EXPECT in server.ask("GET", server.path(good), timeout=5)
                other = (
                    f"another client after {time.perf_counter() - began:.2f} s" if alive else "another: wrong answer"
                )
            except OSError as error:
                other = f"another client: none in 5 s ({type(error).__name__})"
            thread.join(15)
            found[what] = f"{outcome[0] if outcome else 'no answer'}; {other}"
    with server.up():
        counter = server.submit("globalThis.n = (globalThis.n ?? 0) + 1; const result = globalThis.n")
        answers = [server.ask("GET", server.path(counter)) for _ in range(3)]
        found["globals from run to run"] = "survive: " + ", ".join(answers) if len(set(answers)) > 1 else "gone"
    return found


def set_up(scratch: Path) -> tuple[list[Server], Path]:
    """Install the peers into the scratch folder. Returns the servers and deno's binary."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            sys.exit(f"the peers need {tool}; on Debian: apt-get install nodejs npm")
    scratch.mkdir(parents=True, exist_ok=True)
    for file in HERE.iterdir():
        shutil.copy(file, scratch / file.name)
    if not all((scratch / "node_modules" / name).exists() for name in ("workerd", "run")):
        say("npm install")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=scratch, check=True)
    packages = scratch / "python"
    deno = packages / "bin/deno"
    if not (deno.exists() and (packages / "quickjs_rs").exists()):
        say("pip install deno quickjs-rs")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), "deno", "quickjs-rs"]
        subprocess.run(command, check=True)
    workerd = [str(scratch / "node_modules/.bin/workerd"), "serve", "run.capnp", "--experimental"]
    servers = [
        PromptlogHttp(scratch),
        Server("workerd get", workerd, scratch),
        Server("workerd load", workerd, scratch, "fresh"),
        Server("isolated-vm isolate", ["node", "node.js", "ivm-isolate", "PORT"], scratch),
        Server("isolated-vm context", ["node", "node.js", "ivm-context", "PORT"], scratch),
        Server("quickjs-emscripten", ["node", "node.js", "quickjs", "PORT"], scratch),
        Server("run (npm)", ["node", "node.js", "run", "PORT"], scratch),
        Server("quickjs-rs", [sys.executable, "quickjs_rs_server.py", "PORT"], scratch, python=packages),
    ]
    return servers, deno
