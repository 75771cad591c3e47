"""From a configuration to a model: substitutes and their keys, cassettes, context windows."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agents import discovery
from agents.cassettes import Cassette, CassetteModel
from agents.errors import EndpointInvalid, MissingKey
from agents.fallback import FallbackModel
from agents.gateway import OpenAIChatModel
from move37 import forking, keys, launch, windows
from move37.config import CampaignConfig, EmbeddingsConfig, ModelConfig, load, stored
from move37.errors import CampaignPaused, ConfigError
from move37.models import CassetteChoice, open_chat_model
from tests.move37.scripted import free_port

LOCAL = "http://127.0.0.1:9/v1"
REMOTE = "https://api.example.org/v1"
Configured = Callable[..., CampaignConfig]


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MOVE37_API_KEY", "OPENAI_API_KEY", "OTHER_API_KEY", "MOVE37_CASSETTE", "MOVE37_CASSETTE_MODE"):
        monkeypatch.delenv(name, raising=False)


def model_of(text: str, tmp_path: Path) -> CampaignConfig:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return load(path, {})


TOML = """
[model]
name = "big"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 1.0
output_usd_per_million = 2.0
requests_per_minute = 60
tokens_per_minute = 100000
concurrency = 4
max_output_tokens = 8000
context_tokens = 128000

[[model.fallbacks]]
name = "small"

