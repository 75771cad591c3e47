"""The retry layer of every endpoint, chats (`agents.gateway`) and embeddings (`agents.endpoint`) alike: how often, how
long between, and what an error of the client means.

Notable:
* the client's own retries are off: this layer knows what a retry cannot change, and its jitter is drawn from the
  request's hash, so that a rerun waits the same;
* who would wait past the deadline is told at once what went wrong, and not later that it took too long.

Not covered: deadlines themselves, limits, what an answer says (`agents.wire`).
"""

from __future__ import annotations

import random

from agents.wire import Failure, classify, salvaged_usage

ATTEMPTS = 5
BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 20.0


def backoff_s(attempt: int, jitter: random.Random) -> float:
    """How long to wait after attempt number `attempt` (from 1) where the endpoint asks for no longer."""
    return min(BACKOFF_FIRST_S * 2.0 ** (attempt - 1), BACKOFF_CAP_S) * jitter.uniform(0.5, 1.0)


def are_spent(attempt: int, wait_s: float, left_s: float) -> bool:
    """Whether there is no further attempt: it was the last, or the wait before the next outlasts the deadline."""
    return attempt >= ATTEMPTS or wait_s >= left_s


def failure_of(error: Exception, received: bytes = b"") -> Failure:
    """What an error of the client comes to; `received` is what of the body had arrived.

    A failure is a value, so that no traceback carries the request's headers. Raises `error` if it is none of these.
    """
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        return classify(error.status_code, error.body, error.response.headers, error.message)
    usage = salvaged_usage(received)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return Failure("the endpoint did not answer in time", usage=usage)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ or error
        return Failure(f"no connection: {type(cause).__name__}: {cause}", usage=usage)
    if isinstance(error, openai.OpenAIError):
        return Failure(f"{type(error).__name__}: {error}")
    if isinstance(error, ValueError | RecursionError):
        return Failure(f"the endpoint's reply is not JSON: {error}", usage=usage)
    raise error
