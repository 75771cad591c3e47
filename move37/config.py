"""The configuration of a campaign: strict, frozen after load, hashed.

A TOML file has the sections below; command-line flags override it. An unknown key is an error that names the nearest
known one. The hash covers everything that decides what the campaign does, so two campaigns with one hash and one
model run the same search.
"""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.embedded.notice import EMBEDDED_MODEL, NOTICES
from move37.errors import ConfigError
from move37.modes import MODES, Mode

if TYPE_CHECKING:
    from agents.gateway import Prices

HASHED = "hashed"
WEAK_STARTERS = ("short_convolution", "diagonal_ssm")
IdentityLevel = Literal["L0", "L1", "L2", "L3"]
Part = Literal["memory", "exemplars", "knowledge", "analyst", "dedup"]
IDENTITY_LEVELS: tuple[IdentityLevel, ...] = ("L0", "L1", "L2", "L3")
_KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*(?:KEY|TOKEN)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Endpoint(_Section):
    """What is configured of every model: where it is, what it costs, and how much it may be asked (None: no limit)."""

    name: str | None = None
    base_url: str | None = None
    input_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    output_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    concurrency: Annotated[int, Field(gt=0)] | None = None

    @property
    def prices(self) -> "Prices | None":
        """Its prices, if both are configured."""
        from agents.gateway import Prices

        if self.input_usd_per_million is None or self.output_usd_per_million is None:
            return None
        return Prices(self.input_usd_per_million, self.output_usd_per_million)


class FurtherModel(_Endpoint):
    """A model beside the first: asked where those before it cannot answer, or given experiments of its own. Without
    `base_url` it is at the first one's endpoint.

    `api_key_env` names the environment variable with its key; the first model's key goes to its own endpoint only.
    """

    name: str
    api_key_env: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "FurtherModel":
        if self.api_key_env is not None and not _KEY_VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                f"api_key_env {self.api_key_env!r} is the name of an environment variable with a key, such as "
                "OTHER_API_KEY (capitals, ending in KEY or TOKEN); the key itself does not belong into a configuration"
            )
        return self


class ModelConfig(_Endpoint):
    """Which language model answers. Neither name nor base_url: the embedded grammar model.

    `context_tokens` is the model's context window, where its endpoint does not tell; `max_output_tokens` bounds a
    reply, reasoning included. With `others`, each experiment is one model's, chosen by a bandit (`modes`).
    """

    call_deadline_s: Annotated[float, Field(gt=0)] = 300.0
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    context_tokens: Annotated[int, Field(gt=0)] | None = None
    check_truncation: bool = True
    fallbacks: tuple[FurtherModel, ...] = ()
    others: tuple[FurtherModel, ...] = ()

    @property
    def embedded(self) -> bool:
        """True when an embedded model answers in process, the grammar or the random control, and nothing else."""
        return self.base_url is None and self.name in {None, *NOTICES} and not self.others

    @property
    def priced(self) -> bool:
        """True when the cost of a call is known, whichever model answers."""
        here = self.base_url is None and self.name in {None, *NOTICES}
        free = {one.name for one in self.others if one.base_url is None and one.name in NOTICES}
        others = [one for one in self.others if one.name not in free]
        return (here or self.prices is not None) and all(one.prices is not None for one in (*self.fallbacks, *others))

    @property
    def names(self) -> tuple[str, ...]:
        """The models that experiments are given to, by name, the first one first."""
        return (self.name or EMBEDDED_MODEL, *(one.name for one in self.others))


# Keys that came later: left out of the hash where they say what was the case before, so that the same settings keep it.
_LATER_MODEL_KEYS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
    "max_output_tokens",
    "context_tokens",
    "check_truncation",
    "fallbacks",
    "others",
)


class EmbeddingsConfig(_Section):
    """Which endpoint makes the vectors that neighbours are found by. No model, or "hashed": none, text is hashed.

    `dimensions`, left out, is found out at launch and frozen. Of a text longer than `max_chars` the beginning counts.
    """

    model: Annotated[str, Field(min_length=1)] | None = None
    base_url: str | None = None
    dimensions: Annotated[int, Field(ge=1, le=8192)] | None = None
    max_chars: Annotated[int, Field(ge=100, le=1_000_000)] = 16_000
    call_deadline_s: Annotated[float, Field(gt=0)] = 60.0

    @property
    def hashed(self) -> bool:
        """True when no endpoint is asked."""
        return self.model in {None, HASHED}


