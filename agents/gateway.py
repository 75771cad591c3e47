"""The one door to a language model: any OpenAI-compatible endpoint, or the embedded model through the same client.

Notable:
* retries are ours (`agents.attempts`), not the client's;
* the client's timeout is per read, so a dripping server outlives it: the deadline here is wall-clock and covers the
  whole call, retries and waits for the rate limit included;
* a 200 may carry an error body, no choices, null content or no usage: each is handled, none is an AttributeError;
* what an endpoint says it used is counted, whatever became of the attempt: from error bodies, from replies that cannot
  be used, from what arrived of one that broke off; errors carry it (`AgentError.usage`);
* a prompt that the server cut without saying so is a refusal (`agents.truncation`);
* a parameter that an endpoint does not know is sent in its next form or dropped, once, and that is remembered;
* structured output is a hint to the endpoint: every reply is validated by its role whatever the endpoint promised;
* an unknown price is `None`, never 0. The embedded model costs 0.0;
* replies are read piece by piece, up to `BODY_CAP_BYTES`. The key is taken out of what is kept of them.

Not covered: budgets (the campaign's), other models (`agents.fallback`), storing exchanges (the experiment memory's).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel

from agents import attempts
from agents.contexts import Message
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable
from agents.limits import UNLIMITED, Limiter, Limits
from agents.parameters import Form, Parameters, Settings
from agents.redaction import scrubbed, scrubber
from agents.truncation import TruncationWatch, prompt_least_tokens
from agents.wire import (
    Failure,
    NoReply,
    Reading,
    Usage,
    read_completion,
    redactor,
    salvaged_usage,
    unsupported_parameter,
)
from memory.tokens import estimate

if TYPE_CHECKING:
    import openai

BODY_CAP_BYTES = 16 * 1024 * 1024
CLIENT_GRACE_S = 5.0  # the client's own timeout never beats our deadline, so that a late reply always reads the same

ModelKind = Literal["grammar", "language-model", "replay"]
ErrorT = TypeVar("ErrorT", bound=AgentError)


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

    `usage` and `cost_usd` cover all attempts of the call, also those whose reply could not be used. `raw` is what is
    worth keeping of the endpoint's own account (id, fingerprint, usage of the last attempt) and of ours (attempts,
    `discarded` ones with the reason, `dropped_parameters`, `fallback`).
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
        """Complete the chat within `deadline_s` of wall clock, retries included; each fallback model gets it anew.

        Raises:
            ModelUnavailable: may work later; retries are spent or the asked wait does not fit the deadline.
            ModelRefused: asking again changes nothing.
            DeadlineExceeded: the deadline passed.
            CassetteMiss: replies come from a cassette, and it does not hold this request.
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


@dataclass
class _Call:
    """One call in progress: when it ends, and what its attempts used and came to."""

    deadline: float
    jitter: random.Random
    usage: Usage | None = None
    attempts: int = 0
    queued_s: float = 0.0
    discarded: list[dict[str, Any]] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    def discard(self, why: str, usage: Usage | None) -> None:
        """An attempt gave no reply that could be used."""
        self.discarded.append({"why": why, **({} if usage is None else {"usage": [*_counts(usage)]})})
        self.count(usage)

    def count(self, usage: Usage | None) -> None:
        if usage is not None:
            self.usage = usage if self.usage is None else self.usage + usage


def _counts(usage: Usage) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


