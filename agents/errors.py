"""What can go wrong between an agent and its model.

    AgentError
    ├── ModelUnavailable      the endpoint failed and may work later (retries are spent)
    ├── ModelRefused          the endpoint answered, and asking again would change nothing
    ├── DeadlineExceeded      our wall-clock deadline passed while waiting
    ├── ReplyMalformed        the reply is not what the role asked for
    ├── VectorsMalformed      what an embeddings endpoint answered is not a vector for each text
    ├── MissingKey            a remote endpoint without a key
    ├── EndpointInvalid       the configured base URL or model name cannot be used
    ├── CassetteMiss          a replayed cassette does not hold the request
    └── CassetteInvalid       a cassette cannot be read, written or shared

A malformed reply costs the proposal one corrective round; only the others concern the operator.
No message holds an API key: `agents.gateway` redacts before it raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from agents.wire import Usage

RefusalKind = Literal["auth", "quota", "context_length", "bad_request", "not_found", "unsupported"]

REMEDIES: dict[RefusalKind, str] = {
    "auth": "check the API key and its permissions for this model",
    "quota": "the account has no credit left: top it up, or use another endpoint",
    "context_length": "send less (search.exemplars, search.prompt_tokens, embeddings.max_chars)",
    "bad_request": "the endpoint does not accept this request: check model name and server version",
    "not_found": "check the model name and the base URL (most end in /v1)",
    "unsupported": "choose another model for this track",
}


class AgentError(Exception):
    """Base of every error of this package.

    Attributes:
        usage: Tokens that the endpoint reported for a call that gave no completion, all attempts together; None if it
            reported none. They were used, and count towards a budget.
        cost_usd: Their price; None if it is not known.
    """

    usage: Usage | None = None
    cost_usd: float | None = None


class ModelUnavailable(AgentError):
    """The endpoint could not be reached, or kept failing in a way that may pass.

    Attributes:
        retry_after_s: What the endpoint asked for, if it did.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        wait = "" if retry_after_s is None else f"; the endpoint asks to wait {retry_after_s:.0f} s"
        super().__init__(f"{message}{wait}")
        self.retry_after_s = retry_after_s


class ModelRefused(AgentError):
    """The endpoint rejected the request for a reason that a retry cannot change."""

    def __init__(self, message: str, *, kind: RefusalKind) -> None:
        super().__init__(f"{message} ({kind}): {REMEDIES[kind]}")
        self.kind = kind


class DeadlineExceeded(AgentError):
    """The whole call, retries and waits for the configured rate limit included, did not finish in time.

    Attributes:
        queued_s: How much of the deadline went by waiting for the rate limit or for a free slot.
    """

    def __init__(self, model: str, deadline_s: float, *, queued_s: float = 0.0) -> None:
        waited = (
            f" ({queued_s:.1f} s of them waiting for the configured rate or concurrency limit)"
            if queued_s >= deadline_s / 4
            else ""
        )
        super().__init__(
            f"{model} gave no complete reply within {deadline_s:g} s{waited}: raise the model deadline or use a "
            "faster model"
        )
        self.deadline_s = deadline_s
        self.queued_s = queued_s


class ReplyMalformed(AgentError):
    """The text does not hold what the role asked for.

    Attributes:
        raw: The reply as received.
        why: One sentence that can be shown to the model in a corrective round.
    """

    def __init__(self, raw: str, why: str) -> None:
        super().__init__(f"malformed reply: {why}")
        self.raw = raw
        self.why = why


class VectorsMalformed(AgentError):
    """An embeddings endpoint answered, and not with a vector of the wanted dimension for each text."""


class MissingKey(AgentError):
    """A remote endpoint is configured and no key was found.

    Attributes:
        env_names: The environment variables that are looked at, in order.
    """

    def __init__(self, base_url: str, env_names: Sequence[str]) -> None:
        super().__init__(
            f"{base_url} is a remote endpoint and no API key is set: set {' or '.join(env_names)} "
            "(any non-empty value for a server that checks none)"
        )
        self.env_names = tuple(env_names)


class EndpointInvalid(AgentError):
    """The base URL or the model name is not usable as configured."""


class CassetteMiss(AgentError):
    """A replayed cassette holds no reply to this request; the message shows the nearest one and what differs."""


class CassetteInvalid(AgentError):
    """A cassette is missing, damaged, of another version, or being recorded by another process."""
