"""A real server on loopback that misbehaves as it is told to."""

import asyncio
import contextlib
import json
from typing import Any


class Served:
    """A scripted server: each request takes the next (status, headers, body) of the script; the last one repeats. A
    body that is a function makes one of the request."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.drip_s = 0.0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self.exchange(reader, writer)
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
        self.headers.append(head)
        self.requests.append(json.loads(await reader.readexactly(length)))
        await self.respond(writer)

    async def respond(self, writer: asyncio.StreamWriter) -> None:
        status, headers, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(body):
            body = body(self.requests[-1])
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} Status", "content-type: application/json", f"content-length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if self.drip_s:
            for byte in payload:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.drip_s)
        else:
            writer.write(payload)
            await writer.drain()
