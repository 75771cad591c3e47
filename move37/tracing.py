"""Answers about lineages from the store: paths with what every step gained, relatives, two experiments side by side.

Differences are child minus parent (or later minus earlier). Per task they are paired by seed; the score's is paired by
seed over the means of the tasks that are selected on, as the score itself is made. Intervals are those of
`evaluator.statistics`. Where there can be none, `reason` says why: other seeds, one seed, no scored trials, no score.
Results of different objectives have no difference at all: they are not comparable.

Notable: only trials on selection data count; an interval speaks of seeds, not of the choice of the best among many,
which makes selected gains look larger than they are. A path may lead into the campaign that another was forked from.
Not covered: findings (`evaluator.findings`), drawing (`move37.report`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from memory.lineage import Forest, Subtree, Summary
from memory.records import Campaign, Experiment, Trial
from memory.store import Store
from move37 import views

if TYPE_CHECKING:
    from evaluator.statistics import Interval

ROUNDING = 1e-9  # means of the same numbers, added in another order
_READ_AT_ONCE = 256  # experiments from which on a campaign's trials are read in one go


@dataclass(frozen=True)
class Delta:
    """A difference with its interval; `low` and `high` are None with a `reason`, `delta` too where none is defined."""

    before: float | None
    after: float | None
    delta: float | None
    interval: "Interval | None"
    reason: str | None

    def as_dict(self) -> dict[str, Any]:
        """As in the JSON interface."""
        found = self.interval
        return {
            "before": self.before,
            "after": self.after,
            "delta": self.delta,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "confidence": found.confidence if found else None,
            "method": found.method if found else None,
            "n": found.n if found else 0,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Comparison:
    """Two experiments, the earlier first: the score's difference and every task's."""

    before: Experiment
    after: Experiment
    score: Delta
    tasks: Mapping[str, Delta]

    def as_dict(self) -> dict[str, Any]:
        """As in the JSON interface."""
        tasks = {name: delta.as_dict() for name, delta in self.tasks.items()}
        return {"from": self.before.id, "to": self.after.id, **self.score.as_dict(), "tasks": tasks}


@dataclass(frozen=True)
class Step:
    """An experiment on a path with its difference to the one above and to the path's first; None for the first."""

    experiment: Experiment
    delta: Comparison | None
    cumulative: Comparison | None


@dataclass(frozen=True)
class _Measured:
    """Scores by task and seed, and the objectives that they were measured under."""

    scores: Mapping[str, Mapping[int, float]]
    objectives: frozenset[str]


