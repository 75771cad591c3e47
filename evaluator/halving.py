"""Successive halving: who is trained on, decided at a few rungs from scores so far, and audited. Host face, no SciPy.

Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943), algorithm 1: train all, keep the best 1/eta, train them on.

What differs from the textbook:
* a task may not cut before its `earliest_cut`: where early scores do not predict late ones (a phase transition looks
  dead before it comes), the task is left out of the ranking, and a rung that no task may cut keeps everyone;
* ceil(n / eta) of n are promoted (the textbook rounds down), so that a rung never empties the field;
* a random tenth of the losers runs to the end as an audit, so that the rate of good candidates that were stopped is
  measured instead of believed. Audited candidates compete no more, but their results are results.

How many losers are audited: with L losers, floor(audit L), and one more with the probability of the remaining fraction.
Every loser is then audited with probability `audit` exactly, which keeps the measured rate unbiased and the cost at its
expectation in fields of any size; rounding up would audit every fourth of four losers.

Everything is a pure function of its arguments: equal scores, seed and state give equal decisions, in any process. Rungs
are fractions of a trial's steps on its *full* schedule: a stopped trial is a prefix of the whole, not a shorter run.

Not covered: asynchronous promotion, and running anything. Whoever drives this keeps trials resumable from rung to rung.
"""

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from evaluator.errors import EvaluatorError

Predictor = Literal["mean", "last"]
Curve = Mapping[float, float]  # fraction of the steps -> normalised score
Curves = Mapping[str, Mapping[str, Curve]]  # candidate -> task -> curve
Scores = Mapping[str, Mapping[str, float]]  # candidate -> task -> score so far


class HalvingError(EvaluatorError):
    """A schedule that makes no sense, or scores that cannot be ranked."""


@dataclass(frozen=True)
class Schedule:
    """When to cut, and how deep.

    Attributes:
        rungs: fractions of the full budget, ascending; the last is 1 and decides nothing.
        earliest_cut: by task, the first rung whose score may stop a candidate.
        default_cut: the same for tasks that `earliest_cut` does not name.
        audit: probability with which a loser runs to the end all the same.
    """

    eta: int = 2
    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    earliest_cut: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    default_cut: float = 0.5
    audit: float = 0.1

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.rungs, self.rungs[1:], strict=False))
        if not self.rungs or not ascending or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise HalvingError(f"rungs must ascend from above 0 to 1, got {self.rungs}")
        if self.eta < 2:
            raise HalvingError(f"eta must be 2 or more, got {self.eta}: a rung keeps one in eta")
        if not 0 <= self.audit <= 1:
            raise HalvingError(f"audit is a probability, got {self.audit}")

    def may_cut(self, task: str, rung: float) -> bool:
        return rung >= self.earliest_cut.get(task, self.default_cut)


@dataclass(frozen=True)
class State:
    """The field between two rungs: who competes, who was stopped, who runs on as an audit only."""

    active: tuple[str, ...]
    stopped: tuple[str, ...] = ()
    audited: tuple[str, ...] = ()

    def without(self, *failed: str) -> "State":
        """The field after candidates dropped out for reasons of their own (they crashed or timed out)."""
        active, audited = (tuple(name for name in names if name not in failed) for names in (self.active, self.audited))
        return State(active, self.stopped, audited)


@dataclass(frozen=True)
class Decision:
    """What a rung decided. `stopped` and `audited` are this rung's losers; `state` is the field afterwards."""

    promoted: tuple[str, ...]
    stopped: tuple[str, ...]
    audited: tuple[str, ...]
    state: State


def start(candidates: Collection[str]) -> State:
    """The field before the first rung.

    Raises:
        HalvingError: a name occurs twice.
    """
    if len(set(candidates)) < len(candidates):
        raise HalvingError("candidates need names of their own")
    return State(tuple(sorted(candidates)))


def decide(rung: float, scores_so_far: Scores, *, schedule: Schedule, seed: int, state: State) -> Decision:
    """Who of the active candidates is trained on after `rung`; equal scores are ranked by name.

    `scores_so_far` needs every active candidate with the same tasks; others in it are ignored.

    Raises:
        HalvingError: not a rung that decides; a score is missing or not finite; tasks differ between candidates.
    """
    if rung not in schedule.rungs[:-1]:
        raise HalvingError(f"{rung} is no rung that decides; those are {schedule.rungs[:-1]}")
    tasks = _tasks(scores_so_far, state.active)
    cutting = [task for task in tasks if schedule.may_cut(task, rung)]
    keep = math.ceil(len(state.active) / schedule.eta)
    if not cutting or keep == len(state.active):
        return Decision(state.active, (), (), state)
    worth = {name: sum(scores_so_far[name][task] for task in cutting) / len(cutting) for name in state.active}
    ranked = sorted(state.active, key=lambda name: (-worth[name], name))
    promoted, losers = tuple(sorted(ranked[:keep])), sorted(ranked[keep:])
    audited = _drawn(losers, schedule.audit, random.Random(f"halving:{seed}:{rung}"))
    stopped = tuple(name for name in losers if name not in audited)
    after = State(promoted, (*state.stopped, *stopped), (*state.audited, *audited))
    return Decision(promoted, stopped, audited, after)


