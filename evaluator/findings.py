"""What may be called a finding: one pure function over claim scores, which names everything that is missing. Host face.

A claim is supported if all of this holds:
1. candidate and baseline were scored under the same objective (its hash);
2. on at least `minimum_seeds` seeds, none of which the search selected on;
3. the baseline was run again under exactly the candidate's seeds;
4. a one-sided paired test, corrected for the whole family of claims by Holm's method, gives p below `alpha`;
5. the mean paired difference exceeds what seed noise produces by itself (the measured noise floor).

Notable:
* the family is every claim handed in, sound or not: leaving out the hopeless ones after looking would cheat the test.
  A claim that cannot be tested counts with p = 1;
* the test flips signs exactly and assumes no distribution, so n seeds cannot give less than 2^-n. Five seeds suffice
  for a single claim and for no larger family; `seeds_needed` says beforehand how many do, and a claim that had too few
  to succeed is told so (`needs_more_seeds`) instead of being called a failure;
* a control arm's score is set beside the verdict and decides nothing.

Not covered: that claim data and selection data are disjoint examples (`evaluator.tasks.streams` makes them so).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evaluator.statistics import (
    Interval,
    NoiseFloor,
    PairedDifference,
    UnusableValues,
    holm,
    paired_difference,
    smallest_detectable,
    smallest_p,
)

MINIMUM_SEEDS = 5
ALPHA = 0.05

Code = Literal[
    "different_objective",
    "too_few_seeds",
    "seeds_not_fresh",
    "baseline_not_rerun",
    "not_significant",
    "needs_more_seeds",
    "noise_floor_unmeasured",
    "below_noise_floor",
]


@dataclass(frozen=True)
class Claim:
    """What is claimed of one candidate: claim scores by seed, its own and the baseline's.

    `selection_seeds` are those that the search saw. `control` is the claim score of a control arm, if one was run.
    """

    name: str
    candidate: Mapping[int, float]
    baseline: Mapping[int, float]
    candidate_objective: str
    baseline_objective: str
    selection_seeds: frozenset[int] = frozenset()
    control: float | None = None


@dataclass(frozen=True)
class Reason:
    """One condition that a claim does not meet."""

    code: Code
    text: str


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim. Only `supported` ones are findings; `reasons` lists every condition that fails.

    Attributes:
        interval: of the mean paired difference, over the seeds that both have; None where they have none.
        threshold: the least effect that counts at this number of seeds; None where no noise floor is measured.
        above_control: whether the candidate's mean exceeds the control arm's; None where there is none.
    """

    name: str
    supported: bool
    sentence: str
    reasons: tuple[Reason, ...] = ()
    interval: Interval | None = None
    p: float | None = None
    p_adjusted: float = 1.0
    threshold: float | None = None
    floor: NoiseFloor | None = None
    seeds: tuple[int, ...] = ()
    family: int = 1
    above_control: bool | None = None
    codes: tuple[Code, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(reason.code for reason in self.reasons))

    @property
    def effect(self) -> float | None:
        """The mean paired difference, candidate less baseline."""
        return None if self.interval is None else self.interval.estimate

    @property
    def code(self) -> str:
        """The first condition that fails, or "supported"."""
        return self.reasons[0].code if self.reasons else "supported"


def seeds_needed(family: int, *, alpha: float = ALPHA, minimum_seeds: int = MINIMUM_SEEDS) -> int | None:
    """The least number of seeds with which each claim of a family could pass, whatever the others do.

    None where no number does: random sign flips cannot resolve a p that small.
    """
    most = 64
    enough = (n for n in range(minimum_seeds, most) if smallest_p(n) * family < alpha)
    return next(enough, None)


def judge(
    claims: Sequence[Claim],
    *,
    floor: NoiseFloor | None,
    alpha: float = ALPHA,
    minimum_seeds: int = MINIMUM_SEEDS,
) -> tuple[Finding, ...]:
    """The verdict on each claim of a family, in order.

    Raises:
        UnusableValues: two claims of one name, or a score that is not finite.
    """
    names = [claim.name for claim in claims]
    if len(set(names)) < len(names):
        raise UnusableValues(f"claims need names of their own, got {sorted(names)}")
    tests = {claim.name: _test(claim) for claim in claims}
    raw = {name: 1.0 if test is None or test.p is None else test.p for name, test in tests.items()}
    adjusted = holm(raw)
    rule = _Rule(floor, alpha, minimum_seeds, len(claims))
    return tuple(_verdict(claim, tests[claim.name], adjusted[claim.name], rule) for claim in claims)


@dataclass(frozen=True)
class _Rule:
    floor: NoiseFloor | None
    alpha: float
    minimum_seeds: int
    family: int


def _test(claim: Claim) -> PairedDifference | None:
    """The paired test over common seeds; None where objectives differ or no seed is common."""
    seeds = _common(claim)
    if not seeds or claim.candidate_objective != claim.baseline_objective:
        return None
    ours, theirs = ([scores[seed] for seed in seeds] for scores in (claim.candidate, claim.baseline))
    return paired_difference(ours, theirs, alternative="greater")


