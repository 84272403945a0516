"""A minimal server around the package quickjs-rs: python quickjs_rs_server.py PORT.

Each run has a new runtime and a new context in WebAssembly (wasmtime), with 128 MB and 50 ms of wall time. The server
has one thread, like the servers on Node.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from urllib.parse import parse_qs, urlsplit

from quickjs_rs import Runtime

_MEMORY_BYTES = 128 << 20
_TIMEOUT_S = 0.05

programs: dict[str, str] = {}


async def _run(source: str, prompt: str) -> str:
    """Return the JSON of the program's result."""
    awaits = re.search(r"\bawait\b", source) is not None
    function = f"{'async ' if awaits else ''}function (prompt) {{\n{source}\n; return JSON.stringify(result); }}"
    call = f"({function})({json.dumps(prompt)})"
    with Runtime(memory_limit=_MEMORY_BYTES) as runtime, runtime.new_context(timeout=_TIMEOUT_S) as context:
        return str(await context.eval_async(f"await {call}") if awaits else context.eval(call))


async def _answer(method: str, target: str, body: bytes) -> tuple[int, str]:
    url = urlsplit(target)
    if url.path == "/submit":
        hash = hashlib.sha256(body).hexdigest()
        programs[hash] = body.decode()
        return 200, hash
    source = programs.get(url.path.split("/")[2])
    if source is None:
        return 404, "not found"
    try:
        return 200, await _run(source, parse_qs(url.query)["prompt"][0])
    except Exception as error:  # any exception of the engine becomes the reply
        return 500, f"{type(error).__name__}: {error}"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            status, text = await _answer(method, target, body)
            payload = text.encode()
            writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(_main())
