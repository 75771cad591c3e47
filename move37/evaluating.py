"""One program on its own, outside any campaign: gates, cost, trials, scores with intervals, the references beside it.

Everything runs in the sandbox, as in a campaign, and nothing is stored. What comes out are plain values; printing them
is `report.evaluation`'s part.

Scores are on selection data: this is an inspection of a program, never a claim about it (`evaluator.findings`).
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluator import catalogue, measured, tiers
from evaluator.errors import UnknownTrack
from evaluator.objective import objective_hash, selects_on
from evaluator.profile import CostReport
from evaluator.static_gate import MAX_PROGRAM_BYTES
from evaluator.statistics import Interval, holm, mean_interval, paired_difference, pooled_sigma, smallest_detectable
from evaluator.tasks import registry
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.identity import l0
from move37.errors import ConfigError
from move37.laboratory import GateRequest, SandboxLaboratory, TrialOutcome
from move37.ladder import Climb, climb

Tell = Callable[[str, dict[str, Any]], None]
_GIVEN = "program"


@dataclass(frozen=True)
class Question:
    """What is asked about a program. `against`: references to train beside it; empty: the stored measurements.

    `salt` makes the evaluation data secret (docs/adr/0004); scores under a salt cannot be paired with stored ones.
    """

    track: str
    tier: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] = ()
    salt: str = ""
    max_exponent: float | None = None
    against: tuple[str, ...] = ()
    parallel: int = 1
    with_cost: bool = True

    def ranking(self) -> tuple[str, ...]:
        """The tasks that count in the composite score."""
        return selects_on(self.track, self.tier, self.tasks)


@dataclass(frozen=True)
class TrialRow:
    """One training run."""

    program: str
    task: str
    seed: int
    outcome: TrialOutcome


@dataclass(frozen=True)
class Comparison:
    """The program against one reference: mean paired difference of the composite score over the common seeds.

    `p` is of the paired test, `p_adjusted` after Holm's correction for all references compared with; None for one seed.
    `detectable` is the smallest difference that seed noise does not produce by itself at this number of seeds, from the
    stored noise floor; None where none is stored.
    """

    reference: str
    trained_now: bool
    score: float
    difference: Interval
    p: float | None
    p_adjusted: float | None
    detectable: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the difference exceeds what seed noise produces; None where the noise is not known."""
        return None if self.detectable is None else abs(self.difference.estimate) > self.detectable


@dataclass(frozen=True)
class Evaluation:
    """All that was learnt. `scores` and `composite` are empty where a gate or a trial failed."""

    sha256: str
    question: Question
    ladder: Climb
    cost: CostReport | str | None = None
    trials: tuple[TrialRow, ...] = ()
    scores: Mapping[str, Interval] = field(default_factory=dict)
    composite: Interval | None = None
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failed_trial(self) -> TrialRow | None:
        """The first trial of the program itself that did not complete."""
        return next((t for t in self.trials if t.program == _GIVEN and not t.outcome.completed), None)

    @property
    def ok(self) -> bool:
        """Every gate passed and every trial completed."""
        return self.ladder.accepted and self.failed_trial is None

    def per_seed(self, program: str, task: str) -> dict[int, float]:
        """Curve scores of one program on one task."""
        return {
            t.seed: t.outcome.score
            for t in self.trials
            if t.program == program and t.task == task and t.outcome.score is not None
        }


