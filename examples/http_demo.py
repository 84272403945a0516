"""The two main requests of the HTTP API: store a program, and run it. `make demo-http` runs this file.

It starts `promptlogctl http --spawn` on a free port, and prints the requests and the responses.
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

PROGRAM = Path(__file__).with_name("reverse.js").read_text()


def main() -> None:
    """Start a server, send two requests, and stop the server."""
    command = [sys.executable, "-m", "promptlogctl", "http", "--spawn", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = server.stderr.readline()
        ready = re.search(r"http://\S+?/", said)
        if ready is None:
            sys.exit(said + server.stderr.read())
        body = json.dumps({"code": PROGRAM}).encode()
        submit = urllib.request.Request(f"{ready[0]}submit", body, {"Content-Type": "application/json"})
        print("POST /submit")
        answer = sent(submit)
        path = f"{answer['url']}?prompt={quote('hello world')}"
        print(f"GET {path}")
        sent(urllib.request.Request(ready[0] + path[1:]))
    finally:
        server.terminate()
        server.wait()


def sent(request: urllib.request.Request) -> dict[str, str]:
    """Send a request, and print and return the response."""
    with urllib.request.urlopen(request, timeout=20) as response:
        content = response.read().decode()
        print(f"  {response.status} {content}")
        return json.loads(content)


if __name__ == "__main__":
    main()
