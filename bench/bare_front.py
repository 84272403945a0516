"""The floor of the HTTP server: the same stack with one route, a minimal client, and nothing else.

    python bench/bare_front.py SOCKET

A Starlette application on uvicorn, with the settings that `promptlogctl http` gives uvicorn. It has no checks, no
limits, no tenants, and no headers beyond those of Starlette's response. front.py starts it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from promptlogd.wire import ClientSession
from promptlogd.wire.messages import Finished, Reply, Run
from sandbox.outcome import Ok


class BareClient:
    """A connection to the daemon for any number of tasks: an event and a slot for each request, and two tasks."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._sock.setblocking(False)
        self._session = ClientSession()
        self._last_id = 0
        self._arrived: dict[object, anyio.Event] = {}
        self._replies: dict[object, Reply] = {}
        self._unsent = bytearray()
        self._has_unsent = anyio.Event()

    async def receive(self) -> None:
        """Receive replies, until the daemon closes the connection."""
        while True:
            try:
                data = self._sock.recv(1 << 18)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            if not data:
                return
            for reply in self._session.receive(data):
                self._replies[reply.id] = reply
                self._arrived.pop(reply.id).set()

    async def send_rest(self) -> None:
        """Send what the socket did not accept at once."""
        while True:
            await self._has_unsent.wait()
            await anyio.wait_writable(self._sock)
            del self._unsent[: self._sock.send(self._unsent)]
            if not self._unsent:
                self._has_unsent = anyio.Event()

    async def run(self, hash: str, prompt: str) -> Reply:
        """Run a stored program, and return the reply."""
        self._last_id += 1
        id = self._last_id
        data = self._session.send(Run(id=id, hash=hash, prompt=prompt))
        arrived = self._arrived[id] = anyio.Event()
        if not self._unsent:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                pass
        if data:
            self._unsent += data
            self._has_unsent.set()
        await arrived.wait()
        return self._replies.pop(id)


def application(path: str) -> Starlette:
    """Return the application. It connects to the daemon at its start."""
    clients: list[BareClient] = []

    @asynccontextmanager
    async def connected(_: Starlette) -> AsyncIterator[None]:
        client = BareClient(path)
        clients.append(client)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.receive)
            tasks.start_soon(client.send_rest)
            yield
            tasks.cancel_scope.cancel()

    async def run(request: Request) -> Response:
        reply = await clients[0].run(request.path_params["hash"], request.query_params.get("prompt", ""))
        if isinstance(reply, Finished) and isinstance(reply.outcome, Ok):
            return Response(bytes(reply.outcome.value), media_type="application/json")
        return Response("no result", 500)

    return Starlette(routes=[Route("/run/{hash}", run)], lifespan=connected)


def main() -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        application(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/", file=sys.stderr, flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