def read_program(path: Path) -> bytes:
    """The bytes of a program's file, at most one more than the gates accept, so that "too large" is theirs to say.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_PROGRAM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the program {path}: {error.strerror}") from error


async def reference_identity(source: bytes) -> Verdict:
    """The identity gate outside a campaign: nothing is refused, but a copy of a reference is called one."""
    own = l0(source.decode("utf-8"))
    twin = next((name for name in catalogue.names() if l0(catalogue.source(name)) == own), None)
    message = f"the same program as the reference {twin}" if twin else "not a copy of a reference program"
    return Verdict("identity", True, "ok", message, detail={"reference": twin} if twin else {})


async def climb_alone(source: bytes, laboratory: SandboxLaboratory, question: Question, label: str = _GIVEN) -> Climb:
    """The gate ladder for one program, without a campaign."""
    return await climb(
        source,
        laboratory,
        GateRequest(question.track, question.tier, question.tasks, question.max_exponent),
        label=f"{label}/gates",
        identity=lambda: reference_identity(source),
    )


async def evaluate(source: bytes, laboratory: SandboxLaboratory, question: Question, tell: Tell) -> Evaluation:
    """Gates, cost profile, trials, statistics. Stops where the program fails, and says what is known until there.

    Raises:
        CampaignPaused: the sandbox failed repeatedly; the program is not to blame.
    """
    sha256 = hashlib.sha256(source).hexdigest()
    ladder = await climb_alone(source, laboratory, question)
    tell("ladder", {"ladder": ladder})
    if not ladder.accepted:
        return Evaluation(sha256, question, ladder)
    text = source.decode("utf-8")
    cost = None
    if question.with_cost:
        tell("profile", {})
        cost = await laboratory.profile(text, track=question.track, tier=question.tier, label=f"{_GIVEN}/profile")
    programs = {_GIVEN: text} | {name: catalogue.source(name) for name in question.against}
    trials = await _train(programs, laboratory, question, tell)
    evaluation = Evaluation(sha256, question, ladder, cost, trials)
    return evaluation if evaluation.failed_trial else _judged(evaluation)


async def _train(
    programs: Mapping[str, str], laboratory: SandboxLaboratory, question: Question, tell: Tell
) -> tuple[TrialRow, ...]:
    """All trials, `parallel` at a time, the program's own first. A failure of the program ends it early."""
    slots = asyncio.Semaphore(question.parallel)
    failed = asyncio.Event()

    async def one(name: str, task: str, seed: int) -> TrialRow | None:
        async with slots:
            if failed.is_set():
                return None
            tell("trial", {"program": name, "task": task, "seed": seed})
            request = TrialRequest(
                question.track, question.tier, task, seed, salt=question.salt, learning_rates=question.learning_rates
            )
            outcome = await laboratory.trial(programs[name], request, label=f"{name}/{task}-{seed}")
            row = TrialRow(name, task, seed, outcome)
            tell("scored", {"row": row})
            if name == _GIVEN and not outcome.completed:
                failed.set()
            return row

    wanted = [(name, task, seed) for name in programs for seed in question.seeds for task in question.tasks]
    rows = await asyncio.gather(*(one(*each) for each in wanted))
    return tuple(row for row in rows if row is not None)


def _judged(evaluation: Evaluation) -> Evaluation:
    question = evaluation.question
    ranking = question.ranking()
    scores = {task: mean_interval(list(evaluation.per_seed(_GIVEN, task).values())) for task in question.tasks}
    own = _composites(evaluation, _GIVEN, ranking, question.seeds)
    notes = []
    sigma = composite_sigma(question)
    if sigma is None:
        notes.append("no noise floor is stored for these tasks at this tier: differences cannot be weighed against it")
    references = _references(evaluation, ranking, notes)
    comparisons = _corrected(
        [_comparison(name, trained, own, values, sigma) for name, (trained, values) in sorted(references.items())]
    )
    composite = mean_interval(own) if ranking else None
    return Evaluation(
        evaluation.sha256,
        question,
        evaluation.ladder,
        evaluation.cost,
        evaluation.trials,
        scores,
        composite,
        tuple(sorted(comparisons, key=lambda one: -one.score)),
        tuple(notes),
    )


def _composites(evaluation: Evaluation, program: str, tasks: Sequence[str], seeds: Sequence[int]) -> list[float]:
    by_task = [evaluation.per_seed(program, task) for task in tasks]
    return [sum(one[seed] for one in by_task) / len(by_task) for seed in seeds] if by_task else []


def _references(
    evaluation: Evaluation, ranking: Sequence[str], notes: list[str]
) -> dict[str, tuple[bool, list[float]]]:
    """Composite scores of the references by seed, and whether they were trained just now."""
    question = evaluation.question
    if not ranking:
        return {}
    if question.against:
        complete = [
            name
            for name in question.against
            if all(t.outcome.completed for t in evaluation.trials if t.program == name)
        ]
        notes.extend(f"reference {name} failed a trial" for name in question.against if name not in complete)
        return {name: (True, _composites(evaluation, name, ranking, question.seeds)) for name in complete}
    if question.learning_rates:
        notes.append("stored references were trained at the recipe's learning rate only; --against trains them alike")
    notes.append(
        "the evaluation data are those of the stored references, hence public: a hostile program that guesses seeds "
        "could compute the labels; --against NAME draws secret data"
    )
    stored = measured.load(question.tier)
    found = stored.composites(question.track, ranking, question.seeds)
    if found:
        notes.append(f"references as stored, measured with {stored.measured_with}; --against NAME trains them here")
    else:
        notes.append("no stored reference has these tasks, sizes and seeds; --against NAME trains references here")
    return {name: (False, values) for name, values in found.items()}


