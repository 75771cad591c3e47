"""Replay: a campaign re-driven from its stored completions, and an experiment re-trained and compared.

A campaign's replay runs the same loop into an empty memory of its own, with a model that answers only what is stored
(by the content hash of the request, so a prompt that differs by one byte is caught) and a laboratory that returns the
stored verdicts and trials. It needs no model, no network and no sandbox.

An experiment's replay trains again, in a sandbox, from the stored program, seeds and recipe, and compares every
metric. Throughput and memory depend on the machine's mood: they are shown and not compared.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from agents.contexts import Message
from agents.gateway import Completion, request_key
from agents.wire import Usage
from evaluator.static_gate import STATIC_GATES
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.records import Campaign, Exchange, Experiment, Trial
from memory.store import Store, open_store
from move37 import briefing
from move37.budget import Budget
from move37.campaign import drive
from move37.config import BudgetConfig, CampaignConfig, validate
from move37.errors import NotThere, ReplayDiverged
from move37.laboratory import GateOutcome, Laboratory, Progress, TrialOutcome
from move37.launch import check_objective
from move37.loop import Loop
from move37.turnstile import Turnstile
from prompts.loader import Prompts

UNREPEATABLE = frozenset({"train_tokens_per_s", "peak_memory_bytes"})


class ReplayModel:
    """Answers from stored exchanges; anything else is a divergence."""

    kind: Literal["replay"] = "replay"

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self.name = exchanges[0].model if exchanges else "replay"
        self._by_key: dict[str, Exchange] = {x.request_key: x for x in exchanges}
        self._exchanges = exchanges

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """The stored completion of this very request.

        Raises:
            ReplayDiverged: no stored request has this content; names the nearest one.
        """
        key = request_key(messages, schema_name=schema.__name__ if schema else None, seed=seed)
        stored = self._by_key.get(key)
        if stored is None:
            raise ReplayDiverged(self._miss(messages, seed))
        return Completion(
            text=stored.text,
            model=stored.model,
            usage=Usage(stored.usage.prompt_tokens, stored.usage.completion_tokens, stored.usage.estimated),
            latency_s=0.0,
            finish_reason=stored.finish_reason,
            cost_usd=stored.cost_usd,
            raw=stored.response or {},
        )

    def _miss(self, messages: Sequence[Message], seed: int | None) -> str:
        same_seed = [x for x in self._exchanges if x.request.get("seed") == seed]
        if not same_seed:
            return "the replay asked a question that was never asked: no stored exchange has its seed"
        stored = "\n".join(m["content"] for m in same_seed[0].request["messages"])
        asked = "\n".join(m.content for m in messages)
        at = next(
            (i for i, (a, b) in enumerate(zip(stored, asked, strict=False)) if a != b), min(len(stored), len(asked))
        )
        return (
            f"the replay's question differs from the stored one of {same_seed[0].experiment_id} "
            f"({same_seed[0].role}) at character {at}: stored {stored[at : at + 60]!r}, asked {asked[at : at + 60]!r}"
        )

    async def close(self) -> None:
        """Nothing is held."""


class StoredLaboratory:
    """Verdicts and trials as they were recorded."""

    def __init__(self, store: Store, campaign: Campaign) -> None:
        self._store = store
        self._trials = {
            (t.experiment_id, t.task, t.tier, t.seed, t.data): t for t in store.trials(campaign_id=campaign.id)
        }

    async def gates(
        self,
        source: str,
        *,
        track: str,
        tier: str,
        label: str,
        tasks: Sequence[str] = (),
        max_exponent: float | None = None,
    ) -> GateOutcome:
        """The stored verdicts of the gates that ran in the sandbox."""
        experiment_id, _, attempt = label.rpartition("/gates-")
        rows = self._store.verdicts(experiment_id, int(attempt))
        dynamic = [r for r in rows if r.gate not in {*STATIC_GATES, "identity"}]
        if not dynamic:
            raise ReplayDiverged(f"{label}: the replay reached gates that the campaign never ran")
        verdicts = tuple(Verdict(r.gate, r.passed, r.reason, r.message, r.line, dict(r.detail)) for r in dynamic)
        return GateOutcome(verdicts, None)  # the cost rides on the last verdict's detail

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        """The stored outcome."""
        experiment_id = label.rpartition("/")[0]
        row = self._trials.get((experiment_id, request.task, request.tier, request.seed, request.data))
        if row is None or row.state == "open":
            raise ReplayDiverged(f"{label}: the replay reached a trial that the campaign never finished")
        return TrialOutcome(
            row.state == "completed",
            row.reason,
            row.message,
            row.score,
            {key: float(value) for key, value in row.metrics.items()},
            list(row.curve),
            row.log,
            row.device_s,
            dict(row.environment),
        )

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class CampaignReplay:
    """What a replay of a campaign found."""

    campaign: str
    stored: int
    experiments: int
    programs: list[str | None]
    calls_answered: int
    differences: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether programs, order, statuses and scores are the stored ones."""
        return not self.differences


def replay_campaign(store: Store, campaign: Campaign) -> CampaignReplay:
    """Re-drives the loop over everything that was recorded up to the first experiment that is still open.

    Raises:
        NotThere: nothing has ended yet.
        ReplayDiverged: the loop asked something that is not stored.
    """
    return asyncio.run(_replay_campaign(store, campaign))


