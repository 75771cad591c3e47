"""Selection: which experiment is the parent of the next one, and which are shown as exemplars.

Pure functions of (campaign seed, experiment index, the visible experiments): the same memory gives the same choice in
every run, whatever finished first. Not covered here: retrieval by similarity, islands, modes
and models (`modes`, `selecting`).

The parent is drawn with probability proportional to `exp(z) / (1 + children)`, z the robust standard score among the
best (distance from the median over the median absolute deviation, within ±3): good parents are favoured, parents that
have had many children yield. Source: after the weighted rule of ShinkaEvolve (arXiv 2509.19349), which takes a sigmoid
of z; the exponential keeps the leader ahead when only a handful of scores exist and half of them are the median.
"""

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from memory.records import Experiment
from memory.view import View

_LEADERS = 8
_CAP = 3.0
_MIN_SPREAD = 0.02  # below the seed noise of the curve score (0.014), differences are not evidence


@dataclass(frozen=True)
class Choice:
    """A parent, exemplars, and why."""

    parent: Experiment
    exemplars: tuple[Experiment, ...]
    rationale: dict[str, float | int | str]


def choose(
    visible: Sequence[Experiment],
    *,
    seed: int,
    index: int,
    exemplars: int,
    fixed_parent: Experiment | None = None,
    why: str = "",
    purpose: str = "select",
    view: View[Experiment] | None = None,
) -> Choice:
    """Chooses parent and exemplars among the completed experiments of `visible`.

    `fixed_parent` is taken as it is, where a fork begins or for the reason `why`; the exemplars are chosen around it by
    the same rule. Choices of another `purpose` for the same experiment are drawn independently. With a `view` that
    holds all of `visible`, they are not gone through: ten thousand are slow to touch, and the view has them ranked.

    Raises:
        ValueError: nothing visible is completed.
    """
    scored = _ranked(visible) if view is None else list(view.ranked(visible[-1].index if visible else -1))
    distinct = view is not None and not view.programs_repeat
    if not scored:
        raise ValueError("no completed experiment to choose a parent from")
    rng = random.Random(f"{purpose}:{seed}:{index}")
    if fixed_parent is not None:
        shown = _exemplars(scored, fixed_parent, exemplars, rng, distinct)
        return Choice(fixed_parent, shown, {"rule": why or "the experiment that was forked is the first parent"})
    leaders = scored[:_LEADERS]
    led = {e.id for e in leaders}
    children: Counter[str | None]
    if view is not None:
        children = Counter({one: view.n_children(one, visible[-1].index) for one in led})
    else:
        children = Counter([e.parent_id for e in visible if e.parent_id in led])
    weights = _weights(leaders, children)
    parent = rng.choices(leaders, weights=weights)[0]
    shown = _exemplars(scored, parent, exemplars, rng, distinct)
    rationale: dict[str, float | int | str] = {
        "rule": "exponential of the robust score over one plus children, among the best",
        "candidates": len(leaders),
        "rank": leaders.index(parent) + 1,
        "probability": weights[leaders.index(parent)] / sum(weights),
    }
    return Choice(parent, shown, rationale)


def _ranked(visible: Sequence[Experiment]) -> list[Experiment]:
    """The completed ones, the highest score first, the earlier one of equals first."""
    scored = [e for e in visible if e.score is not None and e.status == "completed"]
    return sorted(scored, key=lambda e: (-(e.score or 0.0), e.index, e.id))


def _score(experiment: Experiment) -> float:
    if experiment.score is None:
        raise ValueError(f"{experiment.id} has no score")
    return experiment.score


def _weights(leaders: Sequence[Experiment], children: Counter[str | None]) -> list[float]:
    scores = [_score(e) for e in leaders]
    median = statistics.median(scores)
    spread = max(statistics.median(abs(s - median) for s in scores), _MIN_SPREAD)
    weights = []
    for experiment, score in zip(leaders, scores, strict=True):
        z = max(-_CAP, min(_CAP, (score - median) / spread))
        weights.append(math.exp(z) / (1 + children[experiment.id]))
    return weights


def _exemplars(
    scored: Sequence[Experiment], parent: Experiment, count: int, rng: random.Random, distinct: bool
) -> tuple[Experiment, ...]:
    """The best ones besides the parent, and for diversity one drawn from the rest; one program is shown once.

    `distinct`: no two of `scored` have one program, so that only the parent has to be left out.
    """
    if count == 0:
        return ()
    if distinct and any(e is parent for e in scored):
        others = [e for e in scored if e is not parent]
    else:
        others = _of_other_programs(scored, parent)
    if len(others) <= count:
        return tuple(others)
    best = others[: count - 1]
    return (*best, rng.choice(others[count - 1 :]))


def _of_other_programs(scored: Sequence[Experiment], parent: Experiment) -> list[Experiment]:
    """The first of each program that is not the parent's."""
    seen = {parent.program_sha256}
    found = []
    for experiment in scored:
        if experiment.program_sha256 not in seen:
            seen.add(experiment.program_sha256)
            found.append(experiment)
    return found
