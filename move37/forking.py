"""A fork: a new campaign that goes on from any finished experiment, under a configuration of its own.

It sees what that experiment was allowed to see when it was proposed, and the experiment itself, and nothing of what
came later (`loop.Visibility`). Its first parent is that experiment, if it has a score; its starters are the origin's;
its budget begins at zero. The objective stays the origin's, so that scores can be compared across the lineage.

Not covered: running it (`launch.execute`), which is the same as for any campaign.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.embedded.notice import NOTICES
from evaluator.objective import objective_hash
from memory.records import Campaign, Experiment
from memory.store import Store
from move37.config import HASHED, CampaignConfig, ModelConfig, validate
from move37.errors import ConfigError, NotThere
from move37.launch import check_objective, stored_config
from move37.loop import Visibility
from move37.views import find_experiment

_NOT_OF_THE_MODEL = {"name", "base_url", "call_deadline_s"}  # prices, limits, windows and substitutes are
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Fork:
    """A fork that can be run: `launch.execute(workspace, store, fork.config, fork_of=fork.node)`."""

    node: Experiment
    config: CampaignConfig


def plan(store: Store, experiment_id: str, overrides: Mapping[str, Any], file: Path | None = None) -> Fork:
    """The origin's frozen configuration with a TOML file laid over it, and `overrides` (dotted keys) over both.

    `experiments` counts the fork's own. A model that is named anew does not keep the old one's endpoint or prices,
    unless they are given too.

    Raises:
        NotThere: there is no such experiment.
        ConfigError: it is not finished; nothing that it could see was completed; its campaign has no configuration of
            ours or was measured under another objective; an override is impossible or would change the objective or
            the starters.
    """
    node = find_experiment(store, experiment_id)
    if node is None:
        raise NotThere(f"there is no experiment '{experiment_id}'. `move37 lineage CAMPAIGN` lists the ids.")
    origin = store.campaign(node.campaign_id)
    old = stored_config(origin)
    check_objective(origin, old)
    _check_node(store, node)
    config = _laid_over(old, [_read(file), _nested(overrides)])
    if config.name == old.name:
        config = config.model_copy(update={"name": free_name(store, old.name)})
    _check_unchanged(origin, old, config)
    return Fork(node, config)


def free_name(store: Store, origin: str) -> str:
    """`<origin>-fork-<n>` with the first free number, short enough for a campaign's name."""
    taken = {campaign.name for campaign in store.campaigns()}
    number = 1
    while True:
        tail = f"-fork-{number}"
        name = origin[: _LONGEST_NAME - len(tail)] + tail
        if name not in taken:
            return name
        number += 1


def _check_node(store: Store, node: Experiment) -> None:
    if not node.finished:
        raise ConfigError(
            f"{node.id} is not finished, so nothing can be continued from it yet. Wait for it, or fork its parent "
            f"{node.parent_id or '(which is not chosen yet)'}."
        )
    seen = Visibility.forked(store, node, "", 1).experiments(node.index + 1)
    if not any(e.status == "completed" for e in seen):
        raise ConfigError(
            f"nothing that {node.id} could see was completed, and it is {node.status} itself: a fork would have no "
            "parent to start from. Fork a completed experiment."
        )


def _laid_over(old: CampaignConfig, layers: list[dict[str, Any]]) -> CampaignConfig:
    data = old.frozen()
    data["objective"]["salt"] = old.objective.salt or ""
    for layer in layers:
        _switch_model(data["model"], layer)
        _switch_embeddings(data["embeddings"], layer)
        _merge(data, layer)
    return validate(data)


def _switch_model(model: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """A model of another name or place: what belonged to the old one goes."""
    given = layer.get("model")
    if not isinstance(given, dict) or not {"name", "base_url"} & given.keys():
        return
    same = all(given.get(key, model[key]) == model[key] for key in ("name", "base_url"))
    if not same:
        model.update(ModelConfig().model_dump(mode="json", exclude=_NOT_OF_THE_MODEL))
        if given.get("name") in NOTICES or ("base_url" in given and "name" not in given):
            model.update(ModelConfig().model_dump(include={"name", "base_url"}))


def _switch_embeddings(embeddings: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Another embeddings model or place: the old one's dimension goes, and its place where text is to be hashed."""
    given = layer.get("embeddings")
    if not isinstance(given, dict):
        return
    if any(given.get(key, embeddings[key]) != embeddings[key] for key in ("model", "base_url")):
        embeddings["dimensions"] = None
        if given.get("model") == HASHED:
            embeddings["base_url"] = None


def _merge(data: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for dotted, value in overrides.items():
        if value is not None:
            section, _, key = dotted.rpartition(".")
            (data.setdefault(section, {}) if section else data)[key] = value
    return data


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _check_unchanged(origin: Campaign, old: CampaignConfig, new: CampaignConfig) -> None:
    """What a fork shares with its origin."""
    was, goal = old.objective, new.objective
    hashed = objective_hash(
        goal.track, goal.tier, goal.tasks, goal.seeds, salt=goal.salt or "", learning_rates=goal.learning_rates
    )
    if hashed != origin.objective_hash:
        fields = [name for name in type(goal).model_fields if getattr(was, name) != getattr(goal, name)]
        raise ConfigError(
            f"a fork keeps the objective of '{origin.name}', so that its scores can be compared with those it goes on "
            f"from; this would change objective.{', objective.'.join(fields)}. `move37 run` starts a campaign with "
            "another objective."
        )
    if old.search.starters != new.search.starters:
        raise ConfigError(
            f"a fork runs no starters: those of '{origin.name}' stand in for them. Leave search.starters out, or start "
            "a campaign with `move37 run --starters`."
        )
