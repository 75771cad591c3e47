"""Intervals, paired tests, multiplicity, noise floor, comparison with random search: SciPy's formulas. Host face.

Notable:
* scores come in as plain sequences, one value per seed, and stay with the caller: nothing here averages them away;
* an interval says how it was found (`method`) and has no bounds where none can be had (one value);
* a test of n pairs by flipping signs gives no less than 2^-n (`smallest_p`): 0.031 for five seeds, whatever the gain;
* SciPy is imported inside functions, since its import takes longer than the command line may.

Not covered: what is a finding (`evaluator.findings`), and the scores themselves (`evaluator.scoring`).

Errors:
    StatisticsError        root, an EvaluatorError
    ├── TooFewValues       less data than the quantity is defined for
    └── UnusableValues     data that are not finite, not paired, or without any spread where spread is needed
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from evaluator.errors import EvaluatorError

Alternative = Literal["two-sided", "greater"]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# From this many values on, intervals of a mean are bootstrapped; below, they are Student's. Bootstrap intervals are too
# narrow for small samples: they resample a spread that is short by sqrt((n - 1) / n) and use normal quantiles.
# Source: Hesterberg 2015 (The American Statistician 69(4), 371-386), which gives the reason. The threshold is ours: of
# 400 normal samples each, nominal 95 % intervals by BCa held the mean in 84, 88, 90 and 94 % at n = 5, 10, 15 and 20,
# Student's in 96, 94, 94 and 96 %; on two-valued scores, as at recall's phase transition, both held it in 92 % or more.
BOOTSTRAP_FROM = 20
RESAMPLES = 9_999
SIGN_FLIPS = 10_000  # all 2^n sign patterns up to this many (n <= 13), else as many random ones


class StatisticsError(EvaluatorError):
    """Root of what can be wrong with numbers handed to this module."""


class TooFewValues(StatisticsError):
    """Less data than the quantity is defined for."""

    def __init__(self, what: str, got: int, needed: int) -> None:
        super().__init__(f"{what} needs at least {needed} values, got {got}: measure more seeds or programs")


class UnusableValues(StatisticsError):
    """Data that are not finite, not paired, out of range, or all equal where spread is needed."""


@dataclass(frozen=True)
class Interval:
    """An estimate and a confidence interval. `low` and `high` are None where the data allow none."""

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over pairs.

    Attributes:
        p: sign-flip permutation test; None for a single pair. Exact if `exact`, else from random flips.
        p_t: Student's paired t test; None for a single pair or where all differences are equal.
    """

    interval: Interval
    p: float | None
    p_t: float | None
    exact: bool
    alternative: Alternative


@dataclass(frozen=True)
class NoiseFloor:
    """How far scores of one program spread over seeds, pooled over programs (`groups`) and their `runs`."""

    task: str
    tier: str
    sigma: float
    low: float
    high: float
    groups: int
    runs: int


@dataclass(frozen=True)
class RelativeImprovement:
    """Improvement over random search in per cent of its mean.

    Attributes:
        value: of the score; None where the random arm's mean is not positive (`reason` says so).
        best_of_n: of the expected best of n random programs; None where the random arm has fewer than n.
    """

    value: float | None
    best_of_n: float | None
    n: int
    random_mean: float
    reason: str


