"""One OpenAI-compatible endpoint for embeddings: a client, one retry layer, one deadline (chats have `agents.gateway`).

Notable:
* the client's own retries are off: one retry layer (ours) knows what a retry cannot change, and its jitter is drawn
  from the request's hash, so that a rerun waits the same;
* the client's timeout is per read, so a dripping server outlives it: the deadline here is wall-clock and covers the
  whole call, retries included;
* a parameter that an endpoint does not know (temperature, seed, response_format, dimensions) is dropped once and
  remembered;
* the key goes to the endpoint that it was given for and to no other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agents.errors import DeadlineExceeded, MissingKey, ModelRefused, ModelUnavailable
from agents.opening import CONNECT_TIMEOUT_S, DEFAULT_BASE_URL, check_base_url
from agents.wire import Failure, NoReply, classify, redactor, unsupported_parameter

if TYPE_CHECKING:
    import openai

ATTEMPTS = 5
BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 20.0

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
            self._give_up(answer, attempt, deadline)
            backoff_s = min(BACKOFF_FIRST_S * 2 ** (attempt - 1), BACKOFF_CAP_S) * jitter.uniform(0.5, 1.0)
            await asyncio.sleep(max(backoff_s, answer.retry_after_s or 0.0))

    def _give_up(self, failure: Failure, attempt: int, deadline: float) -> None:
        """Raise if another attempt is pointless."""
        message = f"{self.name} at {self.base_url}: {self._redact(failure.message)}"
        if failure.refusal is not None:
            raise ModelRefused(message, kind=failure.refusal)
        wait_s = failure.retry_after_s
        if attempt >= ATTEMPTS or (wait_s is not None and time.monotonic() + wait_s >= deadline):
            raise ModelUnavailable(f"{message} (attempt {attempt} of {ATTEMPTS})", retry_after_s=wait_s)


async def _ask(send: Send, read: Read[T], sent: Mapping[str, Any], deadline: float) -> T | Failure:
    """One request. A failure is returned and not raised, so that no traceback carries the request's headers."""
    import openai

    try:
        response = await send(sent, max(deadline - time.monotonic(), 0.001))
        body = response.http_response.json()
    except openai.APIStatusError as error:
        return classify(error.status_code, error.body, error.response.headers, error.message)
    except openai.APITimeoutError:
        return Failure("the endpoint did not answer in time")
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        return Failure(f"no connection: {type(cause).__name__}: {cause}")
    except openai.OpenAIError as error:
        return Failure(f"{type(error).__name__}: {error}")
    except ValueError as error:
        return Failure(f"the endpoint's reply is not JSON: {error}")
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
    import httpx2
    import openai

    url = base_url or DEFAULT_BASE_URL
    local = check_base_url(url)
    if not api_key and not local:
        raise MissingKey(url, key_names)
    client = openai.AsyncOpenAI(
        api_key=api_key or "none",  # never None: the client would send the environment's key to any server
        base_url=url,
        max_retries=0,
        http_client=httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S), trust_env=not local, follow_redirects=False
        ),
    )
    return Endpoint(client, name=model, base_url=url, api_key=api_key)
