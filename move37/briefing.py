"""Fills the contexts that agents are shown from the experiment memory, and draws an experiment's conclusion from it.

Deterministic: the same store state gives the same context, byte for byte. Everything is capped here, by whole items.
Agents know experiments as `exp-0003`, without the campaign's name: a name decides nothing, so it must not reach a
prompt, where it would change what a model answers.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from agents.contexts import (
    Brief,
    CodeContext,
    Collision,
    HistoryItem,
    LessonView,
    LimitsView,
    Memory,
    Mode,
    NoiseView,
    ProgramView,
    Refusal,
    RepairContext,
    ResearchContext,
    TaskView,
)
from agents.replies import Hypothesis
from evaluator import catalogue, measured, tiers, tracks
from evaluator.objective import selects_on
from evaluator.statistics import TooFewValues, noise_floor, smallest_detectable
from memory.records import Attempt, Experiment, FinalStatus, Lesson, Trial
from memory.store import Store
from memory.view import View
from move37.config import CampaignConfig
from move37.errors import CampaignPaused
from move37.novelty import LEVEL as BY_HYPOTHESIS
from move37.recalling import To, shown_id
from move37.reserving import same_program


def brief(config: CampaignConfig) -> Brief:
    """What stays the same for a whole campaign. It opens every prompt, so that servers can cache it."""
    objective = config.objective
    tier = tiers.get(objective.track, objective.tier)
    contract = tracks.contract(objective.track)
    tasks = []
    ranking = selects_on(objective.track, objective.tier, objective.tasks)
    for name in objective.tasks:
        task = tier.task(name)
        aside = "" if name in ranking else " It is reported only and not part of the score."
        tasks.append(TaskView(name, task.title, task.chance, task.description + aside, _sizes(tier, name)))
    return Brief(
        track=objective.track,
        tier=objective.tier,
        tasks=tuple(tasks),
        contract=contract,
        d_model=tier.d_model,
        n_layers=tier.n_layers,
        allowed_imports=tracks.allowed_imports(objective.track),
        noise=_noise(config, ranking),
        limits=LimitsView(
            body_parameters=tier.body_parameters,
            mixer_parameters=tier.most_mixer_parameters,
            tolerance=tiers.BUDGET_TOLERANCE,
            max_exponent=config.search.max_exponent,
        ),
    )


def _sizes(tier: tiers.Tier, name: str) -> str:
    """What decides how hard a task is: its axes, and how much it is trained."""
    task, own = tier.task(name), tier.for_task(name)
    axes = {"length": task.length, "vocabulary": task.vocabulary}
    axes |= {axis: getattr(task, axis) for axis in task.axes if isinstance(getattr(task, axis, None), int | float)}
    sizes = ", ".join(f"{axis} {value:g}" for axis, value in axes.items())
    return f"Sizes: {sizes}. Training: {tier.plan(name).steps} steps of {own.batch} fresh sequences."


def _noise(config: CampaignConfig, ranking: Sequence[str]) -> tuple[NoiseView, ...]:
    """The noise floor of each ranking task and of their mean at the campaign's number of seeds, where measured."""
    objective = config.objective
    stored = measured.load(objective.tier)
    groups = {task: stored.groups(objective.track, task) for task in ranking}
    by_seed = [set(one) for task in ranking for one in stored.scores(objective.track, task).values() if len(one) > 1]
    common = sorted(set.intersection(*by_seed)) if by_seed else []
    if len(ranking) > 1 and len(common) > 1:
        groups["score (their mean)"] = list(stored.composites(objective.track, ranking, common).values())
    n = len(objective.seeds)
    found = []
    for task, scores in groups.items():
        try:
            floor = noise_floor(task, objective.tier, scores)
        except TooFewValues:
            continue
        found.append(NoiseView(task, floor.sigma, smallest_detectable(floor.sigma, n), n, floor.groups))
    return tuple(found)


