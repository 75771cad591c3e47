"""Statistics against definitions written the slow way, against simulation, and at the edges where formulas break."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evaluator.statistics import (
    BOOTSTRAP_FROM,
    Interval,
    TooFewValues,
    UnusableValues,
    expected_best_of,
    false_discovery,
    holm,
    mean_interval,
    noise_floor,
    paired_difference,
    pooled_seed_std,
    relative_improvement,
    smallest_detectable,
    smallest_p,
    spearman,
    stratified_interval,
    wilson,
)

SCORES = st.floats(min_value=-1, max_value=1, allow_subnormal=False)
P_VALUES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1), max_size=8)


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.4]) == Interval(0.4, None, None, 0.95, "one value, no interval", 1)


@pytest.mark.parametrize("n", [2, 5, BOOTSTRAP_FROM + 5])
def test_equal_values_have_an_interval_of_no_width(n: int) -> None:
    interval = mean_interval([0.1] * n)
    assert bounds(interval) == (interval.estimate, interval.estimate) == pytest.approx((0.1, 0.1))
    assert interval.method == "all values equal"


def test_two_values_get_the_textbook_interval() -> None:
    # t(.975, 1) = 12.706; mean .5, standard error .1
    low, high = bounds(mean_interval([0.4, 0.6]))
    assert (low, high) == pytest.approx((0.5 - 1.2706, 0.5 + 1.2706), abs=1e-3)


def test_the_method_is_named_and_changes_where_the_bootstrap_holds_what_it_promises() -> None:
    values = np.random.default_rng(0).normal(size=BOOTSTRAP_FROM).tolist()
    assert mean_interval(values[:-1]).method == "Student t"
    assert mean_interval(values).method == "BCa bootstrap"


def test_a_bootstrapped_interval_is_repeatable_and_follows_its_seed() -> None:
    values = np.random.default_rng(0).exponential(size=30).tolist()
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_bootstrapped_intervals_lean_to_the_side_of_the_tail() -> None:
    values = np.random.default_rng(3).exponential(size=40).tolist()
    interval = mean_interval(values)
    low, high = bounds(interval)
    assert high - interval.estimate > interval.estimate - low


def test_small_samples_cover_as_often_as_they_say() -> None:
    """What the bootstrap does not (84 % at five values); 2,000 samples put 95 % within 1.2 points of 95."""
    draws = np.random.default_rng(0).normal(size=(2000, 5)).tolist()
    inside = sum(low <= 0 <= high for low, high in (bounds(mean_interval(x)) for x in draws))
    assert 0.938 < inside / len(draws) < 0.962


@pytest.mark.parametrize("values", [[0.1, math.nan], [math.inf], [[0.1], [0.2]]])
def test_what_is_no_plain_finite_number_is_refused(values: list[float]) -> None:
    with pytest.raises(UnusableValues, match="finite"):
        mean_interval(values)


def test_no_values_are_no_mean() -> None:
    with pytest.raises(TooFewValues, match="at least 1"):
        mean_interval([])


def test_seeds_are_resampled_with_all_their_tasks() -> None:
    """A seed's luck that all tasks share does not average out over tasks; opposite luck does."""
    luck = [0.1, -0.1, 0.2, -0.2]
    same = stratified_interval({"recall": [0.5 + x for x in luck], "mqar": [0.7 + x for x in luck]})
    opposite = stratified_interval({"recall": [0.5 + x for x in luck], "mqar": [0.7 - x for x in luck]})
    assert same.estimate == opposite.estimate == pytest.approx(0.6)
    assert np.diff(bounds(same)) == pytest.approx(np.diff(bounds(mean_interval(luck))))
    assert np.diff(bounds(opposite)) == 0
    assert same.n == 4


def test_tasks_need_the_same_seeds() -> None:
    with pytest.raises(UnusableValues, match="'mqar': 1"):
        stratified_interval({"recall": [0.1, 0.2], "mqar": [0.1]})
    with pytest.raises(TooFewValues):
        stratified_interval({})


