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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from memory.records import Experiment
from memory.view import View

_LEADERS = 8
_CAP = 3.0
_SHOWABLE = 64  # exemplars are chosen among so many of the best
_RELEVANCE = 0.5  # what the score counts against likeness
Alike = Callable[[str, str], float]
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
    alike: Alike | None = None,
    purpose: str = "select",
    view: View[Experiment] | None = None,
) -> Choice:
    """Chooses parent and exemplars among the completed experiments of `visible`.

    `fixed_parent` is taken as it is, where a fork begins or an ablation was asked for; the exemplars are chosen around
    it by the same rule. Choices of another `purpose` for the same experiment are drawn independently. `alike` says how
    alike the programs of two experiments (by id) are, 1 being the same; with it exemplars are chosen for being good and
    unlike the parent and each other, without it by score alone. With a `view` that holds all of `visible`, they are not
    gone through: ten thousand are slow to touch, and the view has them ranked.

    Raises:
        ValueError: nothing visible is completed.
    """
    up_to = visible[-1].index if visible else -1
    listed = _ranked(visible) if view is None else []

    def scored() -> Iterable[Experiment]:
        return listed if view is None else view.ranked(up_to)

    distinct = view is not None and not view.programs_repeat
    leaders = list(islice(scored(), _LEADERS))
    if not leaders:
        raise ValueError("no completed experiment to choose a parent from")
    rng = random.Random(f"{purpose}:{seed}:{index}")
    if fixed_parent is not None:
        shown = _exemplars(scored(), fixed_parent, exemplars, rng, alike, distinct)
        return Choice(fixed_parent, shown, {"rule": "the experiment that was forked is the first parent"})
    led = {e.id for e in leaders}
    children: Mapping[str | None, int]
    if view is not None:
        children = {one: view.n_children(one, up_to) for one in led}
    else:
        children = Counter([e.parent_id for e in visible if e.parent_id in led])
    weights = _weights(leaders, children)
    parent = rng.choices(leaders, weights=weights)[0]
    shown = _exemplars(scored(), parent, exemplars, rng, alike, distinct)
    rationale: dict[str, float | int | str] = {
        "rule": "exponential of the robust score over one plus children, among the best",
        "candidates": len(leaders),
        "rank": leaders.index(parent) + 1,
        "probability": weights[leaders.index(parent)] / sum(weights),
    }
    return Choice(parent, shown, rationale)


def choose_second(
    view: View[Experiment], up_to: int, wanted: Callable[[Experiment], bool], *, seed: int, index: int
) -> Experiment:
    """The parent that `choose` draws for the purpose "second" among those that are `wanted`, children that are not
    being left aside. Only the best and their children are looked at.

    Raises:
        ValueError: no completed one is wanted.
    """
    leaders = list(islice((e for e in view.ranked(up_to) if wanted(e)), _LEADERS))
    if not leaders:
        raise ValueError("no completed experiment to choose a second parent from")
    children = {e.id: sum(map(wanted, view.children(e.id, up_to))) for e in leaders}
    return random.Random(f"second:{seed}:{index}").choices(leaders, weights=_weights(leaders, children))[0]


def _ranked(visible: Sequence[Experiment]) -> list[Experiment]:
    """The completed ones, the highest score first, the earlier one of equals first."""
    scored = [e for e in visible if e.score is not None and e.status == "completed"]
    return sorted(scored, key=lambda e: (-(e.score or 0.0), e.index, e.id))


def _score(experiment: Experiment) -> float:
    if experiment.score is None:
        raise ValueError(f"{experiment.id} has no score")
    return experiment.score


def _weights(leaders: Sequence[Experiment], children: Mapping[Any, int]) -> list[float]:
    scores = [_score(e) for e in leaders]
    median = statistics.median(scores)
    spread = max(statistics.median(abs(s - median) for s in scores), _MIN_SPREAD)
    weights = []
    for experiment, score in zip(leaders, scores, strict=True):
        z = max(-_CAP, min(_CAP, (score - median) / spread))
        weights.append(math.exp(z) / (1 + children.get(experiment.id, 0)))
    return weights


def _exemplars(
    scored: Iterable[Experiment],
    parent: Experiment,
    count: int,
    rng: random.Random,
    alike: Alike | None,
    distinct: bool,
) -> tuple[Experiment, ...]:
    """Of the programs besides the parent, each once, the best; and for diversity unlike ones, or else one by lot.

    `scored` has the best first. `distinct`: no two of them have one program, so that only the parent's is left out.
    """
    if count == 0:
        return ()
    if alike is not None:  # the rest of a long ranking is not looked at
        first = list(islice(_of_other_programs(scored, parent), max(_SHOWABLE, count + 1)))
        return tuple(first) if len(first) <= count else _unlike(first[:_SHOWABLE], parent, count, alike)
    if distinct:
        others = [e for e in scored if e.program_sha256 != parent.program_sha256]
    else:
        others = list(_of_other_programs(scored, parent))
    if len(others) <= count:
        return tuple(others)
    best = others[: count - 1]
    return (*best, rng.choice(others[count - 1 :]))


def _of_other_programs(scored: Iterable[Experiment], parent: Experiment) -> Iterator[Experiment]:
    """The first of each program that is not the parent's."""
    seen = {parent.program_sha256}
    for experiment in scored:
        if experiment.program_sha256 not in seen:
            seen.add(experiment.program_sha256)
            yield experiment


def _unlike(candidates: Sequence[Experiment], parent: Experiment, count: int, alike: Alike) -> tuple[Experiment, ...]:
    """The best one, then again and again the one of the greatest marginal relevance, best score first.

    Source: Carbonell and Goldstein 1998 (SIGIR), maximal marginal relevance, `r * relevance - (1 - r) * likeness` with
    the greatest likeness to what is shown already; relevance is the score, scaled to 0..1 among the candidates.
    """
    scores = [_score(e) for e in candidates]
    low, spread = min(scores), max(max(scores) - min(scores), _MIN_SPREAD)
    relevance = {e.id: (_score(e) - low) / spread for e in candidates}
    nearest = {e.id: alike(e.id, parent.id) for e in candidates}
    chosen: list[Experiment] = []
    while len(chosen) < count:
        left = [e for e in candidates if e not in chosen]
        if chosen:
            for e in left:
                nearest[e.id] = max(nearest[e.id], alike(e.id, chosen[-1].id))
            best = max(left, key=lambda e: _RELEVANCE * relevance[e.id] - (1 - _RELEVANCE) * nearest[e.id])
        else:
            best = left[0]
        chosen.append(best)
    return tuple(sorted(chosen, key=lambda e: (-_score(e), e.index)))