def research_context(
    store: Store,
    campaign_brief: Brief,
    experiment: Experiment,
    visible: Sequence[Experiment],
    lessons: Sequence[Lesson],
    memory: Memory,
    config: CampaignConfig,
    difference: To = lambda one: None,
    view: View[Experiment] | None = None,
    show: Callable[[str], ProgramView] | None = None,
) -> ResearchContext:
    """What the researcher sees: parent, exemplars, what was tried and came of it, `lessons`, what it just repeated.

    `show` gives an experiment's program with what it achieved, if not the store.
    """
    show = show or (lambda one: program_view(store, store.experiment(one)))
    parent, exemplars = _shown(experiment, show)
    selection = experiment.selection
    mode: Mode = selection.get("mode", "improve")
    recent = list(islice((e for e in reversed(visible) if e.kind == "proposal"), config.search.history))
    view = View(visible) if view is None else view
    parents = [view.get(e.parent_id) for e in recent if e.parent_id is not None]
    scores = {e.id: e.score for e in parents if e is not None}
    history = tuple(replace(_history_item(e, scores), difference=difference(e.id)) for e in recent)
    last_visible = visible[-1].index if visible else -1
    collisions = []
    for attempt in store.attempts(experiment.id):
        if attempt.outcome == "duplicate":
            earlier = repeated(store, attempt, last_visible)
            design = _design(attempt.hypothesis)
            collisions.append(Collision(shown_id(earlier.id), earlier.name, earlier.status, earlier.score, design))
    second = show(selection["second"]) if selection.get("second") else None
    above = {one.experiment for one in (parent, *exemplars, *([second] if second else ()))}
    near = tuple(one for one in memory.neighbours if one.experiment not in above)
    return ResearchContext(
        brief=campaign_brief,
        parent=parent,
        exemplars=exemplars,
        history=history,
        lessons=tuple(lesson_view(x) for x in lessons),
        collisions=tuple(collisions),
        memory=replace(memory, neighbours=near),
        mode=mode,
        second=second,
        ablation=str(selection.get("task", "")),
    )


def lesson_view(lesson: Lesson) -> LessonView:
    """A lesson as agents see it: with the measured effect where there is one, and no change where its experiment's
    program was not the declared one."""
    measured = lesson.body.get("measured") or {}
    change = str(lesson.body.get("change", "")) if measured.get("attributed", True) else ""
    effect = measured.get("difference", lesson.body.get("effect"))
    return LessonView(shown_id(lesson.experiment_id), lesson.claim, lesson.level, change, effect)


@dataclass(frozen=True)
class Repeated:
    """What may be said of a program that was tried before."""

    id: str
    name: str
    status: str
    score: float | None


def repeated(store: Store, attempt: Attempt, last_visible: int) -> Repeated:
    """What the experiment that owns this attempt's identity made of the program.

    Nothing of its result while it lies beyond the horizon: that would depend on which worker is faster. And its score
    only for the attempt that was trained: what a repair scored says nothing of the program that was refused.
    """
    owner = store.experiment(str(attempt.detail.get("duplicate_of") or attempt.detail["equivalent_of"]))
    if attempt.detail.get("level") == BY_HYPOTHESIS:
        return _same_hypothesis(store, owner, last_visible)
    same = next((a for a in store.attempts(owner.id) if _same_program(store, a, attempt)), None)
    name = str((same.hypothesis or {}).get("title", "")) if same else ""
    if same is not None and same.outcome == "duplicate":  # a repeat itself: what it repeated is what counts
        return repeated(store, same, last_visible)
    if same is not None and same.outcome == "gate_failed":
        return Repeated(owner.id, name, f"refused by a gate ({same.detail.get('reason', '')})", None)
    if owner.index > last_visible:
        return Repeated(owner.id, name, "in flight", None)
    return Repeated(owner.id, owner.name, owner.status, owner.score)


