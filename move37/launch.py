"""The composition root: from a configuration (new) or a stored campaign (resume) to a running loop.

What is unusual about a campaign (the embedded model is a grammar, the process backend isolates nothing, a key was not
needed) is announced once on screen and kept in the campaign's record.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agents.cassettes import Cassette
from agents.discovery import context_tokens, only_model
from agents.embedded.notice import ARMS, EMBEDDED_MODEL, NOTICES
from agents.errors import (
    DeadlineExceeded,
    EndpointInvalid,
    MissingKey,
    ModelRefused,
    ModelUnavailable,
    VectorsMalformed,
)
from agents.gateway import ChatModel
from agents.opening import DEFAULT_BASE_URL
from evaluator import tiers
from evaluator.objective import objective, objective_hash
from memory.records import Campaign, Experiment
from memory.store import Store
from move37 import briefing, brought, templates, windows
from move37.budget import Budget
from move37.campaign import Ending, drive
from move37.config import CampaignConfig, stored
from move37.errors import CampaignPaused, ConfigError
from move37.keys import api_key, withdraw
from move37.laboratory import Laboratory, SandboxLaboratory, require_accelerator
from move37.loop import Loop, Notify, Visibility
from move37.models import CassetteChoice, key_variables, open_chat_models
from move37.recalling import Recollection
from move37.turnstile import Turnstile
from move37.vectorising import open_embedding_model, vectoriser
from move37.workspace import Workspace
from prompts.loader import Prompts
from sandbox.selection import Equipment, Opened, open_sandbox

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Launched:
    """A campaign after a stretch of running."""

    campaign: Campaign
    ending: Ending


def resolved(config: CampaignConfig, chosen_cassette: CassetteChoice | None = None) -> CampaignConfig:
    """The configuration with what only the endpoint or the cassette knows filled in: the model's name, where only a
    base URL was given and it serves one model; what of a prompt fits into its context window; a cassette's salt; the
    dimension of an embeddings endpoint.

    Raises:
        ConfigError: a remote endpoint without a key, an unusable base URL, no or several models, a context window that
            does not hold the smallest prompt, a cassette that cannot be used; an embeddings endpoint that refuses, or
            answers with other vectors than configured.
        CampaignPaused: an endpoint cannot be reached.
        GpuUnavailable: the tier needs a GPU and there is none.
    """
    require_accelerator(config.objective.track, config.objective.tier)
    if chosen_cassette is not None and (chosen_cassette.replays or chosen_cassette.path.exists()):
        config = _as_recorded(config, chosen_cassette)
    if chosen_cassette is None or not chosen_cassette.replays:
        config = _as_served(config)
    config = _measured(config)
    return _salted(windows.fitted(config, config.model.context_tokens))


def _as_served(config: CampaignConfig) -> CampaignConfig:
    """What the endpoint knows. Nothing is written before it is known that the model can be asked."""
    try:
        if config.model.base_url is not None and config.model.name is None:
            config = _with_model(config, name=asyncio.run(only_model(config.model.base_url, api_key())))
        open_chat_models(config)
    except (EndpointInvalid, MissingKey) as error:
        raise ConfigError(f"{error}. Without --model and --base-url the embedded grammar model answers.") from error
    except ModelUnavailable as error:
        raise CampaignPaused(str(error)) from error
    named = config.model
    if named.context_tokens is None and named.base_url is not None and named.name is not None:
        window = asyncio.run(context_tokens(named.base_url, api_key(), named.name))
        config = windows.fitted(config, window)
    return config


def _measured(config: CampaignConfig) -> CampaignConfig:
    """Asks the embeddings endpoint, if there is one, for the dimension of its vectors, and freezes it."""
    try:
        dimensions = asyncio.run(_dimension(config))
    except (EndpointInvalid, MissingKey, ModelRefused, VectorsMalformed) as error:
        raise ConfigError(f"{error}. Without embeddings.model no endpoint is asked: text is hashed.") from error
    except (ModelUnavailable, DeadlineExceeded) as error:
        raise CampaignPaused(f"the embeddings endpoint cannot be used: {error}") from error
    return config.model_copy(update={"embeddings": config.embeddings.model_copy(update={"dimensions": dimensions})})


async def _dimension(config: CampaignConfig) -> int | None:
    model = open_embedding_model(config)
    if model is None:
        return None
    try:
        return await model.dimension()
    finally:
        await model.close()


def _as_recorded(config: CampaignConfig, chosen_cassette: CassetteChoice) -> CampaignConfig:
    """What the cassette knows: the one model it replays, and the salt, without which no score would be the same."""
    cassette = Cassette.read(chosen_cassette.path)
    if chosen_cassette.replays and config.model.base_url is not None and config.model.name is None:
        if len(cassette.models) != 1:
            raise ConfigError(
                f"the cassette {chosen_cassette.path} holds {', '.join(cassette.models) or 'no model'}: name one"
            )
        config = _with_model(config, name=cassette.models[0])
    salt = cassette.labels.get("salt")
    if config.objective.salt is None and salt is not None:
        config = config.model_copy(update={"objective": config.objective.model_copy(update={"salt": salt})})
    return config


def _with_model(config: CampaignConfig, **changes: Any) -> CampaignConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def _salted(config: CampaignConfig) -> CampaignConfig:
    """Freezes the salt of the evaluation data. See `ObjectiveConfig`."""
    if config.objective.salt is not None:
        return config
    grammar = config.model.embedded or (config.model.name in NOTICES and not config.model.others)
    salt = "" if grammar else secrets.token_hex(16)
    return config.model_copy(update={"objective": config.objective.model_copy(update={"salt": salt})})


def check_name(store: Store, name: str) -> None:
    """Raises ConfigError when a campaign has this name."""
    if any(c.name == name for c in store.campaigns()):
        raise ConfigError(
            f"there is a campaign named '{name}' already: `move37 resume {name}` continues it, "
            "--name chooses another name"
        )


def start(store: Store, config: CampaignConfig, node: Experiment | None = None) -> Campaign:
    """Creates the campaign's record: configuration and objective frozen and hashed.

    With `node` it is a fork that goes on from that experiment, and runs no starters.

    Raises:
        ConfigError: the name is taken.
    """
    check_name(store, config.name)
    goal = config.objective
    decides: dict[str, Any] = {"salt": goal.salt or "", "learning_rates": goal.learning_rates}
    proposer = ARMS[config.model.name or EMBEDDED_MODEL] if config.model.embedded else "language-model"
    return store.create_campaign(
        name=config.name,
        config=config.frozen(),
        config_hash=config.config_hash(),
        objective=objective(goal.track, goal.tier, goal.tasks, goal.seeds, **decides),
        objective_hash=objective_hash(goal.track, goal.tier, goal.tasks, goal.seeds, **decides),
        seed=config.seed,
        arms=["starters", proposer] if node is None else [proposer],
        forked_from=None if node is None else node.campaign_id,
        forked_at=None if node is None else node.id,
    )


def extended(store: Store, campaign: Campaign, more: Mapping[str, Any]) -> CampaignConfig:
    """The stored configuration, with budgets raised by `resume`'s flags; what decides results stays frozen.

    Raises:
        ConfigError: a lower number of experiments than there are already, or the objective has changed since.
    """
    check_objective(campaign, stored_config(campaign))
    data = dict(campaign.config)
    for event in store.events(campaign.id, kind="budget_extended"):
        _extend(data, event.payload)
    changes = {key: value for key, value in more.items() if value is not None}
    if changes:
        existing = sum(store.by_status(campaign.id).values())
        if int(changes.get("experiments", existing)) < existing:
            raise ConfigError(
                f"campaign '{campaign.name}' has {existing} experiments already; ask for at least as many"
            )
        _extend(data, changes)
        stored(data)
        store.put_event(campaign.id, "budget_extended", changes)
    return stored(data)


def stored_config(campaign: Campaign) -> CampaignConfig:
    """The frozen configuration of a stored campaign.

    Raises:
        ConfigError: it has none: it was imported from another system, and can be read only.
    """
    if "objective" not in campaign.config:
        raise ConfigError(
            f"campaign '{campaign.name}' was not run by Move37: it has no configuration, so nothing of it can be "
            "trained again, re-driven or forked. `move37 lineage` and `move37 show` read it."
        )
    return stored(campaign.config)


def check_objective(campaign: Campaign, config: CampaignConfig) -> None:
    """Numbers of different objectives are never mixed in one campaign.

    Raises:
        ConfigError: this version of Move37 measures something else than the campaign was launched with.
    """
    goal = config.objective
    now = objective_hash(
        goal.track, goal.tier, goal.tasks, goal.seeds, salt=goal.salt or "", learning_rates=goal.learning_rates
    )
    if now != campaign.objective_hash:
        raise ConfigError(
            f"the objective of '{campaign.name}' is not the one of this version of Move37 (recipe, tasks or scorer "
            "changed), so its numbers cannot be continued or compared. Use the version that launched it."
        )


def _extend(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if key == "experiments":
            data["experiments"] = value
        else:
            data["budget"] = {**data.get("budget", {}), key: value}


def execute(
    workspace: Workspace,
    store: Store,
    config: CampaignConfig,
    campaign: Campaign | None = None,
    *,
    notify: Notify,
    announce: Announce,
    on_campaign: Callable[[Campaign], None] = lambda campaign: None,
    fork_of: Experiment | None = None,
    chosen_cassette: CassetteChoice | None = None,
    prompts_directory: Path | None = None,
) -> Launched:
    """Runs a campaign in this process until it ends or stops, and holds its lock meanwhile.

    Without `campaign` a new one is started, but only once sandbox and model are there: a launch that cannot work leaves
    no record behind that could not be continued either. `on_campaign` is told of the record before anything runs.
    With `fork_of` the new campaign goes on from that experiment (`forking.plan` says under which configuration).
    With `chosen_cassette` the models' replies are recorded on it, or come from it. `prompts_directory` has templates
    that come before the packaged ones.

    Raises:
        CassetteInvalid: the cassette cannot be used.
        ConfigError: a template cannot be used, or is not the one that the campaign began with.
    """
    if fork_of is not None and prompts_directory is None:
        prompts_directory = templates.recorded_directory(store, fork_of.campaign_id)
    if campaign is None:
        templates.tried(prompts_directory)
    else:
        templates.of_campaign(store, campaign, prompts_directory)
    begin = partial(start, store, config, fork_of) if campaign is None else lambda: campaign
    trusted = config.model.embedded and chosen_cassette is None  # whoever can write a cassette writes the programs
    if campaign is not None:
        trusted = trusted and brought.vouched_for(workspace, campaign)
    run = _execute(
        workspace, store, config, begin, notify, announce, on_campaign, chosen_cassette, prompts_directory, trusted
    )
    return asyncio.run(run)


async def _execute(
    workspace: Workspace,
    store: Store,
    config: CampaignConfig,
    begin: Callable[[], Campaign],
    notify: Notify,
    announce: Announce,
    on_campaign: Callable[[Campaign], None],
    chosen_cassette: CassetteChoice | None,
    prompts_directory: Path | None,
    programs_trusted: bool,
) -> Launched:
    def switched(old: str, new: str, why: str) -> None:
        announce(f"{new} is asked instead of {old}, which cannot answer: {why}")
        store.put_event(campaign.id, "model_switched", {"from": old, "to": new, "why": why})

    withdraw(key_variables(config.model))
    opened = await open_sandbox(
        config.sandbox.backend,
        programs_trusted=programs_trusted,
        accept_unsafe=config.sandbox.accept_unsafe,
        equipment=Equipment(config.sandbox.runtime, config.sandbox.gpus),
    )
    models: dict[str, ChatModel] = {}
    embedding_model = None
    try:
        laboratory = SandboxLaboratory(
            opened.sandbox, memory_gib=config.sandbox.memory_gib, cpus=config.sandbox.cpus, warm=config.parallel
        )
        notices = [*opened.warnings, *await _equipped(config, laboratory)]
        labels = {"salt": config.objective.salt or ""}
        models = open_chat_models(config, chosen_cassette, labels=labels, on_switch=switched)
        embedding_model = open_embedding_model(config)
        campaign = begin()
        with workspace.hold(campaign.id, campaign.name):
            on_campaign(campaign)
            made_by = vectoriser(store, config, embedding_model)
            remembered = Recollection(made_by, workspace.runs / "neighbours" / campaign.id)
            prompts = templates.of_campaign(store, campaign, prompts_directory)
            loop = _loop(store, campaign, config, laboratory, models, prompts, notify, remembered)
            _announce_all(loop, opened, [*_cassette_notices(chosen_cassette), *notices], announce)
            ending = await drive(loop, checkpoint_file=checkpoint_file(workspace, campaign))
            remembered.save()
    finally:
        for client in (*models.values(), embedding_model):
            if client is not None:
                await client.close()
        await opened.sandbox.close()
    return Launched(store.campaign(campaign.id), ending)


def _loop(
    store: Store,
    campaign: Campaign,
    config: CampaignConfig,
    laboratory: Laboratory,
    models: Mapping[str, ChatModel],
    prompts: Prompts,
    notify: Notify,
    recollection: Recollection,
) -> Loop:
    return Loop(
        store=store,
        campaign=campaign,
        config=config,
        brief=briefing.brief(config),
        prompts=prompts,
        model=models[config.model.names[0]],
        others=models,
        laboratory=laboratory,
        budget=Budget(config.budget, lambda: store.spent(campaign.id), config.model),
        turnstile=Turnstile(Visibility.of(store, campaign).first),
        notify=notify,
        recollection=recollection,
    )


def checkpoint_file(workspace: Workspace, campaign: Campaign) -> Path:
    """LangGraph's checkpoints of a campaign: disposable, deleted when it finishes."""
    return workspace.runs / "checkpoints" / f"{campaign.id}.db"