def slow_sign_flip(difference: list[float], *, one_sided: bool) -> float:
    """Share of all sign patterns whose mean is at least as large (in absolute value, if two-sided)."""
    own = sum(difference)
    sums = [sum(s * d for s, d in zip(signs, difference, strict=True))
            for signs in itertools.product((1, -1), repeat=len(difference))]  # fmt: skip
    greater = sum(x >= own - 1e-12 for x in sums) / len(sums)
    less = sum(x <= own + 1e-12 for x in sums) / len(sums)
    return greater if one_sided else min(1.0, 2 * min(greater, less))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=7), st.booleans())
def test_the_permutation_test_counts_sign_patterns(twentieths: list[int], one_sided: bool) -> None:
    difference = [x / 20 for x in twentieths]
    found = paired_difference(difference, [0.0] * len(difference), alternative="greater" if one_sided else "two-sided")
    assert found.exact
    assert found.p == pytest.approx(slow_sign_flip(difference, one_sided=one_sided))


@pytest.mark.parametrize("n", [5, 13, 14])
def test_the_least_p_is_reached_when_every_seed_agrees(n: int) -> None:
    ours = [0.5 + 0.01 * i for i in range(n)]
    found = paired_difference(ours, [0.4] * n, alternative="greater")
    assert found.p == pytest.approx(smallest_p(n))
    assert found.exact == (n <= 13)


def test_five_seeds_cannot_say_less_than_one_in_thirty_two() -> None:
    assert smallest_p(5) == 1 / 32
    assert smallest_p(5, "two-sided") == 1 / 16
    assert smallest_p(1) == 1.0


def test_a_pair_alone_is_compared_without_a_test() -> None:
    found = paired_difference([0.7], [0.4])
    assert found.interval.estimate == pytest.approx(0.3)
    assert (found.interval.low, found.p, found.p_t) == (None, None, None)


def test_equal_differences_have_no_t_test_and_no_warning() -> None:
    found = paired_difference([0.3, 0.4, 0.6], [0.2, 0.3, 0.5], alternative="greater")
    assert found.p == pytest.approx(1 / 8)
    assert found.p_t is None
    nothing = paired_difference([0.3, 0.4], [0.3, 0.4], alternative="greater")
    assert (nothing.p, nothing.interval.estimate) == (1.0, 0.0)


def test_the_t_test_is_the_paired_one() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.464 at two degrees of freedom, p = .0742 on both sides."""
    found = paired_difference([11, 22, 33], [10, 20, 30])
    assert found.p_t == pytest.approx(0.0742, abs=1e-4)


def test_values_that_do_not_pair_are_refused() -> None:
    with pytest.raises(UnusableValues, match="no pairs"):
        paired_difference([0.1, 0.2], [0.1])


def test_holm_on_a_worked_example() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


@given(P_VALUES)
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1.0, len(p_values) * p)
    for one, other in itertools.combinations(p_values, 2):
        if p_values[one] < p_values[other]:
            assert adjusted[one] <= adjusted[other]


@given(P_VALUES)
def test_false_discovery_is_never_stricter_than_holm(p_values: dict[str, float]) -> None:
    adjusted, strict = false_discovery(p_values), holm(p_values)
    assert all(p_values[name] - 1e-12 <= adjusted[name] <= strict[name] + 1e-12 for name in p_values)


@pytest.mark.parametrize("adjust", [holm, false_discovery])
def test_what_is_no_probability_is_refused(adjust: object) -> None:
    with pytest.raises(UnusableValues, match="between 0 and 1"):
        adjust({"a": 1.5})  # type: ignore[operator]
    with pytest.raises(UnusableValues, match="between 0 and 1"):
        adjust({"a": math.nan})  # type: ignore[operator]


def test_pooled_spread_ignores_how_programs_differ() -> None:
    spread = pooled_seed_std([[0.1, 0.3], [0.9, 0.7], [0.5]])
    assert spread.estimate == pytest.approx(math.sqrt(2 * 0.02 / 2))
    assert spread.n == 4
    low, high = bounds(spread)
    assert low < spread.estimate < high


def test_pooled_spread_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(scale=0.03, size=(600, 10, 2)).tolist()
    inside = sum(low <= 0.03 <= high for low, high in (bounds(pooled_seed_std(groups)) for groups in draws))
    assert 0.92 < inside / len(draws) < 0.975


def test_no_repeats_are_no_noise_floor() -> None:
    with pytest.raises(TooFewValues, match="measure more seeds"):
        pooled_seed_std([[0.1], [0.2]])


def test_repeats_without_noise_have_a_floor_of_zero() -> None:
    floor = noise_floor("recall", "smoke", [[0.1, 0.1], [0.4, 0.4, 0.4], [0.2]])
    assert (floor.sigma, floor.low, floor.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (floor.groups, floor.runs) == (2, 5)


def test_detectable_difference_of_the_study() -> None:
    """The study's curve composite: sigma .014 and two seeds each give .027; its composite .038 and three give .061."""
    assert smallest_detectable(0.014, 2) == pytest.approx(0.027, abs=5e-4)
    assert smallest_detectable(0.038, 3) == pytest.approx(0.061, abs=5e-4)
    with pytest.raises(TooFewValues):
        smallest_detectable(0.01, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=7), st.data())