def _same_hypothesis(store: Store, owner: Experiment, last_visible: int) -> Repeated:
    """As `repeated`, of a hypothesis. What a repaired program scored is told as such."""
    if owner.index > last_visible:
        return Repeated(owner.id, "", "in flight", None)
    repaired = owner.program_sha256 is not None and store.attempts(owner.id)[-1].origin == "repair"
    return Repeated(owner.id, owner.name, f"{owner.status} (after a repair)" if repaired else owner.status, owner.score)


def _same_program(store: Store, one: Attempt, other: Attempt) -> bool:
    """Whether two attempts wrote the same program, at the level at which the second was recognised."""
    if one.program_sha256 is None or other.program_sha256 is None:
        return False
    level = str(other.detail.get("level", "L0"))
    return same_program(store.program_keys(one.program_sha256), store.program_keys(other.program_sha256), level)


def code_context(store: Store, campaign_brief: Brief, experiment: Experiment, hypothesis: Hypothesis) -> CodeContext:
    """What the coder sees: the hypothesis, the parent, exemplars with what they achieved."""
    parent, exemplars = _shown(experiment, lambda one: program_view(store, store.experiment(one)))
    return CodeContext(brief=campaign_brief, hypothesis=hypothesis, parent=parent, exemplars=exemplars)


def repair_context(
    store: Store, campaign_brief: Brief, experiment: Experiment, hypothesis: Hypothesis, config: CampaignConfig
) -> RepairContext:
    """What the coder sees when a gate refused its program."""
    current, refused, *before = reversed(store.attempts(experiment.id))
    source = store.program(refused.program_sha256).source if refused.program_sha256 else ""
    line = refused.detail.get("line")
    return RepairContext(
        brief=campaign_brief,
        hypothesis=hypothesis,
        source=source,
        gate=str(refused.detail["gate"]),
        reason=str(refused.detail["reason"]),
        message=str(refused.detail["message"]),
        line=line if isinstance(line, int) else None,
        attempt=current.number,
        attempts_left=config.search.repairs + 1 - current.number,
        earlier=tuple(
            Refusal(a.number, str(a.detail["gate"]), str(a.detail["reason"]), str(a.detail["message"]))
            for a in reversed(before)
            if a.outcome == "gate_failed"
        ),
    )


def hypothesis_of(attempts: Sequence[Attempt]) -> Hypothesis:
    """The hypothesis in force: a repair keeps the one of the attempt it repairs."""
    for attempt in reversed(attempts):
        if attempt.hypothesis is not None:
            return Hypothesis.model_validate(attempt.hypothesis)
    raise AssertionError("an experiment reached the coder without a hypothesis")


