"""Where the vectors of programs and hypotheses come from: hashed text in process, or an endpoint, kept in the store.

What an endpoint made is stored before it is used, and what is stored is never asked for again: the same memory gives
the same neighbours, whatever the endpoint would answer today, and a replay needs none. Its vectors are never mixed with
hashed ones: a campaign whose endpoint is away stops, and goes on where it was when the endpoint is back. To fall back
would be to write prompts by a rule that changes with the network.

Not covered: which texts, and what is near to what (`recalling`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from agents import embeddings
from agents.embeddings import BATCH, EmbeddingModel, open_embeddings
from agents.errors import AgentError
from agents.opening import KEY_ENV_NAMES
from memory.errors import Conflict
from memory.store import Store
from memory.vectors import Encoder, EndpointText, HashedText, Kind, from_bytes, to_bytes
from move37.config import CampaignConfig
from move37.errors import CampaignPaused, ReplayDiverged
from move37.keys import api_key, embeddings_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from memory.vectors import Vectors

    ByKey = Mapping[str, NDArray[np.float32]]
    "Shape (d,) each."


class Vectoriser(Protocol):
    """Makes vectors of texts that are known by keys. A key's text never changes."""

    def encoder(self, kind: Kind) -> Encoder:
        """Whose vectors they are."""

    async def vectors(self, kind: Kind, texts: Mapping[str, str]) -> "ByKey":
        """A vector for each text."""


class Hashed:
    """The default: in process, nothing to keep."""

    def encoder(self, kind: Kind) -> Encoder:
        return HashedText(kind)

    async def vectors(self, kind: Kind, texts: Mapping[str, str]) -> "ByKey":
        return dict(zip(texts, HashedText(kind).encode(list(texts.values())), strict=True))


Ask = Callable[[Sequence[str]], "Awaitable[Vectors]"]


class Kept:
    """Vectors as they are stored; what is not there yet is asked for, a batch at a time, and stored at once.

    Programs are known by their hash and hypotheses by their experiment, so that an exported campaign takes its vectors
    along.
    """

    def __init__(self, store: Store, encoder: EndpointText, ask: Ask) -> None:
        self._store = store
        self._encoder = encoder
        self._ask = ask

    def encoder(self, kind: Kind) -> Encoder:
        return self._encoder

    async def vectors(self, kind: Kind, texts: Mapping[str, str]) -> "ByKey":
        there = self._stored(kind, list(texts))
        missing = iter([key for key in texts if key not in there])
        while some := list(islice(missing, BATCH)):
            made = await self._ask([texts[key] for key in some])
            self._keep(kind, {key: to_bytes(vector) for key, vector in zip(some, made, strict=True)})
            there |= self._stored(kind, some)
        return dict(zip(there, from_bytes(list(there.values()), self._encoder), strict=True))

    def _stored(self, kind: Kind, keys: Sequence[str]) -> dict[str, bytes]:
        return {one.key: one.data for one in self._store.vectors(kind, self._encoder.name, keys)}

    def _keep(self, kind: Kind, made: Mapping[str, bytes]) -> None:
        """Stores what is not there. Where another campaign asked for the same meanwhile, the first answer holds."""
        while True:
            there = self._stored(kind, list(made))
            fresh = {key: data for key, data in made.items() if key not in there}
            try:
                self._store.put_vectors(kind, self._encoder.name, fresh)
            except Conflict:  # stored between the question and the answer
                continue
            return


def encoder_of(config: CampaignConfig) -> EndpointText:
    """What the endpoint's vectors are known by; the dimension has been found out when the campaign was launched."""
    settings = config.embeddings
    if settings.model is None or settings.dimensions is None:
        raise AssertionError("a campaign with an embeddings endpoint is stored with its model and dimension")
    return embeddings.encoder(settings.model, settings.base_url, settings.dimensions, settings.max_chars)


def open_embedding_model(config: CampaignConfig) -> EmbeddingModel | None:
    """The model that the configuration names; None where text is hashed.

    The key is the endpoint's own. The language model's is sent only to where it goes anyway.

    Raises:
        EndpointInvalid, MissingKey: as `agents.embeddings.open_embeddings`.
    """
    settings = config.embeddings
    if settings.hashed or settings.model is None:
        return None
    shared = settings.base_url == config.model.base_url
    names = (*embeddings.EMBEDDINGS_KEY_ENV_NAMES, *(KEY_ENV_NAMES if shared else ()))
    return open_embeddings(
        model=settings.model,
        base_url=settings.base_url,
        dimensions=settings.dimensions,
        max_chars=settings.max_chars,
        deadline_s=settings.call_deadline_s,
        api_key=embeddings_key() or (api_key() if shared else None),
        key_names=names,
    )


def vectoriser(store: Store, config: CampaignConfig, model: EmbeddingModel | None) -> Vectoriser:
    """That of a campaign that runs. An endpoint that cannot be used stops it (CampaignPaused)."""
    if model is None:
        return Hashed()

    async def ask(texts: Sequence[str]) -> "Vectors":
        try:
            return await model.embed(texts)
        except AgentError as error:
            raise CampaignPaused(f"the embeddings endpoint cannot be used: {error}") from error

    return Kept(store, encoder_of(config), ask)


def stored_vectoriser(store: Store, config: CampaignConfig) -> Vectoriser:
    """That of a replay: what is not stored is a divergence (ReplayDiverged)."""
    if config.embeddings.hashed:
        return Hashed()
    encoder = encoder_of(config)

    async def ask(texts: Sequence[str]) -> "Vectors":
        raise ReplayDiverged(
            f"the replay needs vectors of {len(texts)} texts by {encoder.name}, which are not in this memory"
        )

    return Kept(store, encoder, ask)
