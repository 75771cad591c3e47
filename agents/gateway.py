"""The one door to a language model: any OpenAI-compatible endpoint, or the embedded model through the same client.

Notable:
* the client's own retries are off: one retry layer (ours) knows what a retry cannot change, and its jitter is drawn
  from the request's hash, so that a rerun waits the same;
* the client's timeout is per read, so a dripping server outlives it: the deadline here is wall-clock and covers the
  whole call, retries included;
* a 200 may carry an error body, no choices, null content or no usage: each is handled, none is an AttributeError;
* a parameter that an endpoint does not know (temperature, seed, response_format) is dropped once and remembered;
* structured output is a hint to the endpoint: every reply is validated by its role whatever the endpoint promised;
* an unknown price is `None`, never 0. The embedded model costs 0.0.

Not covered: budgets and rate limits across calls (the campaign's), storing exchanges (the experiment memory's).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel

from agents.contexts import Message
from agents.embedded.notice import EMBEDDED_MODEL, NOTICES
from agents.errors import DeadlineExceeded, EndpointInvalid, MissingKey, ModelRefused, ModelUnavailable
from agents.wire import (
    Failure,
    NoReply,
    Reading,
    Usage,
    classify,
    estimated_tokens,
    read_completion,
    redactor,
    schema_format,
    unsupported_parameter,
)

if TYPE_CHECKING:
    import openai

EMBEDDED_URL = "http://move37.embedded/v1"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_ENV_NAMES = ("MOVE37_API_KEY", "OPENAI_API_KEY")

ATTEMPTS = 5
BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 20.0
CONNECT_TIMEOUT_S = 10.0

ModelKind = Literal["grammar", "language-model", "replay"]


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens, as configured by the user: we ship no price list, because such lists age."""

    prompt_usd_per_million: float
    completion_usd_per_million: float

    def cost_usd(self, usage: Usage) -> float:
        return (
            usage.prompt_tokens * self.prompt_usd_per_million
            + usage.completion_tokens * self.completion_usd_per_million
        ) / 1e6