def per_seed(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Score per task, a value per seed in seed order."""
    scores: dict[str, list[float]] = {}
    for trial in sorted(trials, key=lambda t: t.seed):
        if trial.score is not None:
            scores.setdefault(trial.task, []).append(trial.score)
    return scores


def per_task(trials: Sequence[Trial]) -> dict[str, float]:
    """Score per task, the mean over seeds."""
    return {task: statistics.fmean(values) for task, values in per_seed(trials).items()}


@dataclass(frozen=True)
class Conclusion:
    """How an experiment ends."""

    status: FinalStatus
    reason: str
    message: str
    score: float | None
    name: str
    hypothesis: dict[str, Any] | None
    program_sha256: str | None
    environment: dict[str, Any]
    duplicate_of: str | None = None
    equivalent_of: str | None = None


def conclude(store: Store, experiment: Experiment, attempts: Sequence[Attempt], config: CampaignConfig) -> Conclusion:
    """Status, reason and score, from attempts and trials. The score is the mean over seeds and the tasks that rank."""
    last = attempts[-1]
    detail = last.detail
    status, reason, message, score = _verdict(store, experiment, last, config)
    hypothesis = next((a.hypothesis for a in reversed(attempts) if a.hypothesis), None)
    starter = experiment.kind == "starter"
    return Conclusion(
        status=status,
        reason=reason,
        message=message,
        score=score,
        name=_starter_name(config, experiment) if starter else (hypothesis or {}).get("title", ""),
        hypothesis=hypothesis,
        program_sha256=next((a.program_sha256 for a in reversed(attempts) if a.program_sha256), None),
        environment={"cost": detail["cost"]} if detail.get("cost") else {},
        duplicate_of=detail.get("duplicate_of") if status == "duplicate" else None,
        equivalent_of=detail.get("equivalent_of") if status == "duplicate" else None,
    )


def _starter_name(config: CampaignConfig, experiment: Experiment) -> str:
    return catalogue.title(config.search.starters[experiment.index]).partition(":")[0]


def _verdict(
    store: Store, experiment: Experiment, last: Attempt, config: CampaignConfig
) -> tuple[FinalStatus, str, str, float | None]:
    reason, message = str(last.detail.get("reason", "")), str(last.detail.get("message", ""))
    if last.outcome == "malformed":
        return "failed", reason, message, None
    if last.outcome == "duplicate":
        return "duplicate", reason, message, None
    if last.outcome == "gate_failed":
        return "rejected", reason, message, None
    trials = store.trials(experiment.id)
    failed = next((t for t in trials if t.state == "failed"), None)
    if failed is not None:
        return "failed", failed.reason, f"{failed.task}, seed {failed.seed}: {failed.message}", None
    scores = [t.score for t in trials if t.score is not None]
    wanted = len(config.objective.tasks) * len(config.objective.seeds)
    if len(scores) != wanted:
        raise CampaignPaused(f"{experiment.id} has {len(scores)} of {wanted} scored trials: the store is incomplete")
    goal = config.objective
    ranking = selects_on(goal.track, goal.tier, goal.tasks)
    return "completed", "ok", "", statistics.fmean(t.score for t in trials if t.score is not None and t.task in ranking)


def _shown(experiment: Experiment, show: Callable[[str], ProgramView]) -> tuple[ProgramView, tuple[ProgramView, ...]]:
    if experiment.parent_id is None:
        raise AssertionError(f"{experiment.id} has no parent yet")
    return show(experiment.parent_id), tuple(map(show, experiment.exemplar_ids))


def program_view(store: Store, experiment: Experiment) -> ProgramView:
    """A program with what it achieved."""
    if experiment.program_sha256 is None:
        raise AssertionError(f"{experiment.id} has no program to show")
    trials = store.trials(experiment.id)
    hypothesis = experiment.hypothesis or {}
    return ProgramView(
        experiment=shown_id(experiment.id),
        name=experiment.name,
        source=store.program(experiment.program_sha256).source,
        score=experiment.score,
        per_task=per_task(trials),
        per_seed=per_seed(trials),
        hypothesis=str(hypothesis.get("mechanism", "")),
        change=str(hypothesis.get("change", "")),
        cost=cost_of(experiment.environment),
    )


def _history_item(experiment: Experiment, scores: dict[str, float | None]) -> HistoryItem:
    hypothesis = experiment.hypothesis or {}
    return HistoryItem(
        experiment=shown_id(experiment.id),
        name=experiment.name,
        status=experiment.status,
        reason=experiment.reason if experiment.status != "completed" else "",
        score=experiment.score,
        parent=shown_id(experiment.parent_id) if experiment.parent_id else None,
        parent_score=scores.get(experiment.parent_id) if experiment.parent_id else None,
        change=str(hypothesis.get("change", "")),
        design=str(hypothesis.get("design", "")),
    )


def _design(hypothesis: dict[str, object] | None) -> str:
    return str((hypothesis or {}).get("design", ""))


def cost_of(holder: Mapping[str, Any]) -> dict[str, float]:
    """The cost profile that rides on an accepted attempt or a finished experiment. Counted, so a repeat reproduces it;
    throughput is not shown to agents, or prompts would differ from run to run."""
    return {str(key): float(value) for key, value in holder.get("cost", {}).items()}
