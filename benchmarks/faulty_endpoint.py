"""An OpenAI-compatible server that goes wrong as real ones do, and keeps its own books.

The model that a request names is the fault it meets; a call is known by the first line of its last message, so that
attempts of one call are counted. Everything is drawn from a seed. What the server bills is the usage it has sent, on
whatever body: that is what a client can know of.

`python -m benchmarks.faulty_endpoint` prints its URL, serves until its input ends, and prints its books.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from memory.tokens import estimate

HANG_S = 60.0
WINDOW_TOKENS = 1024  # of the fault that cuts prompts


@dataclass
class Served:
    """One request as the server saw it. `billed` are the prompt and completion tokens that it reported."""

    call: str
    fault: str
    attempt: int
    id: str
    headers: str
    body: dict[str, Any]
    billed: tuple[int, int] = (0, 0)
    gone: Callable[[], bool] = lambda: False  # whether the client has hung up


Fault = Callable[["FaultyEndpoint", Served, asyncio.StreamWriter], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Registers a fault under the name of the model that meets it."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return register


@dataclass
class FaultyEndpoint:
    """Serves on loopback while entered. `url` is the base URL, `served` the books."""

    seed: int = 0
    key: str = ""
    hang_s: float = HANG_S
    url: str = ""
    served: list[Served] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    _attempts: dict[str, int] = field(default_factory=dict)
    _connections: set["asyncio.Task[None]"] = field(default_factory=set)

    async def __aenter__(self) -> "FaultyEndpoint":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def books(self) -> str:
        """What was served, as JSON; `balanced` reads it."""
        rows = [[one.call, one.fault, one.attempt, one.id, one.billed] for one in self.served]
        return json.dumps({"most_in_flight": self.most_in_flight, "served": rows})

    def balanced(self, books: str) -> None:
        """Takes over the books of an endpoint in another process."""
        data = json.loads(books)
        self.most_in_flight = data["most_in_flight"]
        self.served = [
            Served(call, name, attempt, number, "", {}, (billed[0], billed[1]))
            for call, name, attempt, number, billed in data["served"]
        ]

    def of_call(self, call: str) -> list[Served]:
        """The requests of one call."""
        return [one for one in self.served if one.call == call]

    @property
    def billed(self) -> tuple[int, int]:
        """Prompt and completion tokens of all requests."""
        return sum(one.billed[0] for one in self.served), sum(one.billed[1] for one in self.served)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.ensure_future(self._talk(reader, writer)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length")]
        body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else {}
        if "messages" not in body:
            send(writer, 404, {"error": {"message": "only chat completions are served"}})
            return
        call = body["messages"][-1]["content"].splitlines()[0]
        self._attempts[call] = self._attempts.get(call, 0) + 1
        one = Served(
            call, body["model"], self._attempts[call], f"id-{len(self.served)}", head, body, gone=reader.at_eof
        )
        self.served.append(one)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await FAULTS[one.fault](self, one, writer)
            await writer.drain()
        finally:
            self.in_flight -= 1

    def usage(self, one: Served, *, read: int | None = None) -> dict[str, int]:
        """The usage of a reply, billed unless nobody is there to be told."""
        prompt = sum(estimate(message["content"]) for message in one.body["messages"]) if read is None else read
        reply = random.Random(f"{self.seed} {one.call} {one.attempt}").randint(1, 400)
        if not one.gone():
            one.billed = (prompt, reply)
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    def completion(self, one: Served, *, read: int | None = None, **message: Any) -> dict[str, Any]:
        """A reply as it should be. The usage comes first, so that a body that breaks off has it."""
        said = {"role": "assistant", "content": f"the reply to {one.call}", **message}
        return {
            "id": one.id,
            "object": "chat.completion",
            "created": 0,
            "model": one.fault,
            "usage": self.usage(one, read=read),
            "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        }


def send(writer: asyncio.StreamWriter, status: int, body: Any, *, headers: str = "", cut: int | None = None) -> None:
    """A response. With `cut` the head promises the whole body, and only so many bytes of it come."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n{headers}\r\n"
    )
    writer.write(head.encode() + payload[:cut])


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection without a goodbye."""
    writer.transport.abort()


async def drip(writer: asyncio.StreamWriter, payload: bytes, *, at_once: int = 0, pieces: int, every_s: float) -> None:
    """A body that comes little by little, after the first `at_once` bytes."""
    head = f"HTTP/1.1 200 Status\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload[:at_once])
    size = -(-(len(payload) - at_once) // pieces)
    for at in range(at_once, len(payload), size):
        writer.write(payload[at : at + size])
        await writer.drain()
        await asyncio.sleep(every_s)


@fault("none")
async def _none(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 200, endpoint.completion(one))


@fault("slow")
async def _slow(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    await drip(writer, json.dumps(endpoint.completion(one)).encode(), pieces=10, every_s=0.05)


@fault("drip-feed")
async def _drip(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    body = json.dumps(endpoint.completion(one)).encode()
    await drip(writer, body, at_once=body.index(b'"choices"'), pieces=100, every_s=endpoint.hang_s / 100)


@fault("hang")
async def _hang(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(endpoint.hang_s)
    reset(writer)


@fault("429-retry-after")
async def _limited(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if one.attempt <= 2:
        send(writer, 429, {"error": {"message": "slow down"}}, headers="retry-after: 0.3\r\n")
    else:
        send(writer, 200, endpoint.completion(one))


@fault("429")
async def _limited_silently(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if one.attempt == 1:
        send(writer, 429, {"error": {"message": "slow down"}})
    else:
        send(writer, 200, endpoint.completion(one))


@fault("429-storm")
async def _storm(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 429, {"error": {"message": "slow down"}}, headers="retry-after: 0.2\r\n")


@fault("429-for-an-hour")
async def _long_wait(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 429, {"error": {"message": "come back later"}}, headers="retry-after: 3600\r\n")


@fault("500-twice")
async def _failing(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if one.attempt <= 2:
        send(writer, 500, {"error": {"message": "oops"}})
    else:
        send(writer, 200, endpoint.completion(one))


@fault("500-always")
async def _broken(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 500, b"<html>internal server error</html>")


@fault("reset")
async def _reset(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    reset(writer) if one.attempt == 1 else send(writer, 200, endpoint.completion(one))


@fault("reset-within-the-body")
async def _reset_late(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if one.attempt > 1:
        send(writer, 200, endpoint.completion(one))
        return
    body = endpoint.completion(one)
    send(writer, 200, body, cut=json.dumps(body).index('"choices"'))
    await writer.drain()
    writer.close()


@fault("garbage")
async def _garbage(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    noise = random.Random(f"{endpoint.seed} {one.call}").randbytes(300)
    send(writer, 200, noise if one.attempt == 1 else endpoint.completion(one))


@fault("truncated-json")
async def _truncated(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    whole = json.dumps(endpoint.completion(one)).encode()
    send(writer, 200, whole[:-20] if one.attempt == 1 else whole)


@fault("empty-choices")
async def _no_choices(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    body = endpoint.completion(one)
    send(writer, 200, {**body, "choices": []} if one.attempt == 1 else body)


@fault("200-with-an-error")
async def _hidden_error(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if one.attempt == 1:
        send(writer, 200, {"error": {"message": "upstream overloaded", "code": 503}, "usage": endpoint.usage(one)})
    else:
        send(writer, 200, endpoint.completion(one))


@fault("wrong-schema")
async def _wrong_schema(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 200, endpoint.completion(one, content='{"title": 3}'))


@fault("reasoning-only")
async def _reasoning(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 200, endpoint.completion(one, content="", reasoning=f"the reply to {one.call}"))


@fault("no-usage")
async def _no_usage(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    body = endpoint.completion(one)
    one.billed = (0, 0)
    send(writer, 200, {**body, "usage": None})


@fault("parameter-refused")
async def _parameter(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    if "seed" in one.body:
        send(writer, 400, {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed"}})
    else:
        send(writer, 200, endpoint.completion(one))


@fault("quota")
async def _quota(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})


@fault("quota-in-a-200")
async def _hidden_quota(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 200, {"error": {"message": "no credit", "code": "insufficient_quota"}})


@fault("auth")
async def _auth(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 401, {"error": {"message": f"Incorrect API key provided: {endpoint.key}"}})


@fault("context-length")
async def _context(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    message = "This model's maximum context length is 512 tokens"
    send(writer, 400, {"error": {"message": message, "code": "context_length_exceeded"}})


@fault("unknown-model")
async def _unknown(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    send(writer, 404, {"error": {"message": f"The model '{one.fault}' does not exist", "code": "model_not_found"}})


@fault("silent-truncation")
async def _cut(endpoint: FaultyEndpoint, one: Served, writer: asyncio.StreamWriter) -> None:
    prompt = sum(estimate(message["content"]) for message in one.body["messages"])
    send(writer, 200, endpoint.completion(one, read=min(prompt, WINDOW_TOKENS)))


async def _main() -> None:
    async with FaultyEndpoint(int(sys.argv[1]), key=sys.argv[2]) as endpoint:
        print(endpoint.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(endpoint.books(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
