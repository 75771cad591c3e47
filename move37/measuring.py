"""What an experiment measured against its parent: differences with intervals, beside what seed noise produces alone.

A difference is *beyond noise* if it exceeds what two programs of equal worth differ by at this number of seeds (from
the stored noise floor of tier and task), and, from three seeds on, if its 95 % interval leaves out zero as well. Where
no floor is stored, the interval decides; with a single seed and no floor it is not known, which counts as no evidence.

Two seeds have an interval (Student's, 12.7 standard errors wide to either side) that decides nothing by itself.

Not covered: what may be claimed outside (`evaluator.findings`): these are search seeds, looked at many times.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from evaluator import measured
from evaluator.objective import selects_on
from evaluator.statistics import mean_interval, pooled_sigma, smallest_detectable
from memory.records import Trial

_INTERVAL_DECIDES_FROM = 3  # seeds

Scores = Mapping[str, Mapping[int, float]]  # task -> seed -> score


class Trials(Protocol):
    """What is needed of the store."""

    def trials(self, experiment_id: str | None = None) -> Sequence[Trial]:
        """The trials of an experiment."""


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over `n` common seeds.

    Attributes:
        low, high: its 95 % interval; None for one seed.
        detectable: the smallest difference that seed noise does not produce by itself; None where it was not measured.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    detectable: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether seed noise is excluded as its reason; None where that is not known."""
        apart = None if self.low is None or self.high is None else self.low > 0 or self.high < 0
        if self.detectable is None:
            return apart
        above = abs(self.value) > self.detectable
        return above if apart is None or self.n < _INTERVAL_DECIDES_FROM else above and apart

    @property
    def sign(self) -> int:
        """1 or -1 where it is beyond noise, else 0."""
        return (1 if self.value > 0 else -1) if self.beyond_noise and self.value else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data; rounded, so that the last bits of another machine's arithmetic do not matter."""
        bounds = {name: _rounded(getattr(self, name)) for name in ("low", "high", "detectable")}
        return {"difference": _rounded(self.value), **bounds, "n": self.n, "beyond_noise": self.beyond_noise}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


@dataclass(frozen=True)
class Noise:
    """The noise floors of a campaign's tasks and of its score, by what the references' seeds differ."""

    track: str
    tier: str
    tasks: tuple[str, ...]

    def detectable(self, task: str | None, n: int) -> float | None:
        """The smallest detectable difference of a task, or of the score, over `n` seeds; None if not measured."""
        sigma = self._sigma.get(task)
        return None if sigma is None or n < 1 else smallest_detectable(sigma, n)

    @cached_property
    def ranking(self) -> tuple[str, ...]:
        """The tasks whose mean is the score. To ask a tier takes as long as all the rest of a comparison."""
        return tuple(selects_on(self.track, self.tier, self.tasks))

    @cached_property
    def _sigma(self) -> dict[str | None, float]:
        stored = measured.load(self.tier)
        groups: dict[str | None, list[list[float]]] = {task: stored.groups(self.track, task) for task in self.tasks}
        groups[None] = stored.composite_groups(self.track, self.ranking)
        return {task: pooled_sigma(found) for task, found in groups.items() if found}


@dataclass(frozen=True)
class Outcome:
    """What one experiment measured against its parent; `score` is None unless every ranking task was measured."""

    score: Difference | None
    tasks: Mapping[str, Difference]

    @property
    def sign(self) -> int:
        """That of the score's difference, 0 where there is none."""
        return 0 if self.score is None else self.score.sign


@dataclass
class Ruler:
    """Compares experiments; remembers what it read of those that `finished`.

    Without `intervals` it needs no SciPy, whose import takes a second, and `beyond_noise` rests on the floor alone.
    """

    store: Trials
    noise: Noise
    intervals: bool = True
    _scores: dict[str, Scores] = field(default_factory=dict, repr=False)
    _outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict, repr=False)

    def preload(self, scores: Iterable[tuple[str, str, int, float]]) -> None:
        """Takes all scores of finished experiments (experiment, task, seed, score: `StoreReader.campaign_scores`), so
        that they are not asked for one by one."""
        by_experiment: dict[str, dict[str, dict[int, float]]] = {}
        for experiment_id, task, seed, score in scores:
            by_experiment.setdefault(experiment_id, {}).setdefault(task, {})[seed] = score
        self._scores.update(by_experiment)

    def compare(self, experiment_id: str, parent_id: str, *, finished: bool = True) -> Outcome:
        """An experiment against another, which is finished."""
        known = self._outcomes.get((experiment_id, parent_id))
        if known is None:
            known = difference(
                self._of(experiment_id, finished), self._of(parent_id, True), self.noise, intervals=self.intervals
            )
            if finished:
                self._outcomes[experiment_id, parent_id] = known
        return known

    def _of(self, experiment_id: str, finished: bool) -> Scores:
        known = self._scores.get(experiment_id)
        if known is None:
            known = scores_of(self.store.trials(experiment_id))
            if finished:
                self._scores[experiment_id] = known
        return known


def scores_of(trials: Sequence[Trial]) -> Scores:
    """Scores that the search selects on, by task and seed."""
    found: dict[str, dict[int, float]] = {}
    for trial in trials:
        if trial.data == "selection" and trial.score is not None:
            found.setdefault(trial.task, {})[trial.seed] = trial.score
    return found


def difference(own: Scores, parent: Scores, noise: Noise, *, intervals: bool = True) -> Outcome:
    """Own less parent's, over common seeds."""

    def paired(task: str | None, pairs: Iterable[tuple[float, float]]) -> Difference:
        return _difference([one - other for one, other in pairs], noise.detectable, task, intervals)

    tasks = {}
    for task in noise.tasks:
        seeds = sorted(own.get(task, {}).keys() & parent.get(task, {}).keys())
        if seeds:
            tasks[task] = paired(task, ((own[task][seed], parent[task][seed]) for seed in seeds))
    ranking = noise.ranking
    if not all(task in tasks for task in ranking):
        return Outcome(None, tasks)
    everywhere = [own[task].keys() & parent[task].keys() for task in ranking]
    seeds = sorted(set.intersection(*map(set, everywhere)))
    if not seeds or any(len(own[task]) != len(seeds) for task in ranking):  # a run that stopped halfway has no score
        return Outcome(None, tasks)

    def mean(one: Scores, seed: int) -> float:
        return sum(one[task][seed] for task in ranking) / len(ranking)

    return Outcome(paired(None, ((mean(own, seed), mean(parent, seed)) for seed in seeds)), tasks)


def _difference(
    values: Sequence[float], detectable: Callable[[str | None, int], float | None], task: str | None, intervals: bool
) -> Difference:
    n = len(values)
    if n == 1 or not intervals:
        return Difference(sum(values) / n, None, None, n, detectable(task, n))
    interval = mean_interval(values)
    return Difference(interval.estimate, interval.low, interval.high, n, detectable(task, n))
