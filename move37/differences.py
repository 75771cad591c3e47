"""By how much an experiment differs from its parent: paired over the seeds that both have, as prompts show it.

Per seed the mean over the tasks that rank, child less parent; the interval is that of the mean over seeds. Seeds are
the unit: a seed that is lucky on one task may be on another, and the tasks are no sample of tasks.

Finished experiments never change, so each is read once. Not covered: whether a difference may be called a finding
(`evaluator.findings`), and the intervals per task of `move37 lineage` (`tracing`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from agents.contexts import Difference
from evaluator.statistics import mean_interval
from memory.records import Experiment
from memory.store import Store


@dataclass
class Differences:
    """What was read and worked out so far, by experiment."""

    _by_seed: dict[str, dict[int, float]] = field(default_factory=dict)
    _found: dict[str, Difference | None] = field(default_factory=dict)

    def between(
        self, store: Store, child: Experiment, parent: Experiment | None, ranking: Sequence[str]
    ) -> Difference | None:
        """The child's difference to its parent; None where one of them has no scores, or they share no seed."""
        if parent is None or parent.score is None or child.score is None:
            return None
        if child.id not in self._found:
            ours, theirs = (self._seeds(store, one.id, ranking) for one in (child, parent))
            paired = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            self._found[child.id] = _difference(paired)
        return self._found[child.id]

    def read(self, store: Store, experiment_ids: Iterable[str], ranking: Sequence[str]) -> None:
        """Reads the scores of those experiments that were not read yet, at once: one by one takes ten times as long."""
        missing = {one for one in experiment_ids if one not in self._by_seed}
        scores: dict[str, dict[int, dict[str, float]]] = {one: {} for one in missing}
        for experiment_id, task, seed, score in store.scores(missing):
            if task in ranking:
                scores[experiment_id].setdefault(seed, {})[task] = score
        for one, by_seed in scores.items():
            whole = {seed: by_task for seed, by_task in by_seed.items() if len(by_task) == len(ranking)}
            self._by_seed[one] = {seed: fmean(by_task.values()) for seed, by_task in whole.items()}

    def _seeds(self, store: Store, experiment_id: str, ranking: Sequence[str]) -> dict[int, float]:
        """The mean over the ranking tasks at each seed that has them all."""
        if experiment_id not in self._by_seed:
            self.read(store, [experiment_id], ranking)
        return self._by_seed[experiment_id]


def _difference(paired: Sequence[float]) -> Difference | None:
    if not paired:
        return None
    found = mean_interval(paired)
    return Difference(found.estimate, found.low, found.high, found.n)
