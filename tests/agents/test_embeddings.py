"""The embeddings client against a real local server that misbehaves as real servers do."""

from __future__ import annotations

import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from agents import attempts
from agents.embeddings import EmbeddingModel, encoder, open_embeddings
from agents.errors import (
    DeadlineExceeded,
    EndpointInvalid,
    MissingKey,
    ModelRefused,
    ModelUnavailable,
    VectorsMalformed,
)
from tests.agents.served import Served

KEY = "sk-test-0123456789abcdef"


def body(*vectors: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "served", "usage": {"prompt_tokens": 3, "total_tokens": 3}, **more}


def by_length(request: dict[str, Any]) -> dict[str, Any]:
    return body(*([3.0, 4.0 * len(text)] for text in request["input"]))


def refusal(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


Opener = Callable[..., EmbeddingModel]


@pytest.fixture
async def opened(served: Served) -> AsyncIterator[Opener]:
    served.script = [(200, {}, by_length)]
    models: list[EmbeddingModel] = []

    def open_it(**settings: Any) -> EmbeddingModel:
        usual = {"model": "m", "base_url": served.url, "api_key": KEY, "dimensions": 2}
        models.append(open_embeddings(**{**usual, "max_chars": 1000, "deadline_s": 5.0, **settings}))
        return models[-1]

    yield open_it
    for model in models:
        await model.close()


async def test_a_unit_vector_for_each_text_in_order(served: Served, opened: Opener) -> None:
    vectors = await opened().embed(["a", "abcd"])
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [3 / 265**0.5, 16 / 265**0.5]], rtol=1e-6)
    assert served.requests[0] == {"model": "m", "input": ["a", "abcd"], "encoding_format": "float", "dimensions": 2}
    assert f"bearer {KEY}" in served.headers[0].lower()
    assert served.headers[0].startswith("POST /v1/embeddings ")


async def test_items_in_another_order_are_put_in_order(served: Served, opened: Opener) -> None:
    answer = body([1.0, 0.0], [0.0, 1.0])
    served.script = [(200, {}, {**answer, "data": answer["data"][::-1]})]
    np.testing.assert_array_equal(await opened().embed(["a", "b"]), [[1.0, 0.0], [0.0, 1.0]])


async def test_the_dimension_is_found_out_or_confirmed(served: Served, opened: Opener) -> None:
    assert await opened(dimensions=None).dimension() == 2
    assert "dimensions" not in served.requests[0]
    assert await opened().dimension() == 2
    with pytest.raises(VectorsMalformed, match="2 dimensions and not 3"):
        await opened(dimensions=3).dimension()


async def test_a_server_that_knows_no_dimensions_is_asked_without(served: Served, opened: Opener) -> None:
    told = refusal("Model m does not support matryoshka representation, changing output dimensions will fail.")
    served.script = [(400, {}, told), (200, {}, by_length)]
    model = opened()
    assert (await model.embed(["a"])).shape == (1, 2)
    await model.embed(["b"])
    assert ["dimensions" in request for request in served.requests] == [True, False, False]