def _common(claim: Claim) -> tuple[int, ...]:
    return tuple(sorted(claim.candidate.keys() & claim.baseline.keys()))


def _verdict(claim: Claim, test: PairedDifference | None, p_adjusted: float, rule: _Rule) -> Finding:
    seeds = _common(claim)
    interval = None if test is None else test.interval
    threshold = None if rule.floor is None or not seeds else smallest_detectable(rule.floor.sigma, len(seeds))
    reasons = [*_protocol(claim, rule), *_chance(len(seeds), p_adjusted, rule)]
    if interval is not None:
        reasons += _noise(interval, threshold, rule)
    supported = not reasons and interval is not None
    return Finding(
        name=claim.name,
        supported=supported,
        sentence=_sentence(claim.name, interval, p_adjusted, reasons),
        reasons=tuple(reasons),
        interval=interval,
        p=None if test is None else test.p,
        p_adjusted=p_adjusted,
        threshold=threshold,
        floor=rule.floor,
        seeds=seeds,
        family=rule.family,
        above_control=_above_control(claim),
    )


def _protocol(claim: Claim, rule: _Rule) -> list[Reason]:
    """How the scores came about: objective, seeds, baseline."""
    reasons = []
    if claim.candidate_objective != claim.baseline_objective:
        text = "candidate and baseline were scored under different objectives, which are not comparable"
        reasons.append(Reason("different_objective", text))
    fresh = claim.candidate.keys() - claim.selection_seeds
    if len(fresh) < rule.minimum_seeds:
        text = f"{len(fresh)} fresh seeds, where {rule.minimum_seeds} are the least"
        reasons.append(Reason("too_few_seeds", text))
    seen = sorted((claim.candidate.keys() | claim.baseline.keys()) & claim.selection_seeds)
    if seen:
        text = f"the search selected on seeds {_listed(seen)}, which cannot support a claim"
        reasons.append(Reason("seeds_not_fresh", text))
    unequal = sorted(claim.candidate.keys() ^ claim.baseline.keys())
    if unequal:
        text = f"candidate and baseline were not both run under seeds {_listed(unequal)}"
        reasons.append(Reason("baseline_not_rerun", text))
    return reasons


def _listed(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:8]))
    return f"{shown} and {len(seeds) - 8} more" if len(seeds) > 8 else shown


def _chance(n: int, p_adjusted: float, rule: _Rule) -> list[Reason]:
    """Whether chance is excluded, and if not, whether these seeds could have excluded it."""
    if p_adjusted < rule.alpha:
        return []
    family = "one claim" if rule.family == 1 else f"a family of {rule.family} claims"
    text = f"p = {p_adjusted:.3g} after correction for {family}, not below {rule.alpha:g}"
    reasons = [Reason("not_significant", text)]
    if smallest_p(n) * rule.family >= rule.alpha:
        needed = seeds_needed(rule.family, alpha=rule.alpha, minimum_seeds=rule.minimum_seeds)
        if needed is None:
            more = f"no number of seeds can decide {family} at this level: claim fewer candidates"
        else:
            more = f"{n} seeds cannot decide {family}, whatever the effect: {needed} seeds are needed"
        reasons.append(Reason("needs_more_seeds", more))
    return reasons


def _noise(interval: Interval, threshold: float | None, rule: _Rule) -> list[Reason]:
    if threshold is None or rule.floor is None:
        text = "no noise floor is measured for this task and tier: run one program under several seeds"
        return [Reason("noise_floor_unmeasured", text)]
    if interval.estimate > threshold and interval.estimate > 0:
        return []
    text = (
        f"the effect {interval.estimate:+.4f} does not exceed {threshold:.4f}, which seed noise "
        f"(sigma {rule.floor.sigma:.4f}) produces by itself at {interval.n} seeds"
    )
    return [Reason("below_noise_floor", text)]


def _sentence(name: str, interval: Interval | None, p_adjusted: float, reasons: Sequence[Reason]) -> str:
    effect = "no comparable scores"
    if interval is not None:
        effect = f"{interval.estimate:+.4f}"
        if interval.low is not None and interval.high is not None:
            effect += f" [{interval.low:+.4f}, {interval.high:+.4f}]"
        effect += f" over {interval.n} seeds"
    if reasons:
        return f"{name} is not supported ({effect}): {'; '.join(reason.text for reason in reasons)}."
    return f"{name} is a finding: {effect} against the re-run baseline, corrected p = {p_adjusted:.3g}."


def _above_control(claim: Claim) -> bool | None:
    if claim.control is None or not claim.candidate:
        return None
    if not math.isfinite(claim.control):
        raise UnusableValues("a control arm's score must be a finite number, or None where it was not run")
    return sum(claim.candidate.values()) / len(claim.candidate) > claim.control
