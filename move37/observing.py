"""Which published findings to show: read off what was observed of the parent, by the rules of `memory.symptoms`.

Entries that the latest visible children of the same parent were shown are passed over, so that its further children
meet others. Deterministic: only what lies within the horizon counts.
"""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agents.contexts import Brief
from memory.knowledge_base.query import for_symptoms
from memory.records import Experiment, Trial
from memory.retrieval import Limits
from memory.store import Store
from memory.symptoms import Observation, TaskScore, symptoms_of
from move37.briefing import per_seed, per_task

if TYPE_CHECKING:
    from move37.loop import Loop

_SIBLINGS = 100  # the latest of the parent's children, whose entries are passed over
_FAILED_CHILDREN = 20  # the latest of the parent's children, in which failures are looked for


def suggested(loop: "Loop", experiment: Experiment, visible: Sequence[Experiment]) -> tuple[str, ...]:
    """As `suggestions`, worked out once for an experiment and its parent. What is visible has been learnt."""
    known, key = loop.recollection.suggested, (experiment.id, str(experiment.parent_id))
    if key not in known:
        view, up_to = loop.recollection.view, visible[-1].index
        parent = view.get(key[1], up_to)
        if parent is None:
            raise AssertionError(f"the parent of {experiment.id} is not among what it sees")
        known[key] = _suggestions(loop.store, loop.brief, parent, view.children(parent.id, up_to))
    return known[key]


def suggestions(store: Store, brief: Brief, experiment: Experiment, visible: Sequence[Experiment]) -> tuple[str, ...]:
    """Ids of the entries that fit the parent of `experiment`, the best first."""
    parent = next(e for e in visible if e.id == experiment.parent_id)
    return _suggestions(store, brief, parent, [e for e in visible if e.parent_id == parent.id])


def _suggestions(store: Store, brief: Brief, parent: Experiment, children: Sequence[Experiment]) -> tuple[str, ...]:
    symptoms = set(symptoms_of(observed(store, brief, parent, children)))
    for child in children[-_FAILED_CHILDREN:]:
        symptoms.update(symptoms_of(Observation(reason=child.reason)))
    shown = store.knowledge_shown([e.id for e in children[-_SIBLINGS:]])
    track: Any = brief.track if brief.track in ("sequence", "vision") else "both"
    found = for_symptoms(symptoms, track=track, limit=Limits().knowledge, exclude=shown)
    return tuple(match.entry.id for match in found)


def observed(store: Store, brief: Brief, parent: Experiment, children: Sequence[Experiment]) -> Observation:
    """What is known of an experiment, in the terms of the symptoms' rules."""
    trials = [trial for trial in store.trials(parent.id) if trial.state == "completed"]
    means, seeds = per_task(trials), per_seed(trials)
    spreads = [statistics.stdev(values) for values in seeds.values() if len(values) > 1]
    exponent = dict(parent.environment.get("cost", {})).get("length_exponent")
    return Observation(
        tasks=tuple(TaskScore(t.name, means[t.name], 0.0) for t in brief.tasks if t.name in means),  # 0 is chance
        reason=parent.reason,
        curve=_curve(brief, trials),
        cost_exponent=None if exponent is None else float(exponent),
        seed_spread=max(spreads, default=None),
        children_without_gain=_without_gain(parent, children),
    )


def _curve(brief: Brief, trials: Sequence[Trial]) -> tuple[float, ...]:
    """The share of the way from chance to 1, at each point of the curve, as the mean over tasks and seeds."""
    chances = {task.name: task.chance for task in brief.tasks}
    shares = [
        [(float(point["accuracy"]) - chances[trial.task]) / (1.0 - chances[trial.task]) for point in trial.curve]
        for trial in trials
        if trial.curve and trial.task in chances
    ]
    return tuple(statistics.fmean(values) for values in zip(*shares, strict=False))


def _without_gain(parent: Experiment, children: Sequence[Experiment]) -> int:
    """How many of the latest children in a row did not improve on the parent."""
    count = 0
    for child in reversed(children):
        if child.score is not None and parent.score is not None and child.score > parent.score:
            break
        count += 1
    return count