class BudgetConfig(_Section):
    """Limits on what a campaign may spend; absent means no limit."""

    usd: Annotated[float, Field(gt=0)] | None = None
    tokens: Annotated[int, Field(gt=0)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None


class SearchConfig(_Section):
    """How the campaign searches. `identity`: the levels at which a program may be a repeat of an earlier one.

    `modes`: what a researcher may be asked for (`modes`). `novelty`: how similar the words of two hypotheses with equal
    numbers are when the later one is sent back as a repeat before it is written; 0 asks nothing (`novelty`).
    `edit_from_lines`: from this length on, the coder may answer a small change with edits; 0: never.
    `diverse_exemplars`: exemplars are chosen by score and likeness, else by score alone.
    `ablation_share`: of the experiments, at most so many carry out an ablation that an analyst asked for.
    `without`: parts that it does without, to measure what they are worth (`move37 study ablate`).
    """

    starters: tuple[str, ...] = WEAK_STARTERS
    exemplars: Annotated[int, Field(ge=0, le=6)] = 3
    repairs: Annotated[int, Field(ge=0, le=10)] = 3
    max_exponent: Annotated[float, Field(ge=1.0, le=4.0)] | None = None
    history: Annotated[int, Field(ge=0, le=100)] = 12
    identity: tuple[IdentityLevel, ...] = IDENTITY_LEVELS
    prompt_tokens: Annotated[int, Field(ge=1000, le=1_000_000)] = 24_000
    edit_from_lines: Annotated[int, Field(ge=0)] = 120
    diverse_exemplars: bool = True
    without: tuple[Part, ...] = ()
    ablation_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    modes: tuple[Mode, ...] = MODES
    novelty: Annotated[float, Field(ge=0, le=1)] = 0.85

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        if len(set(self.identity)) != len(self.identity):
            raise ValueError(f"search.identity lists a level twice: {list(self.identity)}")
        if len(set(self.without)) != len(self.without):
            raise ValueError(f"search.without lists a part twice: {list(self.without)}")
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ValueError(f"search.modes needs at least one mode, each once; there are {', '.join(MODES)}")
        if not self.starters or len(set(self.starters)) != len(self.starters):
            raise ValueError("search.starters needs at least one reference program, each once")
        return self


class ObjectiveConfig(_Section):
    """What is measured: frozen, hashed into every result.

    `salt` is mixed into the evaluation data's stream and never enters a sandbox. Left out, it is drawn at random at
    launch when a language model writes the programs (a hostile program that knows the generators and guesses the seed
    could otherwise compute the labels), and is empty for the embedded grammar, whose programs are ours, so that its
    campaigns repeat exactly anywhere.

    `learning_rates` are all tried by every trial, which scores the best of them; empty: the recipe's one.
    """

    track: str = "sequence"
    tier: str = "smoke"
    tasks: tuple[str, ...] = ("recall", "mqar", "selective_copying", "noisy_recall", "memorisation")
    seeds: tuple[int, ...] = (0, 1)
    salt: str | None = None
    learning_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()


class SandboxConfig(_Section):
    """Where programs run.

    `runtime` is a container runtime that the Docker engine knows ("runsc"). `gpus` are the devices that trials may
    lease, one each, by index or UUID; left out, those that this machine has.
    """

    backend: Literal["auto", "docker", "bubblewrap", "landlock", "process"] = "auto"
    accept_unsafe: bool = False
    runtime: str = ""
    gpus: tuple[str, ...] | None = None
    memory_gib: Annotated[float, Field(ge=0.25)] = 3.0
    cpus: Annotated[float, Field(gt=0)] = 1.0


class CampaignConfig(_Section):
    """A whole campaign. `experiments` counts every node of the lineage, the starters included."""

    name: str = "campaign"
    experiments: Annotated[int, Field(gt=0, le=1_000_000)] = 20
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    sandbox: SandboxConfig = SandboxConfig()

    @model_validator(mode="after")
    def _check(self) -> "CampaignConfig":
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r}: use lower-case letters, digits, '-' and '_', at most 40, "
                "starting with a letter or digit"
            )
        for label, values in (("tasks", self.objective.tasks), ("seeds", self.objective.seeds)):
            if not values:
                raise ValueError(f"objective.{label} is empty: nothing would be measured")
            if len(set(values)) != len(values):
                raise ValueError(f"objective.{label} lists something twice: {list(values)}")
        if any(seed < 0 or seed >= 2**31 for seed in self.objective.seeds):
            raise ValueError("objective.seeds must lie in 0 .. 2^31-1")
        if len(set(self.model.names)) != len(self.model.names):
            raise ValueError(f"model.others names a model twice: {', '.join(self.model.names)}")
        if self.embeddings.hashed and (self.embeddings.base_url or self.embeddings.dimensions):
            raise ValueError(
                "embeddings.base_url and embeddings.dimensions need embeddings.model: name the model to ask"
            )
        if self.budget.usd is not None and not self.model.priced:
            raise ValueError(
                "a money budget needs prices: set model.input_usd_per_million and model.output_usd_per_million, and "
                "those of every fallback and of every other model (an unknown price cannot be counted)"
            )
        if self.model.embedded and self.model.fallbacks:
            raise ValueError("model.fallbacks: the embedded grammar always answers; name a language model to fall back")
        return self

    def frozen(self) -> dict[str, Any]:
        """The configuration as plain JSON data, as stored with the campaign."""
        return self.model_dump(mode="json")

    def config_hash(self) -> str:
        """sha256 over the canonical JSON of everything but the campaign's name."""
        data = self.frozen()
        del data["name"]
        before = ModelConfig().model_dump(mode="json")
        for key in _LATER_MODEL_KEYS:
            if data["model"][key] == before[key]:
                del data["model"][key]
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load(
    path: Path | None, overrides: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> CampaignConfig:
    """Reads a TOML file (or nothing), lays it over `defaults` and `overrides` over it (dotted keys), and validates.

    Raises:
        ConfigError: the file is unreadable or not TOML, a key is unknown, a value impossible, a task, tier, track or
            starter does not exist.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for dotted, value in overrides.items():
        if value is not None:
            _lay(data, dotted, value)
    named = data.get("model", {})
    if not isinstance(named, dict) or not {"name", "base_url"} & named.keys():  # else the environment has no say
        for dotted, value in (defaults or {}).items():
            if value is not None:
                _lay(data, dotted, value)
    config = validate(data)
    _check_names(config)
    return _with_canonical_tasks(config)


def _with_canonical_tasks(config: CampaignConfig) -> CampaignConfig:
    """One spelling for a task at another size: its text is its identity from here on."""
    from evaluator.tasks import registry

    tasks = tuple(registry.canonical(task) for task in config.objective.tasks)
    if len(set(tasks)) != len(tasks):
        raise ConfigError(f"objective.tasks lists something twice: {list(tasks)}")
    return config.model_copy(update={"objective": config.objective.model_copy(update={"tasks": tasks})})


def validate(data: Mapping[str, Any]) -> CampaignConfig:
    """Plain data (TOML or a stored campaign's) to a configuration.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return CampaignConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration holds a value that is not plain data: {error}") from error


def stored(data: Mapping[str, Any]) -> CampaignConfig:
    """The configuration of a stored campaign. What one from before knew nothing of, it keeps doing without: replayed or
    resumed, its experiments meet the rules under which they began.

    Raises:
        ConfigError: as `load`.
    """
    search = dict(data.get("search", {}))
    before = {
        "identity": ["L0"],
        "edit_from_lines": 0,
        "diverse_exemplars": False,
        "ablation_share": 0.0,
        "modes": ["improve"],
        "novelty": 0.0,
    }
    return validate({**data, "search": {**before, **search}})


def _lay(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        below = data.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{section} must be a section ([{section}]), not {below!r}")
        data = below
    data[key] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "configuration"
        if item["type"] == "extra_forbidden":
            known = _known_keys()
            near = difflib.get_close_matches(where, known, n=1) or difflib.get_close_matches(
                where.rsplit(".", 1)[-1], [key.rsplit(".", 1)[-1] for key in known], n=1
            )
            lines.append(f"unknown key '{where}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if item["loc"] else message)
    return "; ".join(lines)


def _known_keys() -> list[str]:
    keys = []
    for name, field in CampaignConfig.model_fields.items():
        keys.append(name)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys.extend(f"{name}.{key}" for key in section.model_fields)
    return keys


def _check_names(config: CampaignConfig) -> None:
    """Names that only the evaluator knows: tracks, tiers, tasks, starters."""
    from evaluator import catalogue, tiers
    from evaluator.tasks import registry

    objective = config.objective
    _known("track", objective.track, registry.tracks())
    _known("tier", objective.tier, tiers.names(objective.track))
    check_tasks(objective.track, objective.tier, objective.tasks)
    for starter in config.search.starters:
        _known("starter", starter, catalogue.names())


def check_tasks(track: str, tier: str, tasks: tuple[str, ...]) -> None:
    """Names, sizes, and whether there is anything to select on.

    Raises:
        ConfigError: an unknown task, a size that the task cannot make, or only tasks that rank nothing at this tier.
    """
    from evaluator import tiers
    from evaluator.errors import EvaluatorError
    from evaluator.objective import selects_on

    for task in tasks:
        _known("task", task.partition(":")[0], tiers.get(track, tier).tasks)
    try:
        ranking = selects_on(track, tier, tasks)
    except EvaluatorError as error:
        raise ConfigError(str(error)) from error
    if not ranking:
        raise ConfigError(
            f"at tier '{tier}' the task(s) {', '.join(tasks)} are reported but rank nothing, so there is nothing to "
            f"select on; add one of: {', '.join(tiers.get(track, tier).ranking_tasks)}"
        )


def _known(kind: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"there is no {kind} '{name}'.{hint} There are: {', '.join(names)}.")
