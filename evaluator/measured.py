"""What the reference architectures scored, seed by seed, as measured once and stored beside this module. Host face.

`evaluator/measurements/<tier>.json` is written by `benchmarks/reference_mixers.py`. It serves two purposes: any program
can be compared with the references without training them again, and the spread between seeds of the same reference is
the noise floor that a claimed effect has to exceed.

Scores are found by the hash of everything that decides them (`objective.task_hash`), so a change of task, recipe or
scorer makes the stored ones disappear instead of being compared in silence. Not covered: another machine or torch
version; the file says with what it was measured, and readers show it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from evaluator.objective import task_hash

Scores = Mapping[str, Mapping[int, float]]  # reference -> seed -> curve score


@dataclass(frozen=True)
class Measurements:
    """Stored scores of a tier. `tasks` maps a task to the hash it was measured under and to its scores."""

    tier: str
    measured_with: str
    tasks: Mapping[str, tuple[str, Scores]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # reference -> cost profile

    def scores(self, track: str, task: str) -> Scores:
        """Scores of the references on `task` as it is defined now; empty if they were measured under another one."""
        stored = self.tasks.get(task)
        return stored[1] if stored is not None and stored[0] == task_hash(track, self.tier, task) else {}

    def composites(self, track: str, tasks: Sequence[str], seeds: Sequence[int]) -> dict[str, list[float]]:
        """Per reference: the mean over `tasks` at each of `seeds`; references that lack one are left out."""
        found = {task: self.scores(track, task) for task in tasks}
        names = set.intersection(*(set(scores) for scores in found.values())) if found else set()
        return {
            name: [sum(found[task][name][seed] for task in tasks) / len(tasks) for seed in seeds]
            for name in sorted(names)
            if all(seed in found[task][name] for task in tasks for seed in seeds)
        }

    def composite_groups(self, track: str, tasks: Sequence[str]) -> list[list[float]]:
        """As `groups`, of the mean over `tasks`, at the seeds that every reference has; empty without two of them."""
        found = [set(by_seed) for task in tasks for by_seed in self.scores(track, task).values() if len(by_seed) > 1]
        seeds = sorted(set.intersection(*found)) if found else []
        return list(self.composites(track, tasks, seeds).values()) if len(seeds) > 1 else []

    def groups(self, track: str, task: str) -> list[list[float]]:
        """Scores of one reference over its seeds, a list per reference: what a noise floor is pooled from."""
        return [list(by_seed.values()) for by_seed in self.scores(track, task).values() if len(by_seed) > 1]


def encode(measurements: Measurements) -> str:
    """The text of a measurements file: sorted, one number per line, so that a diff shows what changed."""
    data: dict[str, Any] = {
        "tier": measurements.tier,
        "measured_with": measurements.measured_with,
        "tasks": {
            task: {
                "hash": digest,
                "scores": {name: {str(seed): score for seed, score in one.items()} for name, one in scores.items()},
            }
            for task, (digest, scores) in measurements.tasks.items()
        },
        "parameters": {name: dict(profile) for name, profile in measurements.parameters.items()},
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def decode(text: str) -> Measurements:
    """The measurements in a file that `encode` wrote."""
    data = json.loads(text)
    tasks = {
        task: (
            str(stored["hash"]),
            {name: {int(seed): float(x) for seed, x in one.items()} for name, one in stored["scores"].items()},
        )
        for task, stored in data["tasks"].items()
    }
    return Measurements(data["tier"], data["measured_with"], tasks, data["parameters"])


@cache
def load(tier: str) -> Measurements:
    """The stored measurements of a tier; an empty set where there are none."""
    place = resources.files("evaluator") / "measurements" / f"{tier}.json"
    if not place.is_file():
        return Measurements(tier, "")
    return decode(place.read_text(encoding="utf-8"))
