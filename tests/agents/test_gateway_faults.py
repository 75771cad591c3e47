"""Every fault of `benchmarks.faulty_endpoint`, one call each, with short waits; then limits and the books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents import attempts
from agents.contexts import Message
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable
from agents.gateway import OpenAIChatModel, Prices
from agents.limits import Limits
from agents.opening import open_model
from agents.parameters import Settings
from agents.replies import Hypothesis
from agents.wire import Usage
from benchmarks.faulty_endpoint import FAULTS, FaultyEndpoint
from benchmarks.gateway_faults import KEY, PROSE, complaints, with_endpoint

DEADLINE_S = 4.0
RETRIED = {
    "429-retry-after": 3,
    "429": 2,
    "500-twice": 3,
    "reset": 2,
    "reset-within-the-body": 2,
    "garbage": 2,
    "truncated-json": 2,
    "empty-choices": 2,
    "200-with-an-error": 2,
    "parameter-refused": 2,
}
AT_ONCE = ("none", "slow", "wrong-schema", "reasoning-only", "no-usage")
REFUSED = {
    "quota": "quota",
    "quota-in-a-200": "quota",
    "auth": "auth",
    "context-length": "context_length",
    "unknown-model": "not_found",
    "silent-truncation": "context_length",
}
BILLED_TWICE = {"reset-within-the-body", "truncated-json", "empty-choices", "200-with-an-error"}


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyEndpoint]:
    monkeypatch.setattr(attempts, "BACKOFF_FIRST_S", 0.01)
    async with FaultyEndpoint(key=KEY) as serving:
        yield serving


@pytest.fixture
async def models(endpoint: FaultyEndpoint) -> AsyncIterator[Any]:
    opened: list[OpenAIChatModel] = []

    def make(fault: str, **settings: Any) -> OpenAIChatModel:
        opened.append(open_model(**{"model": fault, "base_url": endpoint.url, "api_key": KEY, **settings}))
        return opened[-1]

    yield make
    for model in opened:
        await model.close()


def asked(call: str) -> list[Message]:
    return [Message("system", PROSE), Message("user", f"{call}\nPropose one change.")]


def billed(endpoint: FaultyEndpoint, call: str) -> Usage:
    requests = endpoint.of_call(call)
    return Usage(sum(r.billed[0] for r in requests), sum(r.billed[1] for r in requests))


def test_every_fault_is_tried() -> None:
    tried = {*RETRIED, *AT_ONCE, *REFUSED, "drip-feed", "hang", "429-storm", "429-for-an-hour", "500-always"}
    assert tried == set(FAULTS)


@pytest.mark.parametrize("fault", [*RETRIED, *AT_ONCE])
async def test_what_passes_is_waited_for_and_all_that_was_reported_is_counted(
    fault: str, endpoint: FaultyEndpoint, models: Any
) -> None:
    completion = await models(fault, prices=Prices(1.0, 2.0)).complete(
        asked("a"), schema=Hypothesis, seed=1, deadline_s=DEADLINE_S
    )
    requests = endpoint.of_call("a")
    assert len(requests) == RETRIED.get(fault, 1)
    assert completion.raw["id"] == requests[-1].id
    if fault == "no-usage":
        assert completion.usage.estimated
    else:
        assert completion.usage == billed(endpoint, "a")
        assert completion.cost_usd == pytest.approx(Prices(1.0, 2.0).cost_usd(billed(endpoint, "a")))
    assert (requests[0].billed != (0, 0)) is (fault in BILLED_TWICE or len(requests) == 1) or fault == "no-usage"
    discarded = completion.raw.get("discarded", [])
    assert len(discarded) == len(requests) - 1
    assert all(isinstance(one["why"], str) and one["why"] for one in discarded)
    assert [one["usage"] for one in discarded if "usage" in one] == [
        list(r.billed) for r in requests[:-1] if r.billed != (0, 0)
    ]


@pytest.mark.parametrize("fault", REFUSED)
async def test_what_a_retry_cannot_change_is_asked_once(fault: str, endpoint: FaultyEndpoint, models: Any) -> None:
    with pytest.raises(ModelRefused) as caught:
        await models(fault).complete(asked("a"), deadline_s=DEADLINE_S)
    assert caught.value.kind == REFUSED[fault]
    assert len(endpoint.of_call("a")) == 1
    assert KEY not in str(caught.value)
    assert (caught.value.usage or Usage(0, 0)) == billed(endpoint, "a")


@pytest.mark.parametrize("fault", ["drip-feed", "hang"])
async def test_the_deadline_holds_and_what_was_heard_until_then_counts(
    fault: str, endpoint: FaultyEndpoint, models: Any
) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        await models(fault, prices=Prices(1.0, 1.0)).complete(asked("a"), deadline_s=1.0)
    assert time.monotonic() - started < 2.0
    assert (caught.value.usage or Usage(0, 0)) == billed(endpoint, "a")
    assert (caught.value.cost_usd is not None) is (fault == "drip-feed")


@pytest.mark.parametrize(("fault", "attempts"), [("500-always", 5), ("429-storm", 5), ("429-for-an-hour", 1)])
async def test_retries_end(fault: str, attempts: int, endpoint: FaultyEndpoint, models: Any) -> None:
    with pytest.raises(ModelUnavailable):
        await models(fault).complete(asked("a"), deadline_s=DEADLINE_S)
    assert len(endpoint.of_call("a")) == attempts


async def test_who_was_told_to_wait_an_hour_does_not_ask_again(endpoint: FaultyEndpoint, models: Any) -> None:
    model = models("429-for-an-hour")
    for call in "ab":
        with pytest.raises(ModelUnavailable) as caught:
            await model.complete(asked(call), deadline_s=DEADLINE_S)
        assert caught.value.retry_after_s == pytest.approx(3600, abs=10)
    assert len(endpoint.served) == 1


async def test_no_more_requests_at_once_than_configured(endpoint: FaultyEndpoint, models: Any) -> None:
    model = models("slow", limits=Limits(concurrency=3))
    await asyncio.gather(*(model.complete(asked(f"call {n}"), deadline_s=30.0) for n in range(9)))
    assert endpoint.most_in_flight == 3
    assert len(endpoint.served) == 9


async def test_a_deadline_that_went_by_in_the_queue_says_so(models: Any) -> None:
    model = models("none", limits=Limits(requests_per_minute=1))
    await model.complete(asked("a"), deadline_s=DEADLINE_S)
    with pytest.raises(DeadlineExceeded, match="waiting for the configured rate"):
        await model.complete(asked("b"), deadline_s=0.5)


async def test_the_output_limit_has_two_names(endpoint: FaultyEndpoint, models: Any) -> None:
    await models("none", settings=Settings(max_output_tokens=77)).complete(asked("a"), deadline_s=DEADLINE_S)
    assert endpoint.served[0].body["max_tokens"] == 77


async def test_truncation_can_be_left_unchecked(models: Any) -> None:
    model = models("silent-truncation", settings=Settings(check_truncation=False))
    assert (await model.complete(asked("a"), deadline_s=DEADLINE_S)).usage.prompt_tokens == 1024


async def test_many_calls_at_once_each_end_once_and_the_books_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark, small and with the patience of a test on a busy machine."""
    monkeypatch.setattr(attempts, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr("benchmarks.gateway_faults.GRACE_S", 10.0)
    monkeypatch.setattr("benchmarks.gateway_faults.DEADLINE_S", 6.0)
    done, endpoint = await with_endpoint(2 * len(FAULTS), 20, 1)
    assert len(done) == 2 * len(FAULTS)
    assert complaints(done, endpoint) == []
    assert all(isinstance(one.ended, AgentError) or one.ended.text for one in done)
