"""A client of HTTP/1.1 that costs little, so that it is the server that is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.bench.process import Fault


@dataclass(frozen=True, slots=True)
class Request:
    """Sent again and again over connections that stay open; any other status is a Fault."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any = None
    status: int = 200

    def encoded(self, port: int) -> bytes:
        """Return it as it goes over the wire."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


async def load(port: int, request: Request, *, clients: int, seconds: float) -> list[float]:
    """Send *request* from *clients* connections for *seconds*; return how long each answer took."""
    took: list[float] = []
    until = time.monotonic() + seconds

    async def client() -> None:
        async with asyncio.timeout(seconds + 30):
            await _repeat(port, request, took, until)

    await asyncio.gather(*(client() for _ in range(clients)))
    return took


async def _repeat(port: int, request: Request, took: list[float], until: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    encoded = request.encoded(port)
    try:
        while (began := time.monotonic()) < until:
            writer.write(encoded)
            status, body = await _answer(reader)
            took.append(time.monotonic() - began)
            if status != request.status:
                raise Fault(f"{request.method} {request.path} answered {status}: {body[:300]!r}")
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), await reader.readexactly(int(headers.get(b"content-length", 0)))


async def until_live(port: int, seconds: float = 30.0) -> None:
    """Wait until /livez answers. Raises: TimeoutError."""
    request = Request("GET", "/livez", {})
    async with asyncio.timeout(seconds):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await load(port, request, clients=1, seconds=0.001)
                return
            await asyncio.sleep(0.1)
