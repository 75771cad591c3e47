"""Each condition of a finding alone denies it, all that fail are named, and chance passes no more often than alpha."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.findings import Claim, Finding, judge, seeds_needed
from evaluator.statistics import NoiseFloor, UnusableValues, noise_floor, smallest_detectable

FLOOR = NoiseFloor("composite", "smoke", 0.01, 0.008, 0.013, 13, 39)
SEEDS = tuple(range(100, 105))
OBJECTIVE = "a" * 64


def claim(
    name: str = "walk", *, gain: float = 0.1, seeds: tuple[int, ...] = SEEDS, baseline_seeds: tuple[int, ...] = (),
    baseline_objective: str = OBJECTIVE, selection_seeds: frozenset[int] = frozenset({0, 1}),
    control: float | None = None,
) -> Claim:  # fmt: skip
    theirs = {seed: 0.5 + 0.001 * (seed % 7) for seed in baseline_seeds or seeds}
    ours = {seed: 0.5 + gain + 0.001 * (seed % 5) for seed in seeds}
    return Claim(name, ours, theirs, OBJECTIVE, baseline_objective, selection_seeds, control)


def only(found: tuple[Finding, ...]) -> Finding:
    assert len(found) == 1
    return found[0]


def test_a_clear_gain_on_five_fresh_seeds_is_a_finding() -> None:
    found = only(judge([claim()], floor=FLOOR))
    assert found.supported
    assert (found.code, found.codes, found.seeds) == ("supported", (), SEEDS)
    assert found.p == found.p_adjusted == 1 / 32
    assert found.effect is not None
    assert found.effect == pytest.approx(0.1, abs=0.005)
    assert found.threshold == smallest_detectable(0.01, 5)
    assert "is a finding" in found.sentence


@pytest.mark.parametrize(
    ("wrong", "codes"),
    [
        (claim(baseline_objective="b" * 64), {"different_objective", "not_significant"}),
        (claim(seeds=SEEDS[:4]), {"too_few_seeds", "not_significant", "needs_more_seeds"}),
        (claim(selection_seeds=frozenset({100})), {"seeds_not_fresh", "too_few_seeds"}),
        (claim(seeds=(*range(100, 107),), selection_seeds=frozenset({100})), {"seeds_not_fresh"}),
        (claim(seeds=(*range(100, 106),), baseline_seeds=SEEDS), {"baseline_not_rerun"}),
        (claim(baseline_seeds=(*SEEDS, 0)), {"baseline_not_rerun", "seeds_not_fresh"}),
        (claim(gain=-0.1), {"not_significant", "below_noise_floor"}),
        (claim(gain=0.01), {"below_noise_floor"}),
        (claim(baseline_seeds=(7, 8, 9, 10, 11)), {"baseline_not_rerun", "not_significant", "needs_more_seeds"}),
    ],
)  # fmt: skip
def test_every_condition_that_fails_is_named(wrong: Claim, codes: set[str]) -> None:
    found = only(judge([wrong], floor=FLOOR))
    assert not found.supported
    assert set(found.codes) == codes
    assert all(reason.text in found.sentence for reason in found.reasons)
    assert "is not supported" in found.sentence
    assert "finding" not in found.sentence


def test_without_a_measured_noise_floor_nothing_is_a_finding() -> None:
    assert only(judge([claim()], floor=None)).codes == ("noise_floor_unmeasured",)


def test_a_floor_of_zero_still_asks_for_a_gain() -> None:
    still = noise_floor("composite", "smoke", [[0.5, 0.5]])
    assert only(judge([claim()], floor=still)).supported
    same = Claim("same", dict.fromkeys(SEEDS, 0.5), dict.fromkeys(SEEDS, 0.5), OBJECTIVE, OBJECTIVE)
    assert set(only(judge([same], floor=still)).codes) == {"not_significant", "below_noise_floor"}


def test_a_family_that_five_seeds_cannot_decide_is_told_how_many_it_needs() -> None:
    family = [claim(f"walk_{index}") for index in range(8)]
    for found in judge(family, floor=FLOOR):
        assert found.codes == ("not_significant", "needs_more_seeds")
        assert "8 seeds are needed" in found.sentence
    enough = tuple(range(100, 108))
    assert all(found.supported for found in judge([claim(f"w{i}", seeds=enough) for i in range(8)], floor=FLOOR))


@pytest.mark.parametrize(("family", "needed"), [(1, 5), (2, 6), (8, 8), (100, 11), (1000, None)])
def test_seeds_that_a_family_needs(family: int, needed: int | None) -> None:
    assert seeds_needed(family) == needed


def test_a_family_too_large_for_any_number_of_seeds_is_told_to_shrink() -> None:
    found = judge([claim(f"walk_{index}") for index in range(600)], floor=FLOOR)[0]
    assert "claim fewer candidates" in found.sentence


def test_hopeless_claims_count_in_the_family_too() -> None:
    alone = only(judge([claim()], floor=FLOOR))
    beside = judge([claim(), claim("other", baseline_objective="b" * 64)], floor=FLOOR)[0]
    assert alone.supported
    assert beside.p_adjusted == pytest.approx(2 * alone.p_adjusted)
    assert not beside.supported


def test_a_control_is_reported_and_decides_nothing() -> None:
    for control, above in ((0.9, False), (0.2, True), (None, None)):
        found = only(judge([claim(control=control)], floor=FLOOR))
        assert (found.supported, found.above_control) == (True, above)
    with pytest.raises(UnusableValues, match="control"):
        judge([claim(control=float("nan"))], floor=FLOOR)


def test_claims_need_names_and_finite_scores() -> None:
    with pytest.raises(UnusableValues, match="names of their own"):
        judge([claim("a"), claim("a")], floor=FLOOR)
    broken = Claim("a", {1: float("nan")}, {1: 0.1}, OBJECTIVE, OBJECTIVE)
    with pytest.raises(UnusableValues, match="finite"):
        judge([broken], floor=FLOOR)


def test_no_claims_and_a_claim_without_scores() -> None:
    assert judge([], floor=FLOOR) == ()
    found = only(judge([Claim("none", {}, {}, OBJECTIVE, OBJECTIVE)], floor=FLOOR))
    assert (found.supported, found.interval, found.effect) == (False, None, None)
    assert set(found.codes) == {"too_few_seeds", "not_significant", "needs_more_seeds"}


def test_noise_alone_passes_no_more_often_than_alpha() -> None:
    """400 families of three claims without any effect, and a floor that stops nothing."""
    rng = np.random.default_rng(0)
    open_floor = NoiseFloor("composite", "smoke", 1e-9, 0.0, 1.0, 2, 4)
    seeds = tuple(range(8))

    def family() -> list[Claim]:
        scores = rng.normal(0.5, 0.02, size=(3, 2, len(seeds))).tolist()
        paired: list[list[Mapping[int, float]]] = [[dict(zip(seeds, x, strict=True)) for x in two] for two in scores]
        return [Claim(str(i), ours, theirs, OBJECTIVE, OBJECTIVE) for i, (ours, theirs) in enumerate(paired)]

    wrong = sum(any(found.supported for found in judge(family(), floor=open_floor)) for _ in range(400))
    assert wrong / 400 < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 12), st.integers(0, 100), max_size=9),
    st.dictionaries(st.integers(0, 12), st.integers(0, 100), max_size=9),
    st.frozensets(st.integers(0, 12), max_size=3),
)
def test_a_verdict_is_supported_exactly_when_nothing_is_missing(
    ours: dict[int, int], theirs: dict[int, int], seen: frozenset[int]
) -> None:
    candidate, baseline = ({seed: x / 100 for seed, x in one.items()} for one in (ours, theirs))
    found = only(judge([Claim("any", candidate, baseline, OBJECTIVE, OBJECTIVE, seen)], floor=FLOOR))
    assert found.supported == (not found.reasons)
    assert ("finding" in found.sentence) == found.supported
    if found.supported:
        assert ours.keys() == theirs.keys()
        assert len(ours) >= 5
        assert not seen & ours.keys()
        assert found.effect is not None
        assert found.threshold is not None
        assert found.effect > found.threshold
