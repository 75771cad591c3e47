"""Serves the embedded models as an OpenAI-compatible endpoint: /v1/chat/completions, /v1/models, /health.

Used in process (an ASGI transport under the openai client) and over a port (`serve`). Usage is counted by rule, four
characters to a token rounded up, and said to be so in the response (`usage_rule`).

Not covered: streaming, tools, several choices: they are refused with an OpenAI error, not ignored. No authentication:
`serve` binds to loopback unless told otherwise, and what it does costs milliseconds and touches nothing.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agents.contexts import Message, MessageRole
from agents.embedded.model import RequestUnreadable, answer, request_digest
from agents.embedded.notice import EMBEDDED_MODEL, EMBEDDED_NOTICE, NOTICES
from agents.errors import EndpointInvalid
from agents.wire import estimated_tokens

BODY_CAP_BYTES = 4 * 1024 * 1024
USAGE_RULE = "estimated: 4 characters are one token"


class _ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    role: MessageRole
    content: str


class _ChatRequest(BaseModel):
    """What is read of a request. Sampling parameters are accepted and change nothing: the grammar has none."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str
    messages: list[_ChatMessage] = Field(min_length=1)
    seed: int | None = None
    stream: bool | None = None
    n: int | None = None
    tools: list[Any] | None = None


def app() -> Starlette:
    """A fresh ASGI application; it holds no state."""
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _complete, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
        ]
    )


def serve(host: str = "127.0.0.1", port: int = 8037) -> None:
    """Serve until interrupted; prints the base URL to configure. Port 0 takes a free one.

    Raises:
        EndpointInvalid: the address cannot be listened on.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or error
        raise EndpointInvalid(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from None
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(
        f"{EMBEDDED_NOTICE}\nServing {' and '.join(NOTICES)} at http://{shown}:{port}/v1 (Ctrl-C stops it)\n"
    )
    sys.stdout.flush()
    with listening:
        uvicorn.Server(uvicorn.Config(app(), log_level="warning", access_log=False)).run(sockets=[listening])


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "model": EMBEDDED_MODEL, "notice": EMBEDDED_NOTICE})


async def _models(_: Request) -> JSONResponse:
    entries = [
        {"id": name, "object": "model", "created": 0, "owned_by": "move37", "notice": notice}
        for name, notice in NOTICES.items()
    ]
    return JSONResponse({"object": "list", "data": entries})


async def _complete(request: Request) -> JSONResponse:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_CAP_BYTES:
            return _error(413, f"the request is over {BODY_CAP_BYTES} bytes", "request_too_large")
    try:
        asked = _ChatRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:3]
        )
        return _error(400, f"the request is not readable: {problems}", "invalid_request")
    if asked.model not in NOTICES:
        here = " and ".join(NOTICES)
        return _error(404, f"there is no model {asked.model[:80]!r} here, only {here}", "model_not_found")
    if asked.stream or asked.tools or (asked.n or 1) > 1:
        return _error(400, "streaming, tools and several choices are not offered", "unsupported_feature")
    messages = [Message(message.role, message.content) for message in asked.messages]
    try:
        text = answer(messages, asked.seed, asked.model)
    except RequestUnreadable as error:
        return _error(400, str(error), error.code)
    return JSONResponse(_completion(asked.model, messages, asked.seed, text))


def _completion(model: str, messages: list[Message], seed: int | None, text: str) -> dict[str, Any]:
    """The response body; its id and date are functions of the request too, so that responses can be compared."""
    prompt_tokens = sum(estimated_tokens(message.content) for message in messages)
    completion_tokens = estimated_tokens(text)
    return {
        "id": f"chatcmpl-{request_digest(messages, seed)[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "usage_rule": USAGE_RULE,
        },
    }


def _error(status: int, message: str, code: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)
