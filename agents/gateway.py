"""The one door to a language model: any OpenAI-compatible endpoint, or the embedded model through the same client.

Notable:
* retries, deadlines and what an endpoint does not know are `agents.endpoint`'s;
* a 200 may carry an error body, no choices, null content or no usage: each is handled, none is an AttributeError;
* structured output is a hint to the endpoint: every reply is validated by its role whatever the endpoint promised;
* an unknown price is `None`, never 0. The embedded model costs 0.0.

Not covered: budgets and rate limits across calls (the campaign's), storing exchanges (the experiment memory's).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from agents.contexts import Message
from agents.embedded.notice import EMBEDDED_MODEL
from agents.endpoint import Endpoint, open_endpoint
from agents.errors import EndpointInvalid
from agents.wire import Usage, estimated_tokens, read_completion, schema_format

EMBEDDED_URL = "http://move37.embedded/v1"
KEY_ENV_NAMES = ("MOVE37_API_KEY", "OPENAI_API_KEY")

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
        """Is "grammar" for the in-process embedded model only: its programs hold no code but the catalogue's."""

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
    """Chat Completions over an endpoint. Build one with `open_model`."""

    def __init__(
        self, endpoint: Endpoint, *, kind: ModelKind, prices: Prices | None, temperature: float | None = None
    ) -> None:
        self._endpoint = endpoint
        self._kind: ModelKind = kind
        self._prices = prices
        self._temperature = temperature

    @property
    def name(self) -> str:
        return self._endpoint.name

    @property
    def kind(self) -> ModelKind:
        return self._kind

    def __repr__(self) -> str:
        return f"OpenAIChatModel(name={self.name!r}, base_url={self._endpoint.base_url!r})"

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

        async def send(optional: Mapping[str, Any], timeout_s: float) -> Any:
            return await self._endpoint.client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=[message.as_dict() for message in messages],  # type: ignore[misc]
                timeout=timeout_s,
                **optional,
            )

        reading, attempts = await self._endpoint.call(
            send,
            read_completion,
            {
                "seed": seed,
                "temperature": self._temperature,
                "response_format": None if schema is None else schema_format(schema),
            },
            request_hash=request_key(
                messages, model=self.name, schema_name=None if schema is None else schema.__name__, seed=seed
            ),
            deadline_s=deadline_s,
        )
        usage = reading.usage or Usage(
            prompt_tokens=sum(estimated_tokens(message.content) for message in messages),
            completion_tokens=estimated_tokens(reading.text),
            estimated=True,
        )
        return Completion(
            text=reading.text,
            model=reading.model or self.name,
            usage=usage,
            latency_s=time.monotonic() - started,
            finish_reason=reading.finish_reason,
            cost_usd=None if self._prices is None else self._prices.cost_usd(usage),
            raw={**reading.account, "attempts": attempts, "dropped_parameters": self._endpoint.dropped},
        )

    async def close(self) -> None:
        await self._endpoint.close()


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
    if base_url is None and model in {None, EMBEDDED_MODEL}:
        return OpenAIChatModel(_embedded(), kind="grammar", prices=FREE, temperature=temperature)
    if not model:
        raise EndpointInvalid(f"no model is named for {base_url}: set the model beside the base URL")
    endpoint = open_endpoint(model=model, base_url=base_url, api_key=api_key, key_names=KEY_ENV_NAMES)
    return OpenAIChatModel(endpoint, kind="language-model", prices=prices, temperature=temperature)


def _embedded() -> Endpoint:
    """The embedded model, asked in process through the same client."""
    import httpx2
    import openai

    from agents.embedded.server import app

    client = openai.AsyncOpenAI(
        api_key="embedded",
        base_url=EMBEDDED_URL,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app()), trust_env=False),
    )
    return Endpoint(client, name=EMBEDDED_MODEL, base_url=EMBEDDED_URL, api_key=None)
