"""Neighbours by an embeddings endpoint: a real server on loopback, good, bad and away."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from memory.errors import Conflict
from memory.store import Store, open_store
from memory.vectors import EndpointText, to_bytes
from move37 import keys, launch
from move37.config import CampaignConfig, load, stored
from move37.errors import CampaignPaused, ConfigError, ReplayDiverged
from move37.forking import _laid_over
from move37.replaying import replay_campaign
from move37.vectorising import Hashed, Kept, encoder_of, open_embedding_model, stored_vectoriser
from move37.workspace import Workspace
from tests.move37.conftest import outcomes
from tests.move37.scripted import VECTOR_DIMENSIONS, ScriptedServer, free_port

TOY = EndpointText("toy", 2)


@pytest.fixture
def endpoint(scripted: ScriptedServer) -> Iterator[ScriptedServer]:
    scripted.encoded, scripted.keys, scripted.vectors = [], [], lambda texts: None
    yield scripted
    scripted.vectors = lambda texts: None


@pytest.fixture
def config(endpoint: ScriptedServer, tiny_config: Callable[..., CampaignConfig]) -> Callable[..., CampaignConfig]:
    def make(**overrides: Any) -> CampaignConfig:
        url = f"http://127.0.0.1:{endpoint.port}/v1"
        settings = {"embeddings__model": "scripted", "embeddings__base_url": url, "sandbox__backend": "process"}
        return tiny_config(**settings | {"experiments": 5, "seed": 5, **overrides})

    return make


def refusing(status: int, message: str) -> Callable[[list[str]], Response]:
    return lambda texts: JSONResponse({"error": {"message": message}}, status_code=status)


class TestKept:
    def asked(self, rows: Callable[[Sequence[str]], list[list[float]]]) -> tuple[Callable[..., Any], list[list[str]]]:
        seen: list[list[str]] = []

        async def ask(texts: Sequence[str]) -> Any:
            seen.append(list(texts))
            return TOY.read(rows(texts), len(texts))

        return ask, seen

    async def test_nothing_is_asked_for_twice(self) -> None:
        store = open_store("sqlite://")
        ask, seen = self.asked(lambda texts: [[3.0, 4.0]] * len(texts))
        texts = {f"key-{n:03d}": f"text {n}" for n in range(70)}
        first = await Kept(store, TOY, ask).vectors("program", texts)
        assert [len(batch) for batch in seen] == [64, 6]
        assert set(first) == set(texts)
        again = await Kept(store, TOY, ask).vectors("program", texts)
        assert len(seen) == 2
        np.testing.assert_array_equal(first["key-069"], again["key-069"])
        await Kept(store, TOY, ask).vectors("hypothesis", {"key-000": "text 0"})
        assert len(seen) == 3
        assert await Kept(store, TOY, ask).vectors("program", {}) == {}
        store.close()

    async def test_what_another_campaign_stored_meanwhile_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_store("sqlite://")
        theirs = to_bytes(TOY.read([[1.0, 0.0]], 1)[0])
        real, raced = store.put_vectors, []

        def late(kind: str, encoder: str, vectors: dict[str, bytes]) -> None:
            if not raced:
                raced.append(True)
                real(kind, encoder, {"a": theirs})
            real(kind, encoder, vectors)

        monkeypatch.setattr(store, "put_vectors", late)
        ask, _ = self.asked(lambda texts: [[0.0, 1.0]] * len(texts))
        made = await Kept(store, TOY, ask).vectors("program", {"a": "one", "b": "two"})
        np.testing.assert_array_equal(made["a"], [1.0, 0.0])
        np.testing.assert_array_equal(made["b"], [0.0, 1.0])
        with pytest.raises(Conflict):
            real("program", "toy", {"a": to_bytes(made["b"])})
        store.close()

    async def test_what_was_made_before_a_failure_is_kept(self) -> None:
        store = open_store("sqlite://")

        async def ask(texts: Sequence[str]) -> Any:
            if len(texts) < 64:
                raise CampaignPaused("away")
            return TOY.read([[3.0, 4.0]] * len(texts), len(texts))

        with pytest.raises(CampaignPaused):
            await Kept(store, TOY, ask).vectors("program", {f"{n}": f"{n}" for n in range(65)})
        assert len(store.vectors("program", "toy")) == 64
        store.close()


class TestConfiguration:
    def test_hashed_text_is_the_default_and_needs_nothing(self, tiny_config: Callable[..., CampaignConfig]) -> None:
        config = launch.resolved(tiny_config())
        assert open_embedding_model(config) is None
        store = open_store("sqlite://")
        assert isinstance(stored_vectoriser(store, config), Hashed)
        store.close()
        before = config.frozen()
        del before["embeddings"]
        assert stored(before).embeddings.hashed

    def test_a_place_without_a_model_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="need embeddings"):
            load(None, {"embeddings.base_url": "http://127.0.0.1:1/v1"})
        with pytest.raises(ConfigError, match="need embeddings"):
            load(None, {"embeddings.model": "hashed", "embeddings.dimensions": 8})

    def test_the_dimension_is_found_out_and_frozen(self, config: Callable[..., CampaignConfig]) -> None:
        settings = launch.resolved(config(search__exemplars=0))  # or every neighbour is shown in full already
        assert settings.embeddings.dimensions == VECTOR_DIMENSIONS
        assert encoder_of(stored(settings.frozen())).dimensions == VECTOR_DIMENSIONS

    @pytest.mark.parametrize(
        ("scripted_reply", "overrides", "error", "told"),
        [
            (refusing(401, "Incorrect API key provided"), {}, ConfigError, r"auth.*check the API key"),
            (refusing(404, "The model `scripted` does not exist"), {}, ConfigError, "not_found.*check the model name"),
            (None, {"embeddings__dimensions": 7}, ConfigError, f"{VECTOR_DIMENSIONS} dimensions and not 7"),
            (lambda texts: Response(b"<html>", status_code=503), {}, CampaignPaused, "attempt 5 of 5"),
            (None, {"embeddings__base_url": "ftp://x/v1"}, ConfigError, "not of the form"),
            (None, {"embeddings__base_url": "https://api.example.org/v1"}, ConfigError, "MOVE37_EMBEDDINGS_API_KEY"),
        ],
        ids=["wrong key", "unknown model", "wrong dimension", "garbage", "no URL", "no key"],
    )
    def test_what_cannot_work_is_told_before_anything_starts(
        self,
        endpoint: ScriptedServer,
        config: Callable[..., CampaignConfig],
        monkeypatch: pytest.MonkeyPatch,
        scripted_reply: Callable[[list[str]], Response] | None,
        overrides: dict[str, Any],
        error: type[Exception],
        told: str,
    ) -> None:
        monkeypatch.setattr("agents.attempts.BACKOFF_FIRST_S", 0.01)
        endpoint.vectors = scripted_reply or endpoint.vectors
        with pytest.raises(error, match=told):
            launch.resolved(config(**overrides))

    def test_a_server_that_never_answers_is_waited_for_no_longer_than_the_deadline(
        self, config: Callable[..., CampaignConfig]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            started = time.monotonic()
            with pytest.raises(CampaignPaused, match=r"within 0\.5 s"):
                launch.resolved(config(embeddings__base_url=url, embeddings__call_deadline_s=0.5))
            assert time.monotonic() - started < 10

    def test_its_key_is_its_own_and_the_models_goes_nowhere_else(
        self, endpoint: ScriptedServer, config: Callable[..., CampaignConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MOVE37_API_KEY", "key-of-the-model")
        launch.resolved(config())
        url = config().embeddings.base_url
        launch.resolved(config(model__name="scripted", model__base_url=url))
        monkeypatch.setenv("MOVE37_EMBEDDINGS_API_KEY", "key-of-its-own")
        launch.resolved(config())
        assert endpoint.keys == ["none", "key-of-the-model", "key-of-its-own"]
        keys.withdraw()
        assert not {"MOVE37_API_KEY", "MOVE37_EMBEDDINGS_API_KEY"} & os.environ.keys()
        assert keys.embeddings_key() == "key-of-its-own"

    def test_a_fork_may_change_it_and_does_not_keep_the_old_dimension(
        self, config: Callable[..., CampaignConfig]
    ) -> None:
        old = config(embeddings__dimensions=VECTOR_DIMENSIONS)
        assert _laid_over(old, [{}]).embeddings == old.embeddings
        assert _laid_over(old, [{"embeddings": {"model": "other"}}]).embeddings.dimensions is None
        hashed = _laid_over(old, [{"embeddings": {"model": "hashed"}}]).embeddings
        assert (hashed.hashed, hashed.base_url, hashed.dimensions) == (True, None, None)


Run = Callable[..., tuple[Store, launch.Launched, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a campaign in a memory of its own, or goes on with one."""
    stores: dict[str, Store] = {}

    def go(config: CampaignConfig, place: str = "one") -> tuple[Store, launch.Launched, list[str]]:
        workspace = Workspace(tmp_path / place, f"sqlite:///{tmp_path}/{place}.db")
        if place not in stores:
            stores[place] = workspace.open(create=True)
        store, told = stores[place], []
        campaign = next(iter(store.campaigns()), None)
        launched = launch.execute(
            workspace, store, config, campaign, notify=lambda kind, payload: None, announce=told.append
        )
        return store, launched, told

    yield go
    for store in stores.values():
        store.close()