[[model.fallbacks]]
name = "other"
base_url = "https://api.example.org/v1"
api_key_env = "OTHER_API_KEY"
requests_per_minute = 5
"""


async def test_substitutes_are_opened_each_with_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_of(TOML, tmp_path)
    with pytest.raises(MissingKey, match="OTHER_API_KEY"):
        open_chat_model(config)
    monkeypatch.setenv("MOVE37_API_KEY", "first-key")
    with pytest.raises(MissingKey, match="OTHER_API_KEY"):  # the first one's key is not for strangers
        open_chat_model(config)
    monkeypatch.setenv("OTHER_API_KEY", "second-key")
    model = open_chat_model(config)
    assert isinstance(model, FallbackModel)
    opened = [one for one in model._models if isinstance(one, OpenAIChatModel)]
    assert [(one.name, one._base_url, one._client.api_key) for one in opened] == [
        ("big", LOCAL, "first-key"),
        ("small", LOCAL, "first-key"),
        ("other", REMOTE, "second-key"),
    ]
    assert opened[0]._limiter._limits.requests_per_minute == 60
    assert opened[1]._limiter._limits.requests_per_minute is None
    assert opened[2]._limiter._limits.requests_per_minute == 5
    assert all(one._settings.max_output_tokens == 8000 for one in opened)
    await model.close()


def test_keys_of_substitutes_are_withdrawn_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("OTHER_API_KEY", "second-key")
    keys.withdraw(["OTHER_API_KEY"])
    assert "OTHER_API_KEY" not in os.environ
    assert keys.setting("OTHER_API_KEY") == "second-key"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('[[model.fallbacks]]\nname = "x"\napi_key_env = "PATH"', "the key itself does not belong"),
        ('[[model.fallbacks]]\nname = "x"\napi_key_env = "sk-0123"', "the key itself does not belong"),
        ('[[model.fallbacks]]\nbase_url = "http://127.0.0.1/v1"', "name"),
        ('[[model.fallbacks]]\nname = "x"\n[budget]\nusd = 1.0', "of every fallback"),
        ("requests_per_minute = 0", "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: str, says: str) -> None:
    priced = '[model]\nname = "m"\ninput_usd_per_million = 1.0\noutput_usd_per_million = 1.0\n'
    with pytest.raises(ConfigError, match=says):
        model_of(priced + more, tmp_path)


def test_a_fork_to_another_model_leaves_what_belonged_to_the_old_one(tmp_path: Path) -> None:
    config = model_of(TOML, tmp_path)
    patient = config.model_copy(update={"model": config.model.model_copy(update={"call_deadline_s": 9.0})})
    kept = forking._laid_over(patient, [{"model": {"name": "big"}}]).model
    assert kept == patient.model
    other = forking._laid_over(patient, [{"model": {"name": "another", "concurrency": 2}}]).model
    assert other == ModelConfig(name="another", base_url=LOCAL, call_deadline_s=9.0, concurrency=2)
    assert forking._laid_over(patient, [{"model": {"name": "move37-grammar"}}]).model.embedded


def test_the_grammar_needs_no_substitute(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="always answers"):
        model_of('[[model.fallbacks]]\nname = "x"', tmp_path)


def test_settings_that_came_later_leave_stored_campaigns_readable_and_their_hash_as_it_was() -> None:
    """The hash is taken over what the version before these settings would have written down."""
    config = CampaignConfig()
    model = ModelConfig(name="m", base_url="http://127.0.0.1/v1", input_usd_per_million=1.0)
    named = CampaignConfig(model=model)
    written = named.frozen()
    before = ("name", "base_url", "input_usd_per_million", "output_usd_per_million", "call_deadline_s")
    written["model"] = {key: written["model"][key] for key in before}
    del written["name"]
    canonical = json.dumps(written, sort_keys=True, separators=(",", ":"))
    assert named.config_hash() == hashlib.sha256(canonical.encode()).hexdigest()
    old = config.frozen()
    for key in set(old["model"]) - {
        "name",
        "base_url",
        "input_usd_per_million",
        "output_usd_per_million",
        "call_deadline_s",
    }:
        del old["model"][key]
    assert stored(old).config_hash() == config.config_hash()
    limited = CampaignConfig(model=model.model_copy(update={"max_output_tokens": 5}))
    assert limited.config_hash() != named.config_hash()


def test_a_cassette_is_named_by_flags_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path("c.jsonl")
    assert CassetteChoice.wanted(None, None) is None
    assert CassetteChoice.wanted(here, "off") is None
    assert CassetteChoice.wanted(here, "record") == CassetteChoice(here, "record")
    for path, mode, says in (
        (here, "rewind", "no cassette mode"),
        (None, "replay", "needs a cassette"),
        (here, None, "what is to"),
    ):
        with pytest.raises(ConfigError, match=says):
            CassetteChoice.wanted(path, mode)
    monkeypatch.setenv("MOVE37_CASSETTE", "e.jsonl")
    monkeypatch.setenv("MOVE37_CASSETTE_MODE", "replay")
    assert CassetteChoice.wanted(None, None) == CassetteChoice(Path("e.jsonl"), "replay")
    assert CassetteChoice.wanted(here, "record") == CassetteChoice(here, "record")
    assert CassetteChoice.wanted(None, "off") is None


async def test_a_replay_needs_neither_key_nor_network(tmp_path: Path) -> None:
    config = CampaignConfig(model=ModelConfig(name="gpt-none"))
    chosen_cassette = CassetteChoice(tmp_path / "c.jsonl", "record")
    with pytest.raises(MissingKey):
        open_chat_model(config, chosen_cassette)
    assert not chosen_cassette.path.exists()
    Cassette.opened(chosen_cassette.path).close()
    player = open_chat_model(config, CassetteChoice(tmp_path / "c.jsonl", "replay"))
    assert isinstance(player, CassetteModel)
    assert (player.name, player.kind) == ("gpt-none", "replay")
    await player.close()


async def test_a_cassette_s_programs_are_never_trusted_whoever_recorded_it(tmp_path: Path) -> None:
    recorder = open_chat_model(CampaignConfig(), CassetteChoice(tmp_path / "c.jsonl", "record"))
    assert recorder.kind != "grammar"
    await recorder.close()


def test_a_replay_takes_name_and_salt_from_the_cassette(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    Cassette.opened(path, {"salt": "pepper"}).close()
    chosen_cassette = CassetteChoice(path, "replay")
    assert launch.resolved(CampaignConfig(), chosen_cassette).objective.salt == "pepper"
    with pytest.raises(ConfigError, match="no model"):
        launch.resolved(CampaignConfig(model=ModelConfig(base_url=LOCAL)), chosen_cassette)


def test_a_replay_asks_the_embeddings_endpoint_whose_vectors_no_cassette_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.attempts.BACKOFF_FIRST_S", 0.01)
    path = tmp_path / "c.jsonl"
    Cassette.opened(path).close()
    place = f"http://127.0.0.1:{free_port()}/v1"
    config = CampaignConfig(embeddings=EmbeddingsConfig(model="e", base_url=place))
    with pytest.raises(CampaignPaused, match="embeddings endpoint cannot be used"):
        launch.resolved(config, CassetteChoice(path, "replay"))


def test_the_window_has_to_hold_the_contract_a_starter_and_a_reply() -> None:
    config = CampaignConfig(model=ModelConfig(name="m", base_url=LOCAL))
    needed = windows.need(config)
    assert needed.instructions > 1000  # role, contract, tasks
    assert needed.reply > 300
    with pytest.raises(ConfigError, match=rf"has 2048 tokens; the smallest prompt .* needs about {needed.tokens}"):
        windows.fitted(config, 2048)
    assert windows.fitted(config, None) is config
    assert windows.fitted(config, 10**6) is config
    assert windows.fitted(config, 8192).search.prompt_tokens == 8192 - needed.reply


def test_a_longer_reply_needs_a_longer_window() -> None:
    config = CampaignConfig(model=ModelConfig(name="m", base_url=LOCAL, max_output_tokens=6000))
    with pytest.raises(ConfigError, match="6000 for the reply"):
        windows.fitted(config, 8192)


def test_a_configured_window_that_is_too_small_is_told_before_anything_starts() -> None:
    config = CampaignConfig(model=ModelConfig(name="m", base_url=LOCAL, context_tokens=2048))
    with pytest.raises(ConfigError, match="longer context"):
        launch.resolved(config)
    with pytest.raises(ConfigError, match="context window of move37-grammar has 100"):
        launch.resolved(CampaignConfig(model=ModelConfig(context_tokens=100)))


@asynccontextmanager
async def listing(*entries: dict[str, Any]) -> AsyncIterator[str]:
    page = {"object": "list", "data": [{"object": "model", "created": 0, **e} for e in entries]}
    async with answering(Response(json.dumps(page), media_type="application/json")) as url:
        yield url


@asynccontextmanager
async def answering(response: Response) -> AsyncIterator[str]:
    async def models(_: Any) -> Response:
        return response

    import asyncio

    port = free_port()
    app = Starlette(routes=[Route("/v1/models", models)])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    await task


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"context_length": 8192}, 8192),
        ({"meta": {"n_ctx_train": 131072}}, 131072),
        ({"loaded_context_length": 2048, "max_context_length": 9000}, 2048),
        ({}, None),
        ({"max_model_len": "many", "context_length": -1}, None),
        ({"id": "another", "max_model_len": 4096}, None),
    ],
)
async def test_windows_are_read_where_servers_list_them(entry: dict[str, Any], window: int | None) -> None:
    async with listing({"id": "m", **entry}) as url:
        assert await discovery.context_tokens(url, None, "m") == window


async def test_an_endpoint_that_lists_nothing_has_no_known_window() -> None:
    assert await discovery.context_tokens(f"http://127.0.0.1:{free_port()}/v1", None, "m") is None


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ('{"data": ["a"]}', "application/json"),
        ('{"data": [{"name": "m"}, {"id": null}]}', "application/json"),
        ('{"data": null}', "application/json"),
        ('{"data": {"m": 1}}', "application/json"),
        ("[]", "application/json"),
        ("null", "application/json"),
        ("{bad", "application/json"),
        ("[" * 100_000, "application/json"),
        ("<html>a login page</html>", "text/html"),
        (b"\xff\xfe", "application/json"),
    ],
)
async def test_what_is_no_listing_is_said_to_be_none(body: str | bytes, media_type: str) -> None:
    """A proxy's login page, a half-written server: a usage error that says what to do, and no traceback."""
    async with answering(Response(body, media_type=media_type)) as url:
        assert await discovery.context_tokens(url, None, "m") is None
        with pytest.raises(EndpointInvalid, match=r"[Nn]ame (the )?one"):
            await discovery.only_model(url, None)