def _tasks(scores: Scores, active: Collection[str]) -> tuple[str, ...]:
    missing = [name for name in active if name not in scores]
    if missing:
        raise HalvingError(f"no scores for {', '.join(missing)}: leave failed candidates out with State.without")
    tasks = {tuple(sorted(scores[name])) for name in active}
    if len(tasks) > 1:
        raise HalvingError(f"candidates are ranked over the same tasks only, got {sorted(tasks)}")
    unusable = [name for name in active if not all(math.isfinite(score) for score in scores[name].values())]
    if unusable:
        raise HalvingError(f"scores of {', '.join(unusable)} are not finite: a failed trial has a status, not a score")
    return next(iter(tasks), ())


def _drawn(losers: list[str], probability: float, rng: random.Random) -> tuple[str, ...]:
    """Each loser with the given probability, in a number as near to its expectation as whole numbers allow."""
    expected = probability * len(losers)
    whole = math.floor(expected + 1e-9)  # 0.1 * 30 is 3.0000000000000004 one way and less another
    number = whole + (rng.random() < expected - whole)
    return tuple(sorted(rng.sample(losers, number)))


def so_far(curve: Curve, rung: float, predictor: Predictor = "mean") -> float:
    """The score at a rung: mean of the curve's points up to it, which at the end is the curve score, or the last one.

    Raises:
        HalvingError: the curve has no point up to the rung.
    """
    points = [curve[fraction] for fraction in sorted(curve) if fraction <= rung]
    if not points:
        raise HalvingError(f"the curve has no point up to {rung}; it has {sorted(curve)}")
    return points[-1] if predictor == "last" else sum(points) / len(points)


@dataclass(frozen=True)
class Replay:
    """What a schedule would have done to a field whose whole curves are known.

    Attributes:
        compute: what was spent over what full training of everyone costs, audits included.
        audit_compute: the part of it that only the audit spent.
        selected: the best survivor by full score; audited candidates cannot be selected.
        full: everyone's full score, the mean curve score over tasks.
        false_kills: losers, audited or not, whose full score exceeds the selected one's. Known here, as a campaign
            cannot know them; what a campaign sees is the part of them in `audited`.
    """

    compute: float
    audit_compute: float
    selected: str
    survivors: tuple[str, ...]
    losers: tuple[str, ...]
    audited: tuple[str, ...]
    full: Mapping[str, float]

    @property
    def best(self) -> str:
        return min(self.full, key=lambda name: (-self.full[name], name))

    @property
    def regret(self) -> float:
        """What the selected falls short of the best, in parts of the range from worst to best; 0 if all are equal."""
        spread = max(self.full.values()) - min(self.full.values())
        return (self.full[self.best] - self.full[self.selected]) / spread if spread else 0.0

    @property
    def false_kills(self) -> tuple[str, ...]:
        return tuple(name for name in self.losers if self.full[name] > self.full[self.selected])

    @property
    def false_kill_rate(self) -> float:
        """Over all losers; 0 without any."""
        return len(self.false_kills) / len(self.losers) if self.losers else 0.0

    @property
    def audited_false_kill_rate(self) -> float | None:
        """The rate that the audit measures; None where it drew nobody."""
        caught = len(set(self.false_kills) & set(self.audited))
        return caught / len(self.audited) if self.audited else None

    def top_kept(self, k: int) -> float:
        """Which part of the k best by full score survived."""
        top = sorted(self.full, key=lambda name: (-self.full[name], name))[:k]
        return len(set(top) & set(self.survivors)) / len(top)


def replay(
    curves: Curves,
    schedule: Schedule,
    *,
    seed: int = 0,
    predictor: Predictor = "mean",
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> Replay:
    """Plays a schedule over whole curves. `costs` is what full training costs by candidate and task; all alike if None.

    Raises:
        HalvingError: there are no curves, a curve lacks points up to a rung, or a score is not finite.
    """
    if not curves:
        raise HalvingError("there are no curves to replay")
    state, reached = start(curves), dict.fromkeys(curves, 1.0)
    for rung in schedule.rungs[:-1]:
        scores = {
            name: {task: so_far(curve, rung, predictor) for task, curve in curves[name].items()}
            for name in state.active
        }
        decision = decide(rung, scores, schedule=schedule, seed=seed, state=state)
        reached |= dict.fromkeys((*decision.stopped, *decision.audited), rung)
        state = decision.state
    full = {name: _mean([so_far(curve, 1.0) for curve in curves[name].values()]) for name in curves}
    weight = {name: 1.0 if costs is None else sum(costs[name][task] for task in curves[name]) for name in curves}
    total = sum(weight.values())
    audit = sum(weight[name] * (1 - reached[name]) for name in state.audited) / total
    return Replay(
        compute=sum(weight[name] * reached[name] for name in curves) / total + audit,
        audit_compute=audit,
        selected=min(state.active, key=lambda name: (-full[name], name)),
        survivors=state.active,
        losers=tuple(sorted((*state.stopped, *state.audited))),
        audited=tuple(sorted(state.audited)),
        full=full,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