async def _equipped(config: CampaignConfig, laboratory: SandboxLaboratory) -> list[str]:
    """What to tell about the workers that are kept waiting, and proof of the GPU where the tier needs one.

    Raises:
        GpuUnavailable: the sandbox has none to give, or a worker cannot use it.
    """
    notices = []
    if laboratory.warm < config.parallel:
        notices.append(
            f"memory allows {laboratory.warm} waiting workers for {config.parallel} experiments in flight: "
            "some trials wait some seconds for theirs to start"
        )
    if tiers.get(config.objective.track, config.objective.tier).accelerator:
        notices.append(f"GPU: {await laboratory.require_gpu()}")
    return notices


def _announce_all(loop: Loop, opened: Opened, equipment: list[str], announce: Announce) -> None:
    store, campaign = loop.store, loop.campaign
    notices = _fork_notices(loop)
    if loop.indices.stop <= loop.visibility.proposals:
        notices.append(
            f"{loop.config.experiments} experiments are no more than the starting programs: nothing will be proposed "
            "(--experiments counts the starters)"
        )
    if loop.config.model.embedded:
        notices.append(f"model {loop.model.name}: {NOTICES[loop.model.name]}")
    else:
        notices.append(f"model {loop.model.name}")
    if len(loop.others) > 1:
        notices.append(f"each experiment is one model's, chosen by a bandit among {', '.join(loop.others)}")
    if not loop.config.embeddings.hashed:
        place = loop.config.embeddings.base_url or DEFAULT_BASE_URL
        notices.append(f"embeddings {loop.config.embeddings.model}: programs and hypotheses are sent to {place}")
    notices.append(f"sandbox {opened.sandbox.level}: {opened.chosen_because}")
    notices.extend(equipment)
    for notice in notices:
        announce(notice)
    store.set_campaign_state(campaign.id, "running")
    for notice in notices:
        if notice not in store.campaign(campaign.id).announcements:
            store.set_campaign_state(campaign.id, "running", announcement=notice)


def _cassette_notices(chosen_cassette: CassetteChoice | None) -> list[str]:
    if chosen_cassette is None:
        return []
    if chosen_cassette.replays:
        return [f"cassette {chosen_cassette.path}: every reply comes from it, and no model is asked"]
    return [
        f"cassette {chosen_cassette.path}: replies are recorded on it, and those that it holds already come from it"
    ]


def _fork_notices(loop: Loop) -> list[str]:
    node = loop.visibility.node
    if node is None:
        return []
    seen = loop.visibility.experiments(loop.visibility.first)
    parent = loop.visibility.first_parent(loop.visibility.first)
    notices = [
        f"forked from {node.id}: sees {len(seen)} earlier experiments and nothing after them; "
        + ("that one is the first parent" if parent else f"its first parent is drawn, since that one is {node.status}")
    ]
    if loop.model.kind != "grammar" and not loop.config.objective.salt:
        notices.append(
            "the objective of this lineage has no secret salt, because it began with the embedded grammar: a hostile "
            "program could compute the labels of the evaluation data. A new campaign draws a salt."
        )
    return notices