def test_the_expected_best_is_the_mean_over_all_draws(values: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(values)))
    slow = np.mean([max(drawn) for drawn in itertools.combinations(values, n)])
    assert expected_best_of(values, n) == pytest.approx(slow, abs=1e-12)


@given(st.lists(SCORES, min_size=2, max_size=40))
def test_more_draws_never_expect_less(values: list[float]) -> None:
    best = [expected_best_of(values, n) for n in range(1, len(values) + 1)]
    assert best[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert best[-1] == max(values)
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(best))


@pytest.mark.parametrize("n", [0, 4])
def test_the_best_of_more_than_there_are_is_not_extrapolated(n: int) -> None:
    with pytest.raises(TooFewValues, match="needs at least"):
        expected_best_of([0.1, 0.2, 0.3], n)


def test_relative_improvement_beside_what_luck_alone_gives() -> None:
    found = relative_improvement(0.6, [0.2, 0.4, 0.6], n=2)
    assert found.value == pytest.approx(50)
    assert found.best_of_n == pytest.approx(100 * ((0.4 + 0.6 + 0.6) / 3 - 0.4) / 0.4)
    assert found.reason == "ok"


@given(st.lists(SCORES, min_size=1, max_size=6), SCORES, st.integers(1, 8))
def test_relative_improvement_is_finite_or_explained(values: list[float], score: float, n: int) -> None:
    assume(abs(np.mean(values)) > 1e-300)
    found = relative_improvement(score, values, n)
    for number in (found.value, found.best_of_n):
        assert number is None or math.isfinite(number)
    assert (found.best_of_n is None) == (found.reason != "ok")


@pytest.mark.parametrize("arm", [[0.0, 0.0], [-0.1, 0.05]])
def test_a_random_arm_at_or_below_chance_gives_no_ratio(arm: list[float]) -> None:
    found = relative_improvement(0.5, arm, n=1)
    assert (found.value, found.best_of_n) == (None, None)
    assert "compare differences" in found.reason
    with pytest.raises(TooFewValues, match="random arm"):
        relative_improvement(0.5, [], n=1)


def test_rank_correlation_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=24)
    close = spearman(x.tolist(), (x + 0.3 * rng.normal(size=24)).tolist())
    low, high = bounds(close)
    assert 0.6 < low < close.estimate < high < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perfect = spearman([1, 2, 3, 4, 5, 6, 7, 8], [2, 4, 6, 8, 10, 12, 14, 16])
    assert perfect.estimate == pytest.approx(1)


def test_rank_correlation_that_does_not_exist() -> None:
    with pytest.raises(UnusableValues, match="equal on one side"):
        spearman([1, 1, 1], [1, 2, 3])
    with pytest.raises(TooFewValues):
        spearman([1, 2], [1, 2])
    with pytest.raises(UnusableValues, match="no pairs"):
        spearman([1, 2, 3], [1, 2])


def test_solved_share_of_few_seeds() -> None:
    """Wilson 1927 for 0 of 5: 0 to z^2 / (5 + z^2) = .434."""
    none = wilson(0, 5)
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1.9600**2 / (5 + 1.9600**2), abs=1e-4)
    assert bounds(wilson(3, 5)) == pytest.approx((0.2307, 0.8824), abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "n", "error"), [(0, 0, TooFewValues), (3, 2, UnusableValues), (-1, 2, UnusableValues)]
)
def test_impossible_counts_are_refused(successes: int, n: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        wilson(successes, n)