async def _replay_campaign(store: Store, campaign: Campaign) -> CampaignReplay:
    originals = store.experiments(campaign.id)
    stored = len(originals)
    complete = next((e.index for e in originals if e.status == "open"), len(originals))
    originals = originals[:complete]
    if not originals:
        raise NotThere(f"no experiment of '{campaign.name}' has ended yet: there is nothing to replay")
    config = validate({**campaign.config, "experiments": complete or 1})
    config = config.model_copy(update={"budget": BudgetConfig()})
    kept = {e.id for e in originals}
    exchanges = [x for x in store.exchanges(campaign_id=campaign.id) if x.experiment_id in kept]
    scratch = open_store("sqlite://", create=True)
    try:
        again = scratch.create_campaign(
            name=campaign.name,
            config=campaign.config,
            config_hash=campaign.config_hash,
            objective=campaign.objective,
            objective_hash=campaign.objective_hash,
            seed=campaign.seed,
            arms=campaign.arms,
        )
        loop = _loop(scratch, again, config, ReplayModel(exchanges), StoredLaboratory(store, campaign))
        await drive(loop, checkpoint_file=None)
        repeated = scratch.experiments(again.id)
        calls = scratch.counts(again.id).exchanges
    finally:
        scratch.close()
    return CampaignReplay(
        campaign.name,
        stored,
        len(repeated),
        [e.program_sha256 for e in repeated],
        calls,
        _differences(originals, repeated, len(exchanges), calls),
    )


def _loop(store: Store, campaign: Campaign, config: CampaignConfig, model: ReplayModel, laboratory: Laboratory) -> Loop:
    return Loop(
        store=store,
        campaign=campaign,
        config=config,
        brief=briefing.brief(config),
        prompts=Prompts(),
        model=model,
        laboratory=laboratory,
        budget=Budget(BudgetConfig(), lambda: store.spent(campaign.id)),
        turnstile=Turnstile(),
        notify=lambda kind, payload: None,
    )


def _differences(
    originals: Sequence[Experiment], repeated: Sequence[Experiment], asked: int, answered: int
) -> list[str]:
    found = []
    if len(originals) != len(repeated):
        found.append(f"{len(originals)} experiments stored, {len(repeated)} replayed")
    for old, new in zip(originals, repeated, strict=False):
        for name in ("id", "program_sha256", "parent_id", "status", "reason", "score", "duplicate_of", "name"):
            before, after = getattr(old, name), getattr(new, name)
            if before != after:
                found.append(f"{old.id}: {name} was {before!r}, is {after!r}")
    if asked != answered:
        found.append(f"{asked} exchanges stored, {answered} replayed")
    return found


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one trial, stored and measured again."""

    task: str
    seed: int
    metric: str
    stored: float | None
    replayed: float | None
    compared: bool

    @property
    def identical(self) -> bool:
        """Bit-identical (NaN never is)."""
        return self.stored == self.replayed


@dataclass(frozen=True)
class ExperimentReplay:
    """What a replay of an experiment found."""

    experiment: str
    comparisons: list[MetricComparison]
    environment_differences: dict[str, tuple[Any, Any]]

    @property
    def identical(self) -> bool:
        """Whether every repeatable metric came out bit-identical."""
        return all(c.identical for c in self.comparisons if c.compared)

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference of a repeatable metric; infinity where one side is missing."""
        return max((_distance(c) for c in self.comparisons if c.compared), default=0.0)


def _distance(comparison: MetricComparison) -> float:
    if comparison.stored is None or comparison.replayed is None:
        return 0.0 if comparison.identical else math.inf
    return abs(comparison.stored - comparison.replayed)


async def replay_experiment(
    store: Store, experiment: Experiment, laboratory: Laboratory, *, on_progress: Progress | None = None
) -> ExperimentReplay:
    """Trains the stored program again, trial by trial.

    Raises:
        ConfigError: the objective has changed since (another scorer or recipe).
        ReplayDiverged: nothing was trained.
    """
    campaign = store.campaign(experiment.campaign_id)
    trials = [t for t in store.trials(experiment.id) if t.state != "open"]
    if experiment.program_sha256 is None or not trials:
        raise ReplayDiverged(f"{experiment.id} was never trained ({experiment.status}: {experiment.reason})")
    config = validate(campaign.config)
    check_objective(campaign, config)
    goal = config.objective
    source = store.program(experiment.program_sha256).source
    comparisons: list[MetricComparison] = []
    environment: dict[str, tuple[Any, Any]] = {}
    for trial in trials:
        if on_progress is not None:
            on_progress({"task": trial.task, "seed": trial.seed})
        request = TrialRequest(
            experiment.track, trial.tier, trial.task, trial.seed, trial.data, goal.salt or "", goal.learning_rates
        )
        outcome = await laboratory.trial(source, request, label=f"{trial.id}/replay", on_progress=on_progress)
        comparisons.extend(_compare(trial, outcome))
        environment.update(_changed(trial.environment, outcome.environment))
    return ExperimentReplay(experiment.id, comparisons, environment)


def _compare(trial: Trial, outcome: TrialOutcome) -> list[MetricComparison]:
    rows = [
        MetricComparison(trial.task, trial.seed, "score", trial.score, outcome.score, True),
        MetricComparison(
            trial.task, trial.seed, f"ended as {trial.reason}", 1.0, float(trial.reason == outcome.reason), True
        ),
        MetricComparison(trial.task, trial.seed, "curve points", len(trial.curve), len(outcome.curve), True),
    ]
    for metric in sorted(set(trial.metrics) | set(outcome.metrics)):
        stored, replayed = trial.metrics.get(metric), outcome.metrics.get(metric)
        rows.append(MetricComparison(trial.task, trial.seed, metric, stored, replayed, metric not in UNREPEATABLE))
    for old, new in zip(trial.curve, outcome.curve, strict=False):
        where = f"accuracy at {old['fraction']:.0%}"
        rows.append(MetricComparison(trial.task, trial.seed, where, old["accuracy"], new["accuracy"], True))
    return rows


def _changed(stored: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {k: (stored.get(k), now.get(k)) for k in sorted(set(stored) | set(now)) if stored.get(k) != now.get(k)}