def composite_sigma(question: Question) -> float | None:
    """Seed standard deviation of the composite over the ranking tasks, pooled over the stored references."""
    groups = measured.load(question.tier).composite_groups(question.track, question.ranking())
    return pooled_sigma(groups) if groups else None


def _comparison(name: str, trained: bool, own: list[float], other: list[float], sigma: float | None) -> Comparison:
    paired = paired_difference(own, other)
    detectable = None if sigma is None else smallest_detectable(sigma, len(own))
    return Comparison(name, trained, sum(other) / len(other), paired.interval, paired.p, None, detectable)


def _corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    adjusted = holm({one.reference: one.p for one in comparisons if one.p is not None})
    return tuple(replace(one, p_adjusted=adjusted.get(one.reference)) for one in comparisons)


def as_json(evaluation: Evaluation, *, file: str, sandbox: str) -> dict[str, Any]:
    """The JSON of `move37 evaluate`: documented in docs/json.md."""
    question = evaluation.question
    cost = evaluation.cost
    return {
        "file": file,
        "sha256": evaluation.sha256,
        "ok": evaluation.ok,
        "track": question.track,
        "tier": question.tier,
        "tasks": list(question.tasks),
        "ranking_tasks": list(question.ranking()),
        "seeds": list(question.seeds),
        "learning_rates": list(question.learning_rates),
        "objective_hash": objective_hash(
            question.track,
            question.tier,
            question.tasks,
            question.seeds,
            salt=question.salt,
            learning_rates=question.learning_rates,
        ),
        "sandbox": sandbox,
        "gates": evaluation.ladder.as_dict(),
        "cost": cost.as_dict() if isinstance(cost, CostReport) else None,
        "cost_failure": cost if isinstance(cost, str) else None,
        "trials": [_trial_json(row) for row in evaluation.trials],
        "scores": {
            task: interval_json(interval) | {"per_seed": _keys_as_text(evaluation.per_seed(_GIVEN, task))}
            for task, interval in evaluation.scores.items()
        },
        "composite": None if evaluation.composite is None else interval_json(evaluation.composite),
        "comparisons": [
            {
                "reference": one.reference,
                "trained_now": one.trained_now,
                "score": one.score,
                "difference": interval_json(one.difference),
                "p": one.p,
                "p_adjusted": one.p_adjusted,
                "detectable": one.detectable,
                "beyond_noise": one.beyond_noise,
            }
            for one in evaluation.comparisons
        ],
        "notes": list(evaluation.notes),
    }


def interval_json(interval: Interval) -> dict[str, Any]:
    """Estimate, bounds, and how they were found."""
    return {
        "mean": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "confidence": interval.confidence,
        "method": interval.method,
        "n": interval.n,
    }


def _keys_as_text(values: Mapping[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in values.items()}


def _trial_json(row: TrialRow) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "program": row.program,
        "task": row.task,
        "seed": row.seed,
        "completed": outcome.completed,
        "reason": outcome.reason,
        "message": outcome.message,
        "score": outcome.score,
        "metrics": outcome.metrics,
        "curve": outcome.curve,
        "device_s": outcome.device_s,
    }


def default_parallel() -> int:
    """One trial per core, at most two: a trial takes one thread and up to a few hundred MiB."""
    return max(1, min(2, os.cpu_count() or 1))


def task_rows(track: str) -> list[dict[str, Any]]:
    """The tasks of a track with their sizes at every tier: the JSON of `move37 tasks`.

    Raises:
        ConfigError: there is no such track.
    """
    try:
        names, offered = registry.names(track), [tiers.get(track, name) for name in tiers.names(track)]
    except UnknownTrack as error:
        raise ConfigError(str(error)) from error
    rows = []
    for name in names:
        task = registry.get(name)
        plans = [(tier, tier.plan(name)) for tier in offered if name in tier.tasks]
        rows.append(
            {
                "name": name,
                "title": task.title,
                "description": task.description,
                "measure": task.measure,
                "chance": task.chance,
                "axes": dict(task.axes),
                "tiers": [
                    {"tier": tier.name, "steps": plan.steps, "ranks": plan.ranks, "sizes": plan.task.sizes()}
                    for tier, plan in plans
                ],
            }
        )
    return rows