FREE = Prices(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `text` may be empty: the role's parser says what is wrong with it.

    `raw` is what is worth keeping of the endpoint's own account (id, fingerprint, reported usage, attempts).
    """

    text: str
    model: str
    usage: Usage
    latency_s: float
    finish_reason: str
    cost_usd: float | None
    raw: dict[str, Any]


class ChatModel(Protocol):
    """A model that completes a chat.

    Invariants: `complete` has no effect but the call; the same messages and seed may give another text on another
    day (only the embedded and the replaying model promise otherwise), so completions are stored, never asked again.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> ModelKind:
        """Is "grammar" for the in-process embedded models only: their programs hold no code but the catalogue's."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """Complete the chat within `deadline_s` of wall clock, retries included.

        Raises:
            ModelUnavailable: may work later; retries are spent or the asked wait does not fit the deadline.
            ModelRefused: asking again changes nothing.
            DeadlineExceeded: the deadline passed.
        """

    async def close(self) -> None: ...


def request_key(
    messages: Sequence[Message], *, model: str | None = None, schema_name: str | None = None, seed: int | None = None
) -> str:
    """Content hash of a request: the identity under which an exchange is stored and replayed."""
    request: dict[str, Any] = {
        "messages": [message.as_dict() for message in messages],
        "schema": schema_name,
        "seed": seed,
    }
    if model is not None:
        request["model"] = model
    canonical = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class OpenAIChatModel:
    """Chat Completions over `openai.AsyncOpenAI`. Build one with `open_model`."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        *,
        name: str,
        kind: ModelKind,
        base_url: str,
        api_key: str | None,
        prices: Prices | None,
        temperature: float | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._kind: ModelKind = kind
        self._base_url = base_url
        self._prices = prices
        self._temperature = temperature
        self._dropped: set[str] = set()
        self._redact = redactor(api_key)

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> ModelKind:
        return self._kind

    def __repr__(self) -> str:
        return f"OpenAIChatModel(name={self._name!r}, base_url={self._base_url!r})"

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """See `ChatModel.complete`."""
        started = time.monotonic()
        schema_name = None if schema is None else schema.__name__
        jitter = random.Random(request_key(messages, model=self._name, schema_name=schema_name, seed=seed))
        try:
            async with asyncio.timeout(deadline_s):
                reading, attempts = await self._persist(messages, schema, seed, jitter, started + deadline_s)
        except TimeoutError:
            raise DeadlineExceeded(self._name, deadline_s) from None
        usage = reading.usage or Usage(
            prompt_tokens=sum(estimated_tokens(message.content) for message in messages),
            completion_tokens=estimated_tokens(reading.text),
            estimated=True,
        )
        return Completion(
            text=reading.text,
            model=reading.model or self._name,
            usage=usage,
            latency_s=time.monotonic() - started,
            finish_reason=reading.finish_reason,
            cost_usd=None if self._prices is None else self._prices.cost_usd(usage),
            raw={**reading.account, "attempts": attempts, "dropped_parameters": sorted(self._dropped)},
        )

    async def close(self) -> None:
        await self._client.close()

    async def _persist(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None,
        seed: int | None,
        jitter: random.Random,
        deadline: float,
    ) -> tuple[Reading, int]:
        """Ask until there is a reply, a refusal, or no attempt left."""
        attempt = 0
        while True:
            parameters = self._parameters(schema, seed)
            answer = await self._ask(messages, parameters, deadline)
            if isinstance(answer, Reading):
                return answer, attempt + 1
            parameter = unsupported_parameter(answer, parameters)
            if parameter is not None:
                self._dropped.add(parameter)
                continue
            attempt += 1
            self._give_up(answer, attempt, deadline)
            backoff_s = min(BACKOFF_FIRST_S * 2 ** (attempt - 1), BACKOFF_CAP_S) * jitter.uniform(0.5, 1.0)
            await asyncio.sleep(max(backoff_s, answer.retry_after_s or 0.0))

    def _give_up(self, failure: Failure, attempt: int, deadline: float) -> None:
        """Raise if another attempt is pointless."""
        message = f"{self._name} at {self._base_url}: {self._redact(failure.message)}"
        if failure.refusal is not None:
            raise ModelRefused(message, kind=failure.refusal)
        wait_s = failure.retry_after_s
        if attempt >= ATTEMPTS or (wait_s is not None and time.monotonic() + wait_s >= deadline):
            raise ModelUnavailable(f"{message} (attempt {attempt} of {ATTEMPTS})", retry_after_s=wait_s)

    def _parameters(self, schema: type[BaseModel] | None, seed: int | None) -> dict[str, Any]:
        wanted = {
            "seed": seed,
            "temperature": self._temperature,
            "response_format": None if schema is None else schema_format(schema),
        }
        return {name: value for name, value in wanted.items() if value is not None and name not in self._dropped}

    async def _ask(
        self, messages: Sequence[Message], parameters: Mapping[str, Any], deadline: float
    ) -> Reading | Failure:
        """One request. A failure is returned and not raised, so that no traceback carries the request's headers."""
        import openai

        remaining_s = max(deadline - time.monotonic(), 0.001)
        try:
            response = await self._client.chat.completions.with_raw_response.create(
                model=self._name,
                messages=[message.as_dict() for message in messages],  # type: ignore[misc]
                timeout=remaining_s,
                **parameters,
            )
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
            return read_completion(body)
        except NoReply as error:
            return error.failure


def open_model(
    *,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    prices: Prices | None = None,
    temperature: float | None = None,
) -> OpenAIChatModel:
    """A model for the campaign: the embedded one when neither a model nor a base URL is named.

    Raises:
        EndpointInvalid: base URL or model name cannot be used.
        MissingKey: the endpoint is not on this machine and `api_key` is empty.
    """
    import httpx2
    import openai

    if base_url is None and model in {None, *NOTICES}:
        from agents.embedded.server import app

        return OpenAIChatModel(
            openai.AsyncOpenAI(
                api_key="embedded",
                base_url=EMBEDDED_URL,
                max_retries=0,
                http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app()), trust_env=False),
            ),
            name=model or EMBEDDED_MODEL,
            kind="grammar",
            base_url=EMBEDDED_URL,
            api_key=None,
            prices=FREE,
            temperature=temperature,
        )
    if not model:
        raise EndpointInvalid(f"no model is named for {base_url}: set the model beside the base URL")
    url = base_url or DEFAULT_BASE_URL
    local = check_base_url(url)
    if not api_key and not local:
        raise MissingKey(url, KEY_ENV_NAMES)
    return OpenAIChatModel(
        openai.AsyncOpenAI(
            api_key=api_key or "none",  # never None: the client would send the environment's key to any server
            base_url=url,
            max_retries=0,
            http_client=httpx2.AsyncClient(
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S), trust_env=not local, follow_redirects=False
            ),
        ),
        name=model,
        kind="language-model",
        base_url=url,
        api_key=api_key,
        prices=prices,
        temperature=temperature,
    )


def check_base_url(url: str) -> bool:
    """Whether the URL points at this machine.

    Raises:
        EndpointInvalid: not http(s), no host, or holding credentials, a query or a fragment. The message does not
            repeat the URL's credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointInvalid(
            f"the base URL does not parse ({error}): use a form like http://127.0.0.1:8000/v1"
        ) from None
    if parts.username or parts.password:
        raise EndpointInvalid(f"the base URL for {host} holds credentials: give the key as the API key instead")
    if parts.scheme not in {"http", "https"} or not host:
        raise EndpointInvalid(f"base URL {url!r} is not of the form http(s)://host[:port]/v1")
    if parts.query or parts.fragment:
        raise EndpointInvalid(f"the base URL for {host} holds a query or fragment: remove it")
    if any(character.isspace() for character in url):
        raise EndpointInvalid(f"base URL {url!r} holds white space: remove it")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