class OpenAIChatModel:
    """Chat Completions over `openai.AsyncOpenAI`. Build one with `agents.opening.open_model`. One event loop's."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        *,
        name: str,
        kind: ModelKind,
        base_url: str,
        api_key: str | None,
        prices: Prices | None,
        settings: Settings | None = None,
        limits: Limits = UNLIMITED,
    ) -> None:
        self._client = client
        self._name = name
        self._kind: ModelKind = kind
        self._base_url = base_url
        self._prices = prices
        self._settings = settings or Settings()
        self._parameters = Parameters(self._settings)
        self._limiter = Limiter(limits)
        self._watch = TruncationWatch()
        self._redact = redactor(api_key)
        self._scrub = scrubber(api_key)

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
        call = _Call(started + deadline_s, jitter)
        try:
            async with asyncio.timeout(deadline_s):
                reading = await self._persist(messages, schema, seed, call)
        except TimeoutError:
            raise self._charged(DeadlineExceeded(self._name, deadline_s, queued_s=call.queued_s), call) from None
        usage = self._used(messages, reading, call)
        return Completion(
            text=self._scrub(reading.text),
            model=self._scrub(reading.model) or self._name,
            usage=usage,
            latency_s=time.monotonic() - started,
            finish_reason=self._scrub(reading.finish_reason),
            cost_usd=None if self._prices is None else self._prices.cost_usd(usage),
            raw={
                **scrubbed(reading.account, self._scrub),
                "attempts": call.attempts,
                "dropped_parameters": self._parameters.refused,
                **({"discarded": call.discarded} if call.discarded else {}),
            },
        )

    async def close(self) -> None:
        await self._client.close()

    def _used(self, messages: Sequence[Message], reading: Reading, call: _Call) -> Usage:
        """What the whole call used: as reported, or, where the reply has no usage, estimated."""
        last = reading.usage
        if last is None or (last.prompt_tokens == 0 and any(message.content for message in messages)):
            last = Usage(
                prompt_tokens=sum(estimate(message.content) for message in messages),
                completion_tokens=estimate(reading.text),
                estimated=True,
            )
        call.count(last)
        return call.usage or last

    def _charged(self, error: ErrorT, call: _Call) -> ErrorT:
        """The error with what the call used until then."""
        error.usage = call.usage
        if call.usage is not None and self._prices is not None:
            error.cost_usd = self._prices.cost_usd(call.usage)
        return error

    async def _persist(
        self, messages: Sequence[Message], schema: type[BaseModel] | None, seed: int | None, call: _Call
    ) -> Reading:
        """Ask until there is a reply, a refusal, or no attempt left."""
        tokens = sum(estimate(message.content) for message in messages) + (self._settings.max_output_tokens or 0)
        while True:
            forms = self._parameters.chosen(schema, seed)
            answer = await self._admitted(messages, forms, tokens, call)
            if isinstance(answer, Reading):
                call.attempts += 1
                self._refuse_cut(messages, answer, call)
                return answer
            call.discard(self._redact(answer.message), answer.usage)
            sent = {form.parameter: form for form in forms}
            parameter = unsupported_parameter(answer, sent)
            if parameter is not None:
                self._parameters.refuse(sent[parameter])
                continue
            call.attempts += 1
            backoff_s = attempts.backoff_s(call.attempts, call.jitter)
            self._give_up(answer, backoff_s, call)
            await asyncio.sleep(max(backoff_s, answer.retry_after_s or 0.0))

    def _give_up(self, failure: Failure, backoff_s: float, call: _Call) -> None:
        """Raise if another attempt is pointless; else let the others wait too, if the endpoint asks for it."""
        message = self._said(failure.message)
        if failure.refusal is not None:
            raise self._charged(ModelRefused(message, kind=failure.refusal), call)
        wait_s = failure.retry_after_s
        if failure.slow_down:
            self._limiter.pause(min(backoff_s, attempts.BACKOFF_FIRST_S) if wait_s is None else wait_s)
        if attempts.are_spent(call.attempts, max(backoff_s, wait_s or 0.0), call.left_s):
            tried = f"{message} (attempt {call.attempts} of {attempts.ATTEMPTS})"
            raise self._charged(ModelUnavailable(tried, retry_after_s=wait_s), call)

    def _refuse_cut(self, messages: Sequence[Message], reading: Reading, call: _Call) -> None:
        """Raise if the server read less of the prompt than there was."""
        if not self._settings.check_truncation or not reading.tokens_read:
            return
        suspicion = self._watch.suspicion(prompt_least_tokens(messages), reading.tokens_read)
        if suspicion:
            call.discard(suspicion, reading.usage)
            message = self._said(f"{suspicion}: it cuts prompts to its context window without saying so")
            raise self._charged(ModelRefused(message, kind="context_length"), call)

    def _said(self, message: str) -> str:
        return f"{self._name} at {self._base_url}: {self._redact(message)}"

    async def _admitted(
        self, messages: Sequence[Message], forms: Sequence[Form], tokens: int, call: _Call
    ) -> Reading | Failure:
        """One request, as soon as the limits of the model allow it."""
        paused_s = self._limiter.paused_s
        if paused_s >= call.left_s:
            failure = Failure("the endpoint asked for a pause that outlasts the deadline", retry_after_s=paused_s)
            raise self._charged(ModelUnavailable(self._said(failure.message), retry_after_s=paused_s), call)
        async with AsyncExitStack() as stack:
            since = time.monotonic()
            try:
                admission = await stack.enter_async_context(self._limiter.admit(tokens))
            finally:
                call.queued_s += time.monotonic() - since
            answer = await self._ask(messages, forms, call)
            if answer.usage is not None:
                admission.tokens = answer.usage.total
            return answer

    async def _ask(self, messages: Sequence[Message], forms: Sequence[Form], call: _Call) -> Reading | Failure:
        """One request. A failure is returned and not raised, so that no traceback carries the request's headers."""
        import httpx2
        import openai

        received = bytearray()
        try:
            async with self._client.chat.completions.with_streaming_response.create(
                model=self._name,
                messages=[message.as_dict() for message in messages],  # type: ignore[misc]
                timeout=max(call.left_s, 0.0) + CLIENT_GRACE_S,
                **{form.parameter: form.value for form in forms},
            ) as response:
                async for piece in response.iter_bytes():
                    received += piece
                    if len(received) > BODY_CAP_BYTES:
                        return Failure(f"the endpoint's reply has more than {BODY_CAP_BYTES} bytes")
            body = json.loads(received)
        except asyncio.CancelledError:
            call.discard("it was ended before the whole reply was there", salvaged_usage(bytes(received)))
            raise
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, RecursionError) as error:
            return attempts.failure_of(error, bytes(received))
        try:
            return read_completion(body)
        except NoReply as error:
            return error.failure