async def test_long_blank_and_broken_texts_are_sent_as_servers_take_them(served: Served, opened: Opener) -> None:
    await opened(max_chars=4).embed(["abcdefgh", " \n", "a\ud800"])
    assert served.requests[0]["input"] == ["abcd", "nothing", "a\\ud800"]


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (401, refusal(f"Incorrect API key provided: {KEY}"), "auth"),
        (404, refusal("The model `m` does not exist", code="model_not_found"), "not_found"),
        (400, refusal("maximum context length is 512 tokens"), "context_length"),
        (429, refusal("You exceeded your current quota", code="insufficient_quota"), "quota"),
        (200, refusal("no such model", status=404), "not_found"),
    ],
)
async def test_refusals_are_typed_and_asked_once(
    served: Served, opened: Opener, status: int, answer: dict[str, Any], kind: str
) -> None:
    served.script = [(status, {}, answer)]
    with pytest.raises(ModelRefused) as caught:
        await opened().embed(["a"])
    assert caught.value.kind == kind
    assert len(served.requests) == 1
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (body([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), "3 dimensions and not 2"),
        (body([1.0, 2.0], [1.0]), "1 dimensions and not 2"),
        (body([1.0, 2.0]), "1 vectors in 1 items for 2 texts"),
        (body(), "0 vectors"),
        (body([1.0, float("nan")], [1.0, 2.0]), "not finite"),
        (body([1.0, float("inf")], [1.0, 2.0]), "not finite"),
        (body([0.0, 0.0], [1.0, 2.0]), "zero"),
        (body([1.0, None], [1.0, 2.0]), "not all numbers|not finite"),
        (body(["one", "two"], [1.0, 2.0]), "not all numbers"),
        (body("AACAPwAAAEA=", [1.0, 2.0]), "1 vectors in 2 items"),
        ({"data": [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [1.0, 2.0]}]}, "indices"),
        ({"data": [{"index": "x", "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [1.0, 2.0]}]}, "indices"),
        ({"data": ["one", "two"]}, "0 vectors in 2 items"),
    ],
)
async def test_what_is_no_vector_for_each_text_is_refused_whole_and_asked_once(
    served: Served, opened: Opener, answer: dict[str, Any], why: str
) -> None:
    served.script = [(200, {}, answer)]
    with pytest.raises(VectorsMalformed, match=why):
        await opened().embed(["a", "b"])
    assert len(served.requests) == 1


@pytest.mark.parametrize("garbage", [b"<html>proxy</html>", b"[1, 2]", b"{}", b'{"data": 5}', b"null"])
async def test_garbage_may_pass_and_is_asked_again_until_retries_end(
    served: Served, opened: Opener, garbage: bytes
) -> None:
    served.script = [(200, {}, garbage), (503, {}, b"busy"), (200, {}, by_length)]
    assert (await opened().embed(["a"])).shape == (1, 2)
    assert len(served.requests) == 3
    served.script = [(200, {}, garbage)]
    with pytest.raises(ModelUnavailable, match="attempt 5 of 5"):
        await opened().embed(["a"])
    assert len(served.requests) == 3 + attempts.ATTEMPTS


async def test_a_wait_past_the_deadline_tells_what_went_wrong_and_not_that_it_took_long(
    served: Served, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_FIRST_S", 20.0)
    served.script = [(503, {}, {"error": {"message": "the model is loading"}})]
    started = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"the model is loading \(attempt 1 of 5\)"):
        await opened(deadline_s=1.0).embed(["a"])
    assert time.monotonic() - started < 0.9


async def test_a_body_nested_without_end_may_pass(served: Served, opened: Opener) -> None:
    served.script = [(200, {}, b"[" * 100_000), (200, {}, by_length)]
    assert (await opened().embed(["a"])).shape == (1, 2)


async def test_a_hanging_server_does_not_outlive_the_deadline(served: Served, opened: Opener) -> None:
    served.drip_s = 0.05  # each read succeeds in time; the whole would take seconds
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"0\.4 s"):
        await opened(deadline_s=0.4).embed(["a"])
    assert time.monotonic() - started < 2


async def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_FIRST_S", 0.01)
    model = open_embeddings(
        model="m", base_url="http://127.0.0.1:9/v1", dimensions=2, max_chars=9, deadline_s=5, api_key=None
    )
    with pytest.raises(ModelUnavailable, match="no connection"):
        await model.embed(["a"])
    await model.close()


def test_a_remote_place_needs_a_key_and_a_url_has_to_be_one() -> None:
    settings: dict[str, Any] = {"model": "m", "dimensions": 2, "max_chars": 9, "deadline_s": 5.0, "api_key": None}
    with pytest.raises(MissingKey, match="MOVE37_EMBEDDINGS_API_KEY"):
        open_embeddings(base_url=None, **settings)
    with pytest.raises(EndpointInvalid):
        open_embeddings(base_url="ftp://host/v1", **settings)


def test_an_encoder_is_known_by_all_that_decides_its_vectors() -> None:
    one = encoder("org/name with space", "http://127.0.0.1:1/v1", 8, 1000)
    assert one.name.startswith("endpoint-org/name_with_space-8-")
    others = [
        encoder("other", "http://127.0.0.1:1/v1", 8, 1000),
        encoder("org/name with space", "http://127.0.0.1:2/v1", 8, 1000),
        encoder("org/name with space", None, 8, 1000),
        encoder("org/name with space", "http://127.0.0.1:1/v1", 9, 1000),
        encoder("org/name with space", "http://127.0.0.1:1/v1", 8, 999),
        encoder("x" * 500, None, 8, 1000),
    ]
    assert len({one.name, *(other.name for other in others)}) == 7
    assert max(len(other.name) for other in others) <= 120
