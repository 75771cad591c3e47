"""What the grammar believes a design would score, after the measurements that a prompt shows: a Gaussian process.

    value of a task = level + slope * prior + similarity, the same for all tasks + similarity of the task's own

The prior is `priors.expected`, whose level and slope on the tasks' scale are learnt too: where measurements do not
follow the literature, the slope goes and what remains is which designs are like which (`features`). Without priors
(`informed=False`) that is all there is.

A shown program has a value per task, a line of the history the mean of all tasks only: one observation of the mean.
Everything is a function of the prompt. Source: Rasmussen and Williams 2006, chapter 2 (posterior); Jones, Schonlau and
Welch 1998, Efficient Global Optimization (expected improvement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.embedded.features import matrix
from agents.embedded.genome import Mixer
from agents.embedded.priors import abilities, expected

Floats = NDArray[np.float64]

# Standard deviations on the scale of a task's value. The slope's mean is below 1 since values are averaged over the
# learning curve, where even the best begin at chance.
LEVEL, SLOPE_MEAN, SLOPE = 0.1, 0.6, 0.3
LINEAR, SIMILAR = 0.12, 0.12
OWN = 0.5  # share of variance that a task does not have in common with the others
NOISE = 0.03
REACH = 0.8  # distance at which similarity fades


@dataclass(frozen=True, slots=True)
class Observation:
    """A design that was measured: its score, and the value of every task where it is known."""

    mixer: Mixer
    score: float
    per_task: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Belief:
    """Means (designs, tasks), and mean and standard deviation (designs,) of the score."""

    per_task: Floats
    mean: Floats
    deviation: Floats

    def improvement(self, best: float) -> Floats:
        """By how much each design is expected to exceed `best`, counting what falls short as 0."""
        z = (self.mean - best) / self.deviation
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
        return np.asarray(self.deviation * (z * below + density))


def believe(
    observations: Sequence[Observation],
    designs: Sequence[Mixer],
    tasks: Sequence[str],
    n_layers: int,
    *,
    informed: bool = True,
) -> Belief:
    """What to expect of `designs`."""
    seen = len(observations)
    every = [*(one.mixer for one in observations), *designs]
    prior = _prior(every, tasks, n_layers) if informed else np.zeros((len(every), len(tasks)))
    points = matrix(every, n_layers)
    if seen:
        points = points - points[:seen].mean(0)
    # An observation is (design, weights of the tasks): one task, or the mean of all.
    rows, values = _rows(observations, tasks)
    who = np.array([index for index, _ in rows], dtype=int)
    over = np.array([weights for _, weights in rows]).reshape(len(rows), len(tasks))
    measured = (over * prior[who]).sum(1)
    covariance = _covariance(_kernel(points[who], points[who]), over @ over.T, measured, measured)
    inverse = np.linalg.inv(covariance + np.diag(NOISE**2 * (over**2).sum(1)))
    surprise = inverse @ (values - SLOPE_MEAN * measured)
    kernel = _kernel(points[seen:], points[who])

    def across(weights: Floats) -> tuple[Floats, Floats]:
        """Prior of such a sum of tasks for every design, and its covariance with the observations."""
        known = prior[seen:] @ weights
        return known, _covariance(kernel, (over @ weights)[None, :], known, measured)

    per_task = np.empty((len(designs), len(tasks)))
    for task, weights in enumerate(np.eye(len(tasks))):
        known, covariance = across(weights)
        per_task[:, task] = SLOPE_MEAN * known + covariance @ surprise
    known, covariance = across(np.full(len(tasks), 1 / len(tasks)))
    own = LINEAR**2 * (points[seen:] ** 2).sum(1) + SIMILAR**2
    alone = LEVEL**2 + SLOPE**2 * known**2 + _shared(1 / len(tasks)) * own
    variance = alone - (covariance @ inverse * covariance).sum(1)
    return Belief(per_task, SLOPE_MEAN * known + covariance @ surprise, np.sqrt(np.maximum(variance, 1e-6)))


def _prior(designs: Sequence[Mixer], tasks: Sequence[str], n_layers: int) -> Floats:
    able = [abilities(design, n_layers) for design in designs]
    return np.array([[expected(one, task) for task in tasks] for one in able]).reshape(len(designs), len(tasks))


def _kernel(left: Floats, right: Floats) -> Floats:
    """Linear in the features, and by their distance."""
    inner = left @ right.T
    distances = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * inner
    return np.asarray(LINEAR**2 * inner + SIMILAR**2 * np.exp(-np.maximum(distances, 0.0) / (2 * REACH**2)))


def _shared(overlap: float | Floats) -> float | Floats:
    """What two weighted sums of tasks share: all of the common part, and of the tasks' own as far as they overlap."""
    return (1 - OWN) + OWN * overlap


def _covariance(kernel: Floats, overlap: Floats, left: Floats, right: Floats) -> Floats:
    return np.asarray(LEVEL**2 + SLOPE**2 * np.outer(left, right) + _shared(overlap) * kernel)


def _rows(observations: Sequence[Observation], tasks: Sequence[str]) -> tuple[list[tuple[int, list[float]]], Floats]:
    """(design, weights of the tasks) and value of every observation."""
    rows: list[tuple[int, list[float]]] = []
    values: list[float] = []
    for index, one in enumerate(observations):
        if all(task in one.per_task for task in tasks) and len(tasks) > 1:
            for position, task in enumerate(tasks):
                rows.append((index, [float(position == other) for other in range(len(tasks))]))
                values.append(one.per_task[task])
        else:
            rows.append((index, [1 / len(tasks)] * len(tasks)))
            values.append(one.score)
    return rows, np.array(values)
