"""The model that a configuration names: endpoint, limits and prices, its substitutes, the cassette before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents.cassettes import Cassette, CassetteMode, CassetteModel
from agents.embedded.notice import NOTICES
from agents.fallback import FallbackModel, OnSwitch
from agents.gateway import ChatModel
from agents.limits import Limits
from agents.opening import open_model
from agents.parameters import Settings
from move37.config import CampaignConfig, FurtherModel, ModelConfig
from move37.errors import ConfigError
from move37.keys import api_key, setting


@dataclass(frozen=True)
class CassetteChoice:
    """Which cassette stands before the model, and what is done with it. See `agents.cassettes`."""

    path: Path
    mode: CassetteMode

    @classmethod
    def wanted(cls, path: Path | None, mode: str | None) -> "CassetteChoice | None":
        """From flags, else from MOVE37_CASSETTE and MOVE37_CASSETTE_MODE; None without a path or with the mode off.

        Raises:
            ConfigError: an unknown mode, or a mode without a cassette.
        """
        named_outside = setting("MOVE37_CASSETTE")
        wanted = path or (Path(named_outside) if named_outside else None)
        chosen = mode or setting("MOVE37_CASSETTE_MODE")
        if wanted is None:
            if mode not in {None, "off"}:
                raise ConfigError("--cassette-mode needs a cassette: name its file with --cassette")
            return None
        for known in ("record", "replay"):
            if chosen == known:
                return cls(wanted, known)
        if chosen == "off":
            return None
        if chosen is None:
            raise ConfigError(f"what is to be done with the cassette {wanted}? --cassette-mode record, replay or off")
        raise ConfigError(f"there is no cassette mode {chosen!r}: there are record, replay and off")

    @property
    def replays(self) -> bool:
        """Whether no model is asked at all."""
        return self.mode == "replay"


def open_chat_model(
    config: CampaignConfig,
    chosen_cassette: CassetteChoice | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    on_switch: OnSwitch = lambda old, new, why: None,
) -> ChatModel:
    """The model that the configuration names, over the one gateway; behind a cassette, if one is chosen. A new cassette
    gets `labels`.

    Raises:
        EndpointInvalid: an address or a name cannot be used.
        MissingKey: a remote endpoint without a key.
        CassetteInvalid: the cassette cannot be used.
    """
    first = config.model.model_copy(update={"others": ()})
    only = config.model_copy(update={"model": first})
    return open_chat_models(only, chosen_cassette, labels=labels, on_switch=on_switch)[first.names[0]]


def open_chat_models(
    config: CampaignConfig,
    chosen_cassette: CassetteChoice | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    on_switch: OnSwitch = lambda old, new, why: None,
) -> dict[str, ChatModel]:
    """Every model that experiments are given to, by name, the first one first; all behind one cassette, if one is
    chosen. Raises as `open_chat_model`."""
    settings = config.model
    name, *names = settings.names
    open_it: dict[str, Callable[[], ChatModel]] = {name: partial(_live, settings, on_switch)}
    for other, further in zip(names, settings.others, strict=True):
        open_it[other] = partial(_other, settings, further)
    replays = chosen_cassette is not None and chosen_cassette.replays
    live = {} if replays else {one: opened() for one, opened in open_it.items()}
    if chosen_cassette is None:
        return live
    path = chosen_cassette.path
    cassette = Cassette.read(path) if replays else Cassette.opened(path, labels)
    secrets = keys(settings)
    return {one: CassetteModel(cassette, live.get(one), name=one, secrets=secrets) for one in open_it}


def keys(settings: ModelConfig) -> list[str | None]:
    """All keys that models of this configuration are sent."""
    return [api_key(), *(setting(name) for name in key_variables(settings))]


def key_variables(settings: ModelConfig) -> list[str]:
    """The environment variables that hold keys of models beside the first."""
    return [one.api_key_env for one in (*settings.fallbacks, *settings.others) if one.api_key_env]


def _live(settings: ModelConfig, on_switch: OnSwitch) -> ChatModel:
    if settings.base_url is None and settings.name in {None, *NOTICES}:
        return open_model(model=settings.name)
    first = open_model(
        model=settings.name,
        base_url=settings.base_url,
        api_key=api_key(),
        prices=settings.prices,
        settings=_asked(settings),
        limits=_limits(settings),
    )
    if not settings.fallbacks:
        return first
    return FallbackModel([first, *(_substitute(settings, one) for one in settings.fallbacks)], on_switch=on_switch)


def _other(settings: ModelConfig, further: FurtherModel) -> ChatModel:
    if further.name in NOTICES and further.base_url is None:
        return open_model(model=further.name)
    return _substitute(settings, further)


def _substitute(settings: ModelConfig, fallback: FurtherModel) -> ChatModel:
    """A key goes to the endpoint that it was given for, never to another one because that was named as well."""
    here = fallback.base_url in {None, settings.base_url}
    key = setting(fallback.api_key_env) if fallback.api_key_env else api_key() if here else None
    return open_model(
        model=fallback.name,
        base_url=settings.base_url if here else fallback.base_url,
        api_key=key,
        key_variables=[fallback.api_key_env or "api_key_env"],
        prices=fallback.prices,
        settings=_asked(settings),
        limits=_limits(fallback),
    )


def _asked(settings: ModelConfig) -> Settings:
    return Settings(max_output_tokens=settings.max_output_tokens, check_truncation=settings.check_truncation)


def _limits(endpoint: ModelConfig | FurtherModel) -> Limits:
    return Limits(endpoint.requests_per_minute, endpoint.tokens_per_minute, endpoint.concurrency)
