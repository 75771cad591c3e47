"""Vectors of texts from any OpenAI-compatible `/v1/embeddings`, asked over `agents.endpoint`.

Notable:
* an answer counts only whole: a vector for each text, put in order by its index, each of the wanted dimension, finite
  and not zero. Anything else is an error that asking again would not mend, and none of it is used;
* floats are asked for as such: many servers do not know the client's own choice, base64;
* `dimensions` is asked for where the server knows the parameter, and checked in any case.

Not covered: keeping vectors (`move37.vectorising`), counting their tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agents.endpoint import Endpoint, open_endpoint
from agents.errors import VectorsMalformed
from agents.opening import DEFAULT_BASE_URL
from agents.wire import Failure, NoReply, refuse_error
from memory.errors import ValueRefused
from memory.vectors import EndpointText

if TYPE_CHECKING:
    from memory.vectors import Vectors

EMBEDDINGS_KEY_ENV_NAMES = ("MOVE37_EMBEDDINGS_API_KEY",)
BATCH = 64  # texts in one request

_VERSION = 1
_PROBE = "def build_mixer(d_model, layer_index, n_layers):"
_BLANK = "nothing"  # stands for a text without a word, which some servers refuse


def encoder(model: str, base_url: str | None, dimensions: int, max_chars: int) -> EndpointText:
    """What vectors of this model at this place are known by. Two servers may call two models by one name, so the place
    is part of it, as a hash."""
    told = json.dumps([model, base_url or DEFAULT_BASE_URL, dimensions, max_chars, _VERSION])
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._/-]", "_", model)[-60:]
    return EndpointText(f"endpoint-{readable}-{dimensions}-{digest}-v{_VERSION}", dimensions)


class EmbeddingModel:
    """One model at one endpoint. Build one with `open_embeddings`."""

    def __init__(self, endpoint: Endpoint, *, dimensions: int | None, max_chars: int, deadline_s: float) -> None:
        self._endpoint = endpoint
        self._dimensions = dimensions
        self._max_chars = max_chars
        self._deadline_s = deadline_s

    def __repr__(self) -> str:
        return f"EmbeddingModel(name={self._endpoint.name!r}, base_url={self._endpoint.base_url!r})"

    async def dimension(self) -> int:
        """How many dimensions its vectors have: asks for one.

        Raises:
            AgentError: as `embed`.
        """
        [row] = await self._rows([_PROBE])
        self._read([row], self._dimensions or len(row))
        return len(row)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """A vector for each text, in their order; at most `BATCH` of them. `dimensions` has to be known.

        Raises:
            ModelUnavailable, ModelRefused, DeadlineExceeded: as `Endpoint.call`.
            VectorsMalformed: the answer is not a vector for each.
        """
        if self._dimensions is None:
            raise AssertionError("embed needs to know the dimension: ask `dimension` first")
        return self._read(await self._rows(texts), self._dimensions)

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()

    async def _rows(self, texts: Sequence[str]) -> list[Sequence[float]]:
        asked = [self._sent(text) for text in texts]

        async def send(optional: Mapping[str, Any], timeout_s: float) -> Any:
            return await self._endpoint.client.embeddings.with_raw_response.create(
                model=self._endpoint.name, input=asked, encoding_format="float", timeout=timeout_s, **optional
            )

        rows, _ = await self._endpoint.call(
            send,
            lambda body: self._ordered(_data(body), len(asked)),
            {"dimensions": self._dimensions},
            request_hash=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            deadline_s=self._deadline_s,
        )
        return rows

    def _sent(self, text: str) -> str:
        cut = text[: self._max_chars].encode("utf-8", "backslashreplace").decode()
        return cut if cut.strip() else _BLANK

    def _ordered(self, data: list[Any], count: int) -> list[Sequence[float]]:
        items = [item for item in data if isinstance(item, Mapping) and isinstance(item.get("embedding"), list)]
        if len(items) != len(data) or len(data) != count:
            raise self._malformed(f"{len(items)} vectors in {len(data)} items for {count} texts")
        places = [item.get("index", place) for place, item in enumerate(items)]
        if sorted(map(str, places)) != sorted(map(str, range(count))):
            raise self._malformed(f"the vectors of {count} texts have the indices {places[:8]}")
        return [item["embedding"] for _, item in sorted(zip(places, items, strict=True), key=lambda pair: int(pair[0]))]

    def _read(self, rows: Sequence[Sequence[float]], dimensions: int) -> Vectors:
        try:
            return EndpointText("it", dimensions).read(rows, len(rows))
        except ValueRefused as error:
            raise self._malformed(error.why) from None

    def _malformed(self, why: str) -> VectorsMalformed:
        return VectorsMalformed(
            f"{self._endpoint.name} at {self._endpoint.base_url} does not answer with a usable vector for each text: "
            f"{why}. Check model and dimensions"
        )


def _data(body: Any) -> list[Any]:
    if not isinstance(body, Mapping):
        raise NoReply(Failure("the endpoint's reply is not a JSON object"))
    refuse_error(body)
    data = body.get("data")
    if not isinstance(data, list):
        raise NoReply(Failure("the endpoint's reply holds no embeddings"))
    return data


def open_embeddings(
    *,
    model: str,
    base_url: str | None,
    dimensions: int | None,
    max_chars: int,
    deadline_s: float,
    api_key: str | None,
    key_names: Sequence[str] = EMBEDDINGS_KEY_ENV_NAMES,
) -> EmbeddingModel:
    """The model at an endpoint, OpenAI's own without a base URL. `max_chars`: of a longer text, its beginning counts.

    Raises:
        EndpointInvalid, MissingKey: as `open_endpoint`.
    """
    endpoint = open_endpoint(model=model, base_url=base_url, api_key=api_key, key_names=key_names)
    return EmbeddingModel(endpoint, dimensions=dimensions, max_chars=max_chars, deadline_s=deadline_s)