def mean_interval(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean: none for one value, Student's below `BOOTSTRAP_FROM` values, else the BCa bootstrap.

    Raises:
        TooFewValues: there is no value.
        UnusableValues: a value is not finite.
    """
    x = _finite(values)
    if x.size == 0:
        raise TooFewValues("a mean", 0, 1)
    mean, n = float(x.mean()), int(x.size)
    if n == 1:
        return Interval(mean, None, None, confidence, "one value, no interval", n)
    if _all_equal(x):
        return Interval(mean, mean, mean, confidence, "all values equal", n)
    if n < BOOTSTRAP_FROM:
        return _student(x, confidence)
    from scipy.stats import bootstrap

    rng = np.random.default_rng(seed)
    found = bootstrap((x,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="BCa", rng=rng)
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high), confidence, "BCa bootstrap", n)


def _student(x: FloatArray, confidence: float) -> Interval:
    from scipy.stats import t

    half = float(t.ppf(0.5 + confidence / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    mean = float(x.mean())
    return Interval(mean, mean - half, mean + half, confidence, "Student t", int(x.size))


def stratified_interval(
    values_by_task: Mapping[str, Sequence[float]], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of the mean over tasks. Value i of every task must come from the same seed.

    Seeds are resampled with all their tasks, since a seed that is lucky on one task may be on another: that is the
    interval of the per-seed means over tasks. `n` counts seeds.

    Raises:
        TooFewValues: there is no task or no value.
        UnusableValues: tasks have unequal numbers of values, or a value is not finite.
    """
    if not values_by_task:
        raise TooFewValues("a mean over tasks", 0, 1)
    counts = {task: len(values) for task, values in values_by_task.items()}
    if len(set(counts.values())) > 1:
        raise UnusableValues(f"every task needs one value per seed, got {counts}: leave out seeds that a task lacks")
    columns = [_finite(values) for values in values_by_task.values()]
    return mean_interval(np.mean(columns, axis=0).tolist(), confidence=confidence, seed=seed)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Whether `a` differs from `b` (or is greater), where a[i] and b[i] share a seed. The interval is two-sided.

    Source: Fisher 1935, The Design of Experiments, chapter III (signs of paired differences at random).

    Raises:
        TooFewValues: there is no pair.
        UnusableValues: unequal lengths, or a value is not finite.
    """
    x, y = _finite(a), _finite(b)
    if x.size != y.size:
        raise UnusableValues(f"{x.size} and {y.size} values are no pairs: compare over common seeds only")
    difference = x - y
    interval = mean_interval(difference.tolist(), confidence=confidence, seed=seed)
    n = int(difference.size)
    if n == 1:
        return PairedDifference(interval, None, None, False, alternative)
    p_t = None if _all_equal(difference) else _t_test(x, y, alternative)
    return PairedDifference(interval, _sign_flip(difference, alternative, seed), p_t, _is_exact(n), alternative)


def _t_test(x: FloatArray, y: FloatArray, alternative: Alternative) -> float:
    from scipy.stats import ttest_rel

    return float(ttest_rel(x, y, alternative=alternative).pvalue)


def _sign_flip(difference: FloatArray, alternative: Alternative, seed: int) -> float:
    """P value of the mean under random signs. A single sample to `permutation_test` means: flip its signs."""
    from scipy.stats import permutation_test

    flips = math.inf if _is_exact(int(difference.size)) else SIGN_FLIPS - 1
    options = {"permutation_type": "samples", "n_resamples": flips, "alternative": alternative}
    return min(1.0, float(permutation_test((difference,), np.mean, rng=np.random.default_rng(seed), **options).pvalue))


def _is_exact(n: int) -> bool:
    return n < 2 or 2**n <= SIGN_FLIPS


def smallest_p(n: int, alternative: Alternative = "greater") -> float:
    """The least p that `paired_difference` can give for n pairs, reached when all differences have one sign."""
    if n < 2:
        return 1.0
    one_sided = 0.5**n if _is_exact(n) else 1 / SIGN_FLIPS
    return one_sided if alternative == "greater" else min(1.0, 2 * one_sided)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for all of them being looked at: rejecting below alpha keeps the chance of any error <= alpha.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70. SciPy has no implementation.
    """
    _probabilities(p_values)
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    adjusted: dict[str, float] = {}
    reached = 0.0
    for rank, name in enumerate(ordered):
        reached = max(reached, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in p_values}


def false_discovery(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for the expected share of false ones among those rejected.

    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57(1), 289-300.
    """
    from scipy.stats import false_discovery_control

    _probabilities(p_values)
    if not p_values:
        return {}
    adjusted = false_discovery_control(list(p_values.values()), method="bh")
    return dict(zip(p_values, map(float, adjusted), strict=True))


def pooled_seed_std(groups: Sequence[Sequence[float]], *, confidence: float = 0.95) -> Interval:
    """Standard deviation within groups, a group being one program over its seeds. Groups of one value add nothing.

    The variance is pooled by degrees of freedom, its interval is the chi-square one, exact for normal noise.

    Raises:
        TooFewValues: no group has two values.
        UnusableValues: a value is not finite.
    """
    from scipy.stats import chi2

    squares, freedom, runs = _within(groups)
    low, high = (math.sqrt(squares / chi2.ppf(0.5 + side * confidence / 2, freedom)) for side in (1, -1))
    return Interval(math.sqrt(squares / freedom), low, high, confidence, "pooled variance, chi-square", runs)


def pooled_sigma(groups: Sequence[Sequence[float]]) -> float:
    """The estimate of `pooled_seed_std` alone: needs no SciPy, whose import takes a second."""
    squares, freedom, _ = _within(groups)
    return math.sqrt(squares / freedom)


def _within(groups: Sequence[Sequence[float]]) -> tuple[float, int, int]:
    """Sum of squares within groups, its degrees of freedom, the number of values."""
    arrays = [_finite(group) for group in groups]
    used = [x for x in arrays if x.size > 1]
    freedom = sum(int(x.size) - 1 for x in used)
    if freedom == 0:
        raise TooFewValues("a pooled spread over seeds", max((int(x.size) for x in arrays), default=0), 2)
    return float(sum(((x - x.mean()) ** 2).sum() for x in used)), freedom, sum(int(x.size) for x in used)


def noise_floor(task: str, tier: str, groups: Sequence[Sequence[float]]) -> NoiseFloor:
    """The noise floor of one task (or of the composite) from measured programs. Raises as `pooled_seed_std`."""
    spread = pooled_seed_std(groups)
    assert spread.low is not None
    assert spread.high is not None
    return NoiseFloor(task, tier, spread.estimate, spread.low, spread.high, sum(len(g) > 1 for g in groups), spread.n)


def smallest_detectable(sigma: float, n: int, confidence: float = 0.95) -> float:
    """The smallest difference between two means of n seeds each that seed noise does not produce by itself.

    z sigma sqrt(2 / n): the two-sided normal bound for independent runs. Seeds that are shared make the true bound
    smaller where they move both programs alike, so that it errs towards caution.

    Raises:
        TooFewValues: n is below 1.
    """
    if n < 1:
        raise TooFewValues("a detectable difference", n, 1)
    return NormalDist().inv_cdf(0.5 + confidence / 2) * sigma * math.sqrt(2 / n)


def expected_best_of(values: Sequence[float], n: int) -> float:
    """Expected maximum of n of the values, drawn without replacement: exact, and monotone in n.

    The k-th smallest of N is the maximum in C(k - 1, n - 1) of the C(N, n) draws.

    Raises:
        TooFewValues: n is larger than the number of values (no extrapolation), or below 1.
        UnusableValues: a value is not finite.
    """
    ordered = np.sort(_finite(values)).tolist()
    if n < 1:
        raise TooFewValues("a best of n", n, 1)
    if n > len(ordered):
        raise TooFewValues(f"the best of {n} random programs", len(ordered), n)
    draws = math.comb(len(ordered), n)
    return math.fsum(value * (math.comb(k, n - 1) / draws) for k, value in enumerate(ordered))


def relative_improvement(score: float, random_scores: Sequence[float], n: int) -> RelativeImprovement:
    """RI = 100 (m - r) / r with r the random arm's mean, beside the RI that the best of n random programs has by luck.

    Source: Yang, Esperanca and Carlucci 2020 (arXiv 1912.12522), RI; the best of n beside it is ours.

    Raises:
        TooFewValues: the random arm is empty, or n is below 1.
        UnusableValues: a value is not finite.
    """
    values = _finite([score, *random_scores]).tolist()[1:]
    if not values:
        raise TooFewValues("a random arm", 0, 1)
    mean = float(np.mean(values))
    if mean <= 0:
        reason = f"the random arm's mean is {mean:.3g}: a ratio to it means nothing, compare differences"
        return RelativeImprovement(None, None, n, mean, reason)
    value = 100 * (score - mean) / mean
    if n > len(values):
        reason = f"the random arm has {len(values)} programs, fewer than {n}: its best of {n} is not known"
        return RelativeImprovement(value, None, n, mean, reason)
    return RelativeImprovement(value, 100 * (expected_best_of(values, n) - mean) / mean, n, mean, "ok")


def spearman(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Rank correlation; its interval bootstraps pairs, with 0 for a resample without any spread.

    Raises:
        TooFewValues: less than three pairs.
        UnusableValues: unequal lengths, a value that is not finite, or all values equal on one side.
    """
    from scipy.stats import bootstrap, spearmanr

    x, y = _finite(a), _finite(b)
    if x.size != y.size:
        raise UnusableValues(f"{x.size} and {y.size} values are no pairs")
    if x.size < 3:
        raise TooFewValues("a rank correlation", int(x.size), 3)
    if _all_equal(x) or _all_equal(y):
        raise UnusableValues("all values are equal on one side: there is no rank correlation")

    def rho(u: FloatArray, v: FloatArray) -> float:
        return 0.0 if _all_equal(u) or _all_equal(v) else float(spearmanr(u, v).statistic)

    options = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 999}
    with warnings.catch_warnings():  # all resamples of a perfect order agree: an interval of no width, not a mishap
        warnings.filterwarnings("ignore", message="The .*distribution is degenerate")
        found = bootstrap((x, y), rho, confidence_level=confidence, rng=np.random.default_rng(seed), **options)
    low, high = found.confidence_interval
    return Interval(rho(x, y), float(low), float(high), confidence, "percentile bootstrap of pairs", int(x.size))


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a proportion, for scores that are solved or not.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158), 209-212.

    Raises:
        TooFewValues: n is below 1.
        UnusableValues: more successes than trials, or fewer than none.
    """
    if n < 1:
        raise TooFewValues("a proportion", n, 1)
    if not 0 <= successes <= n:
        raise UnusableValues(f"{successes} successes in {n} trials")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    share = successes / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Interval(share, low, high, confidence, "Wilson", n)


def _finite(values: Sequence[float]) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise UnusableValues("scores must be plain finite numbers: what failed has a status and no score, leave it out")
    return x


def _all_equal(x: FloatArray) -> bool:
    """Equal up to rounding: differences of equal differences are not exactly zero."""
    return bool(np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())))


def _probabilities(p_values: Mapping[str, float]) -> None:
    wrong = {name: p for name, p in p_values.items() if not 0 <= p <= 1}
    if wrong:
        raise UnusableValues(f"p values lie between 0 and 1, got {wrong}")
