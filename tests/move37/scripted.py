"""A real HTTP server on loopback: it answers as the embedded model does, but the coder's replies are scripted.

It makes vectors too (`/v1/embeddings`), with noise that is never the same twice.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents.contexts import Message
from agents.embedded.model import answer
from memory.tokens import estimate
from memory.vectors import HashedText

VECTOR_DIMENSIONS = 48


class ScriptedServer:
    """The embedded model, but the coder's replies come from a script; asked once more, it repeats the last one."""

    def __init__(self) -> None:
        self.replies: list[str | Response] = []
        self.asked: list[list[dict[str, str]]] = []
        self.encoded: list[str] = []
        self.keys: list[str] = []
        self.vectors: Callable[[list[str]], Response | None] = lambda texts: None
        self._server: uvicorn.Server | None = None

    def __enter__(self) -> "ScriptedServer":
        self.port = free_port()
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
            ]
        )
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_for(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join()

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if "response_format" in body:
            messages = [Message(m["role"], m["content"]) for m in body["messages"]]
            text: str | Response = answer(messages, body.get("seed"))
        else:
            self.asked.append(body["messages"])
            text = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(text, Response):
            return text
        message = {"role": "assistant", "content": text}
        prompt = sum(estimate(m["content"]) for m in body["messages"])
        return JSONResponse(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": 100, "total_tokens": prompt + 100},
            }
        )

    async def _embed(self, request: Request) -> Response:
        texts = json.loads(await request.body())["input"]
        self.keys.append(request.headers["authorization"].removeprefix("Bearer "))
        scripted = self.vectors(texts)
        if scripted is not None:
            return scripted
        self.encoded.extend(texts)
        rows = HashedText("hypothesis", VECTOR_DIMENSIONS).encode(texts)
        noisy = rows + 0.01 * np.random.default_rng().standard_normal(rows.shape)
        data = [{"object": "embedding", "index": n, "embedding": list(map(float, row))} for n, row in enumerate(noisy)]
        return JSONResponse({"object": "list", "model": "scripted", "data": data, "usage": {"prompt_tokens": 1}})


def fenced(source: str) -> str:
    return f"Here is the program.\n\n```python\n{source}\n```\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    async def reachable() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if asyncio.run(reachable()):
            return
        time.sleep(0.1)
    pytest.fail(f"nothing listens on port {port}")
