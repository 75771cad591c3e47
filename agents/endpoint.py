"""One OpenAI-compatible endpoint for embeddings: a client, one retry layer, one deadline (chats have `agents.gateway`).

Notable:
* retries are ours (`agents.attempts`), not the client's;
* the client's timeout is per read, so a dripping server outlives it: the deadline here is wall-clock and covers the
  whole call, retries included;
* a parameter that an endpoint does not know (dimensions) is dropped once and remembered;
* the key goes to the endpoint that it was given for and to no other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agents.attempts import ATTEMPTS, are_spent, backoff_s, failure_of
from agents.errors import DeadlineExceeded, MissingKey, ModelRefused, ModelUnavailable
from agents.opening import DEFAULT_BASE_URL, check_base_url, client_for
from agents.wire import Failure, NoReply, redactor, unsupported_parameter

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
Send = Callable[[Mapping[str, Any], float], Awaitable[Any]]
"""One request with these optional parameters, within so many seconds per read; returns the client's raw response."""
Read = Callable[[Any], T]
"""What a decoded body says. Raises NoReply where it says nothing; anything else that it raises ends the call."""


class Endpoint:
    """One model at one place. `name` is how messages call it."""

    def __init__(self, client: openai.AsyncOpenAI, *, name: str, base_url: str, api_key: str | None) -> None:
        self.client = client
        self.name = name
        self.base_url = base_url
        self._dropped: set[str] = set()
        self._redact = redactor(api_key)

    @property
    def dropped(self) -> list[str]:
        """The optional parameters that the endpoint turned out not to know."""
        return sorted(self._dropped)

    async def call(
        self, send: Send, read: Read[T], optional: Mapping[str, Any], *, request_hash: str, deadline_s: float
    ) -> tuple[T, int]:
        """What came of a request, and at which attempt. Parameters of `optional` that are None are not sent.

        Raises:
            ModelUnavailable: may work later; retries are spent or the asked wait does not fit the deadline.
            ModelRefused: asking again changes nothing.
            DeadlineExceeded: the deadline passed.
        """
        jitter, deadline = random.Random(request_hash), time.monotonic() + deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                return await self._persist(send, read, optional, jitter, deadline)
        except TimeoutError:
            raise DeadlineExceeded(self.name, deadline_s) from None

    async def close(self) -> None:
        """Closes its connections."""
        await self.client.close()

    async def _persist(
        self, send: Send, read: Read[T], optional: Mapping[str, Any], jitter: random.Random, deadline: float
    ) -> tuple[T, int]:
        """Ask until there is a reply, a refusal, or no attempt left."""
        attempt = 0
        while True:
            sent = {name: value for name, value in optional.items() if value is not None and name not in self._dropped}
            answer = await _ask(send, read, sent, deadline)
            if not isinstance(answer, Failure):
                return answer, attempt + 1
            parameter = unsupported_parameter(answer, sent)
            if parameter is not None:
                self._dropped.add(parameter)
                continue
            attempt += 1
            wait_s = max(backoff_s(attempt, jitter), answer.retry_after_s or 0.0)
            self._give_up(answer, attempt, wait_s, deadline - time.monotonic())
            await asyncio.sleep(wait_s)

    def _give_up(self, failure: Failure, attempt: int, wait_s: float, left_s: float) -> None:
        """Raise if another attempt is pointless."""
        message = f"{self.name} at {self.base_url}: {self._redact(failure.message)}"
        if failure.refusal is not None:
            raise ModelRefused(message, kind=failure.refusal)
        if are_spent(attempt, wait_s, left_s):
            tried = f"{message} (attempt {attempt} of {ATTEMPTS})"
            raise ModelUnavailable(tried, retry_after_s=failure.retry_after_s)


async def _ask(send: Send, read: Read[T], sent: Mapping[str, Any], deadline: float) -> T | Failure:
    """One request. A failure is returned and not raised, so that no traceback carries the request's headers."""
    import openai

    try:
        response = await send(sent, max(deadline - time.monotonic(), 0.001))
        body = response.http_response.json()
    except (openai.OpenAIError, ValueError, RecursionError) as error:
        return failure_of(error)
    try:
        return read(body)
    except NoReply as error:
        return error.failure


def open_endpoint(*, model: str, base_url: str | None, api_key: str | None, key_names: Sequence[str]) -> Endpoint:
    """The endpoint at a base URL, OpenAI's own without one.

    Raises:
        EndpointInvalid: the base URL cannot be used.
        MissingKey: it is not on this machine and there is no key; names the variables `key_names`.
    """
    url = base_url or DEFAULT_BASE_URL
    local = check_base_url(url)
    if not api_key and not local:
        raise MissingKey(url, key_names)
    return Endpoint(client_for(url, api_key, local=local), name=model, base_url=url, api_key=api_key)
