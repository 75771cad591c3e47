"""The gateway against a real local server that misbehaves as real servers do."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agents import attempts
from agents.contexts import Message
from agents.errors import (
    DeadlineExceeded,
    EndpointInvalid,
    MissingKey,
    ModelRefused,
    ModelUnavailable,
)
from agents.gateway import OpenAIChatModel, Prices, request_key
from agents.opening import check_base_url, open_model
from agents.parameters import Settings
from agents.replies import Hypothesis
from tests.agents.served import Served

KEY = "sk-test-0123456789abcdef"
MESSAGES = (Message("system", "be brief"), Message("user", "hello"))
OK = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


Opener = Callable[..., OpenAIChatModel]


@pytest.fixture(autouse=True)
def replies_well(served: Served) -> None:
    served.script = [(200, {}, OK)]


@pytest.fixture
async def opened(served: Served) -> AsyncIterator[Opener]:
    models: list[OpenAIChatModel] = []

    def open_it(**settings: Any) -> OpenAIChatModel:
        models.append(open_model(**{"model": "m", "base_url": served.url, "api_key": KEY, **settings}))
        return models[-1]

    yield open_it
    for model in models:
        await model.close()


async def test_good_reply_with_price(served: Served, opened: Opener) -> None:
    completion = await opened(prices=Prices(1.0, 10.0)).complete(MESSAGES, schema=Hypothesis, seed=7, deadline_s=5)
    assert (completion.text, completion.model, completion.finish_reason) == ("hi", "served", "stop")
    assert completion.cost_usd == pytest.approx((10 * 1 + 2 * 10) / 1e6)
    assert not completion.usage.estimated
    assert served.requests[0]["seed"] == 7
    assert served.requests[0]["response_format"]["type"] == "json_schema"
    assert "temperature" not in served.requests[0]


async def test_unknown_price_is_unknown_and_not_free(opened: Opener) -> None:
    completion = await opened(prices=None).complete(MESSAGES, deadline_s=5)
    assert completion.cost_usd is None


async def test_missing_usage_is_estimated_and_marked(served: Served, opened: Opener) -> None:
    served.script = [(200, {}, {**OK, "usage": None})]
    completion = await opened(prices=Prices(1.0, 1.0)).complete(MESSAGES, deadline_s=5)
    assert completion.usage.estimated
    assert completion.usage.prompt_tokens == 3  # words
    assert completion.cost_usd is not None
    assert completion.cost_usd > 0


async def test_rate_limit_is_waited_for(served: Served, opened: Opener) -> None:
    served.script = [(429, {"retry-after": "0.3"}, {"error": {"message": "slow down"}}), (200, {}, OK)]
    started = time.monotonic()
    completion = await opened().complete(MESSAGES, deadline_s=5)
    assert completion.text == "hi"
    assert completion.raw["attempts"] == 2
    assert time.monotonic() - started >= 0.3


async def test_wait_beyond_the_deadline_is_reported_at_once(served: Served, opened: Opener) -> None:
    served.script = [(429, {"retry-after": "60"}, {"error": {"message": "slow down"}})]
    started = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        await opened().complete(MESSAGES, deadline_s=5)
    assert caught.value.retry_after_s == 60
    assert time.monotonic() - started < 2
    assert len(served.requests) == 1


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
        (401, {"message": f"Incorrect API key provided: {KEY}"}, "auth"),
        (400, {"message": "maximum context length is 10", "code": "context_length_exceeded"}, "context_length"),
        (400, {"message": "messages: wrong"}, "bad_request"),
        (200, {"message": "quota", "code": "insufficient_quota"}, "quota"),
    ],
)
async def test_refusals_are_not_retried(
    served: Served, opened: Opener, status: int, error: dict[str, str], kind: str
) -> None:
    served.script = [(status, {}, {"error": error})]
    with pytest.raises(ModelRefused) as caught:
        await opened().complete(MESSAGES, deadline_s=5)
    assert caught.value.kind == kind
    assert len(served.requests) == 1


@pytest.mark.parametrize(
    "bad",
    [
        (500, {}, {"error": {"message": "oops"}}),
        (200, {}, {"error": {"message": "upstream failed"}}),
        (200, {}, {**OK, "choices": []}),
        (200, {}, {**OK, "choices": None}),
        (200, {}, b"<html>proxy</html>"),
        (502, {}, b"<html>bad gateway</html>"),
    ],
)
async def test_passing_failures_are_retried(
    served: Served, opened: Opener, bad: tuple[int, dict[str, str], Any]
) -> None:
    served.script = [bad, bad, (200, {}, OK)]
    completion = await opened().complete(MESSAGES, deadline_s=5)
    assert completion.text == "hi"
    assert completion.raw["attempts"] == 3


async def test_retries_end(served: Served, opened: Opener) -> None:
    served.script = [(500, {}, {"error": {"message": "oops"}})]
    with pytest.raises(ModelUnavailable, match="attempt 5 of 5"):
        await opened().complete(MESSAGES, deadline_s=5)
    assert len(served.requests) == attempts.ATTEMPTS


async def test_drip_does_not_outlive_the_deadline(served: Served, opened: Opener) -> None:
    served.drip_s = 0.05  # each read succeeds in time; the whole takes 15 s
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        await opened().complete(MESSAGES, deadline_s=0.5)
    assert time.monotonic() - started < 1.5


async def test_null_content_with_reasoning(served: Served, opened: Opener) -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "the answer"}
    served.script = [(200, {}, {**OK, "choices": [{"index": 0, "message": message, "finish_reason": "length"}]})]
    completion = await opened().complete(MESSAGES, deadline_s=5)
    assert (completion.text, completion.finish_reason) == ("the answer", "length")


async def test_unknown_parameter_is_dropped_once_and_remembered(served: Served, opened: Opener) -> None:
    refusal = {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature"}}
    served.script = [(400, {}, refusal), (200, {}, OK)]
    model = opened(settings=Settings(temperature=0.7))
    completion = await model.complete(MESSAGES, seed=1, deadline_s=5)
    assert completion.raw["dropped_parameters"] == ["temperature"]
    await model.complete(MESSAGES, seed=1, deadline_s=5)
    assert ["temperature" in request for request in served.requests] == [True, False, False]
    assert all(request["seed"] == 1 for request in served.requests)


async def test_connection_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_FIRST_S", 0.01)
    model = open_model(model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ModelUnavailable, match="no connection"):
        await model.complete(MESSAGES, deadline_s=10)
    await model.close()


async def test_cancellation_passes_through(served: Served, opened: Opener) -> None:
    served.drip_s = 0.05
    task = asyncio.ensure_future(opened().complete(MESSAGES, deadline_s=30))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_key_is_sent_and_never_shown(served: Served, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    served.script = [(401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}})]
    model = opened()
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelRefused) as caught:
        await model.complete(MESSAGES, deadline_s=5)
    assert KEY in served.headers[0]
    shown = "".join(traceback.format_exception(caught.value)) + repr(model) + repr(caught.value)
    assert KEY not in shown
    assert KEY not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("agents"))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_key_of_the_environment_is_not_sent_to_a_local_server(
    served: Served, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment-secret")
    await opened(api_key=None).complete(MESSAGES, deadline_s=5)
    assert "environment-secret" not in served.headers[0]


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://api.example.org/v1", False),
        ("http://192.168.1.7:8000/v1", False),
    ],
)
def test_base_urls(url: str, local: bool) -> None:
    assert check_base_url(url) is local


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http:///v1",
        "http://user:hunter2@host/v1",
        "http://host/v1?key=hunter2",
        "http://host:notaport/v1",
        "http://[::1/v1",
        "http://ho st/v1",
    ],
)
def test_base_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(EndpointInvalid) as caught:
        check_base_url(url)
    assert "hunter2" not in str(caught.value)


def test_remote_endpoint_needs_a_key() -> None:
    with pytest.raises(MissingKey) as caught:
        open_model(model="m", base_url="https://api.example.org/v1")
    assert caught.value.env_names == ("MOVE37_API_KEY", "OPENAI_API_KEY")
    with pytest.raises(MissingKey):
        open_model(model="m")


def test_base_url_without_a_model() -> None:
    with pytest.raises(EndpointInvalid, match="no model"):
        open_model(base_url="http://127.0.0.1:1/v1")


def test_request_key_is_its_content() -> None:
    key = request_key(MESSAGES, model="m", schema_name="Hypothesis", seed=1)
    assert key == request_key(list(MESSAGES), model="m", schema_name="Hypothesis", seed=1)
    others = [
        request_key(MESSAGES, model=None, schema_name="Hypothesis", seed=1),
        request_key(MESSAGES, model="m", schema_name=None, seed=1),
        request_key(MESSAGES, model="m", schema_name="Hypothesis", seed=2),
        request_key(MESSAGES[::-1], model="m", schema_name="Hypothesis", seed=1),
    ]
    assert len({key, *others}) == 5