class Tracer:
    """Compares experiments of one store; what was read is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._measured: dict[str, _Measured] = {}
        self._campaigns: dict[str, Campaign] = {}
        self._read: set[str] = set()

    def forest(self, *campaigns: Campaign) -> Forest:
        """The experiments of the campaigns, and what leads to them in campaigns that they were forked from.

        Raises:
            LineageCycle: some experiments descend from themselves.
        """
        found: dict[str, Experiment] = {}
        for campaign in campaigns:
            found |= {one.id: one for one in self._store.experiments(campaign.id)}
        outside = {one.parent_id for one in found.values() if one.parent_id and one.parent_id not in found}
        return Forest([*found.values(), *self._above(sorted(outside))])

    def _above(self, experiment_ids: Sequence[str]) -> list[Experiment]:
        """Those of the experiments that the store has, with all their ancestors."""
        found: dict[str, Experiment] = {}
        waiting = list(experiment_ids)
        known: dict[str, Experiment] = {}
        while waiting:
            experiment_id = waiting.pop()
            if experiment_id in found:
                continue
            if experiment_id not in known:
                one = views.find_experiment(self._store, experiment_id)
                if one is None:
                    continue
                known |= {other.id: other for other in self._store.experiments(one.campaign_id)}
            one = known[experiment_id]
            found[one.id] = one
            if one.parent_id is not None:
                waiting.append(one.parent_id)
        return list(found.values())

    def path(self, experiments: Sequence[Experiment], shown: Iterable[int] | None = None) -> list[Step]:
        """The steps of a path that is given from the root down; `shown` are the places of the steps wanted."""
        wanted = range(len(experiments)) if shown is None else sorted(set(shown))
        chosen = {place for at in wanted for place in (at, at - 1) if place >= 0} | {0}
        self._read_trials([experiments[place] for place in sorted(chosen) if place < len(experiments)])
        return [
            Step(
                experiments[at],
                self.compare(experiments[at - 1], experiments[at]) if at else None,
                self.compare(experiments[0], experiments[at]) if at else None,
            )
            for at in wanted
        ]

    def path_report(self, campaign: Campaign, forest: Forest, experiment_id: str, limit: int | None) -> dict[str, Any]:
        """`move37 lineage --of`: the path from the root, at most `limit` steps of it, and what came of the experiment.

        Raises:
            NotFound: the experiment is not in the forest.
        """
        path = forest.path(experiment_id)
        steps = self.path(path, _ends(len(path), limit))
        return {
            "campaign": campaign.name,
            "of": experiment_id,
            "steps": len(path),
            "path": _steps_json(path, steps),
            "siblings": len(forest.siblings(experiment_id)),
            "subtree": subtree_json(forest.subtree(experiment_id)),
        }

    def common_report(self, campaign: Campaign, forest: Forest, a: str, b: str, limit: int | None) -> dict[str, Any]:
        """`move37 lineage --common`: the lowest common ancestor, both ways down from it, and the two compared.

        Raises:
            NotFound: one of the two is not in the forest.
        """
        ancestor = forest.common_ancestor(a, b)
        above = forest.depth(ancestor.id) if ancestor else 0
        report: dict[str, Any] = {
            "campaign": campaign.name,
            "a": views.node(forest.get(a)),
            "b": views.node(forest.get(b)),
            "ancestor": views.node(ancestor) if ancestor else None,
        }
        for end, experiment_id in (("a", a), ("b", b)):
            path = forest.path(experiment_id)[above:]
            report[f"steps_{end}"] = len(path) - 1 if ancestor else None
            report[f"path_{end}"] = _steps_json(path, self.path(path, _ends(len(path), limit)))
        report["comparison"] = self.compare(forest.get(a), forest.get(b)).as_dict()
        return report

    def compare(self, before: Experiment, after: Experiment) -> Comparison:
        """The later one against the earlier one."""
        one, other = self._of(before), self._of(after)
        names = sorted({*one.scores, *other.scores})
        apart = _different(one.objectives, other.objectives) if one.objectives and other.objectives else None
        tasks = {name: _task_delta(before, one, after, other, name, apart) for name in names}
        return Comparison(before, after, self._score_delta(before, one, after, other), tasks)

    def _score_delta(self, before: Experiment, one: _Measured, after: Experiment, other: _Measured) -> Delta:
        if before.score is None or after.score is None:
            missing = " and ".join(f"{e.id} ({e.status})" for e in (before, after) if e.score is None)
            return Delta(before.score, after.score, None, None, f"no score: {missing}")
        objectives = [frozenset({self._campaign(e.campaign_id).objective_hash}) for e in (before, after)]
        apart = _different(*objectives)
        if apart:
            return Delta(before.score, after.score, None, None, apart)
        delta = after.score - before.score
        lacking = _without_trials(before, one, after, other)
        if lacking:
            return Delta(before.score, after.score, delta, None, lacking)
        if one.objectives | other.objectives != objectives[0]:
            reason = "the stored trials were measured under another objective than the scores"
            return Delta(before.score, after.score, delta, None, reason)
        if one.scores.keys() != other.scores.keys():
            return Delta(before.score, after.score, delta, None, "measured on different tasks")
        ranking = self._campaign(after.campaign_id).objective.get("selects_on") or sorted(one.scores)
        used = [task for task in ranking if task in one.scores]
        seeds = [frozenset(measured.scores[task]) for measured in (one, other) for task in used]
        if not used or len(set(seeds)) > 1:
            return Delta(before.score, after.score, delta, None, "not every task was measured with the same seeds")
        paired = [fmean(other.scores[t][s] - one.scores[t][s] for t in used) for s in sorted(seeds[0])]
        if abs(fmean(paired) - delta) > ROUNDING:
            return Delta(before.score, after.score, delta, None, "the stored trials do not add up to the stored scores")
        return _with_interval(before.score, after.score, delta, paired)

    def _campaign(self, campaign_id: str) -> Campaign:
        if campaign_id not in self._campaigns:
            self._campaigns[campaign_id] = self._store.campaign(campaign_id)
        return self._campaigns[campaign_id]

    def _of(self, experiment: Experiment) -> _Measured:
        if experiment.id not in self._measured:
            if experiment.campaign_id in self._read:
                return _Measured({}, frozenset())
            self._measured[experiment.id] = _measured(self._store.trials(experiment.id))
        return self._measured[experiment.id]

    def _read_trials(self, experiments: Sequence[Experiment]) -> None:
        """Many experiments are cheaper to read campaign by campaign."""
        if len(experiments) < _READ_AT_ONCE:
            return
        for campaign_id in {one.campaign_id for one in experiments} - self._read:
            trials: dict[str, list[Trial]] = {}
            for trial in self._store.trials(campaign_id=campaign_id):
                trials.setdefault(trial.experiment_id, []).append(trial)
            self._measured |= {experiment_id: _measured(rows) for experiment_id, rows in trials.items()}
            self._read.add(campaign_id)


def _different(ours: frozenset[str], theirs: frozenset[str]) -> str | None:
    """Why results of these objectives are not comparable; None if they are."""
    if ours == theirs:
        return None
    shown = [", ".join(sorted(objective[:12] or "none" for objective in side)) for side in (ours, theirs)]
    return f"measured under different objectives ({shown[0]} and {shown[1]}): not comparable"


def _measured(trials: Iterable[Trial]) -> _Measured:
    scores: dict[str, dict[int, float]] = {}
    objectives = set()
    for trial in trials:
        if trial.data == "selection" and trial.state == "completed" and trial.score is not None:
            scores.setdefault(trial.task, {})[trial.seed] = trial.score
            objectives.add(trial.objective_hash)
    return _Measured(scores, frozenset(objectives))


def _without_trials(before: Experiment, one: _Measured, after: Experiment, other: _Measured) -> str | None:
    lacking = [e.id for e, measured in ((before, one), (after, other)) if not measured.scores]
    return f"no scored trials stored for {' and '.join(lacking)}" if lacking else None


def _task_delta(
    before: Experiment, one: _Measured, after: Experiment, other: _Measured, task: str, apart: str | None
) -> Delta:
    ours, theirs = one.scores.get(task, {}), other.scores.get(task, {})
    mean_before, mean_after = fmean(ours.values()) if ours else None, fmean(theirs.values()) if theirs else None
    if mean_before is None or mean_after is None:
        reason = _without_trials(before, one, after, other)
        reason = reason or f"{(before if mean_before is None else after).id} was not measured on it"
        return Delta(mean_before, mean_after, None, None, reason)
    if apart:
        return Delta(mean_before, mean_after, None, None, apart)
    delta = mean_after - mean_before
    if ours.keys() != theirs.keys():
        reason = f"different seeds ({_seeds(ours)} and {_seeds(theirs)}): not paired"
        return Delta(mean_before, mean_after, delta, None, reason)
    return _with_interval(mean_before, mean_after, delta, [theirs[seed] - ours[seed] for seed in sorted(ours)])


def _seeds(scores: Mapping[int, float]) -> str:
    return ", ".join(map(str, sorted(scores)))


def _with_interval(before: float, after: float, delta: float, paired: Sequence[float]) -> Delta:
    from evaluator.statistics import mean_interval  # imports NumPy, which a lineage without intervals can do without

    interval = mean_interval(paired)
    return Delta(before, after, delta, interval, interval.method if interval.low is None else None)


def _ends(length: int, limit: int | None) -> list[int] | None:
    """The places of a path that are shown: a quarter of `limit` from its beginning, the rest from its end."""
    if limit is None or length <= limit:
        return None
    first = limit // 4
    return [*range(first), *range(length - limit + first, length)]


def _steps_json(path: Sequence[Experiment], steps: Sequence[Step]) -> list[dict[str, Any]]:
    places = {one.id: place for place, one in enumerate(path)}
    return [
        {
            **views.node(step.experiment),
            "step": places[step.experiment.id],
            "delta": step.delta.as_dict() if step.delta else None,
            "cumulative": step.cumulative.as_dict() if step.cumulative else None,
        }
        for step in steps
    ]


def subtree_json(subtree: Subtree) -> dict[str, Any]:
    """A subtree's figures as in the JSON interface."""
    return {
        "descendants": subtree.descendants,
        "depth": subtree.depth,
        "best": _scored(subtree.best),
        "scored_edges": subtree.edges,
        "improving_edges": subtree.improving,
        "share_improving": subtree.share_improving,
    }


def summary_json(campaign: Campaign, summary: Summary) -> dict[str, Any]:
    """`move37 lineage --summary --json`."""
    best = summary.best
    return {
        "campaign": campaign.name,
        "nodes": summary.nodes,
        "roots": summary.roots,
        "dangling_roots": summary.dangling,
        "statuses": summary.statuses,
        "without_program": summary.without_program,
        "max_depth": summary.max_depth,
        "best": {
            **_scored(best),
            "depth": summary.best_depth,
            "index": best.index,
            "reached_after": summary.best_reached_after,
        }
        if best
        else None,
        "best_path": [_scored(one) for one in summary.best_path],
        "records": [_scored(one) for one in summary.records],
        "scored_edges": summary.edges,
        "improving_edges": summary.improving,
        "prolific": [
            {**_scored(one.experiment), "descendants": one.descendants, "children": one.children}
            for one in summary.prolific
        ],
    }


def _scored(experiment: Experiment | None) -> dict[str, Any]:
    if experiment is None:
        return {"id": None, "name": None, "index": None, "score": None}
    return {"id": experiment.id, "name": experiment.name, "index": experiment.index, "score": experiment.score}