@pytest.mark.thorough
@pytest.mark.campaign
def test_a_campaign_with_an_endpoint_encodes_once_and_replays_without_network(
    endpoint: ScriptedServer, config: Callable[..., CampaignConfig], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = launch.resolved(config(search__exemplars=0))  # or every neighbour is shown in full already
    endpoint.encoded.clear()
    store, launched, told = run(settings)
    assert launched.ending.state == "finished"
    assert any("embeddings scripted: programs and hypotheses are sent to http://127.0.0.1" in one for one in told)
    assert len(endpoint.encoded) == len(set(endpoint.encoded)) > 4
    name = encoder_of(settings).name
    kept = [*store.vectors("program", name), *store.vectors("hypothesis", name)]
    assert len(kept) == len(endpoint.encoded)
    prompts = [x.request["messages"][-1]["content"] for x in store.exchanges(campaign_id=launched.campaign.id)]
    assert any("program similar by" in prompt for prompt in prompts)

    endpoint.encoded.clear()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the replay asked the network"))
    replayed = replay_campaign(store, launched.campaign)
    assert replayed.identical, replayed.differences
    assert endpoint.encoded == []
    monkeypatch.setattr(Store, "vectors", lambda *_: [])
    with pytest.raises(ReplayDiverged, match="not in this memory"):
        replay_campaign(store, launched.campaign)


@pytest.mark.thorough
@pytest.mark.campaign
def test_a_campaign_whose_endpoint_goes_away_stops_and_goes_on_where_it_was(
    endpoint: ScriptedServer, config: Callable[..., CampaignConfig], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = launch.resolved(config(search__exemplars=0))  # or every neighbour is shown in full already
    endpoint.encoded.clear()
    away = refusing(401, "the key was revoked")
    endpoint.vectors = lambda texts: away(texts) if len(endpoint.encoded) > 3 else None
    store, launched, _ = run(settings)
    assert (launched.campaign.state, launched.campaign.stopped_because) == ("stopped", "infrastructure")
    assert isinstance(launched.ending.error, CampaignPaused)
    assert "the embeddings endpoint cannot be used" in str(launched.ending.error)
    assert "the key was revoked" in str(launched.ending.error)
    assert not all(e.finished for e in store.experiments(launched.campaign.id)) or len(outcomes(store, "tiny")) < 5

    endpoint.vectors = lambda texts: None
    store, launched, _ = run(settings)
    assert launched.ending.state == "finished"
    assert len(endpoint.encoded) == len(set(endpoint.encoded))
    assert replay_campaign(store, launched.campaign).identical


def test_an_endpoint_that_is_not_there_is_infrastructure(
    config: Callable[..., CampaignConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.attempts.BACKOFF_FIRST_S", 0.01)
    with pytest.raises(CampaignPaused, match="no connection"):
        launch.resolved(config(embeddings__base_url=f"http://127.0.0.1:{free_port()}/v1"))


def test_hashed_vectors_are_those_of_before() -> None:
    from memory.vectors import HashedText

    made = asyncio.run(Hashed().vectors("program", {"a": "x = 1\n", "b": "y = 2\n"}))
    np.testing.assert_array_equal(np.stack(list(made.values())), HashedText("program").encode(["x = 1\n", "y = 2\n"]))
    assert asyncio.run(Hashed().vectors("program", {})) == {}
