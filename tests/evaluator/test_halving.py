"""Successive halving: its arithmetic, its caution with late bloomers, its audit, and the same answer every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.halving import Curves, Decision, HalvingError, Schedule, State, decide, replay, so_far, start

RUNGS = (0.25, 0.5, 1.0)
EARLY = {"lm": 0.25, "recall": 0.5}
NO_AUDIT = Schedule(earliest_cut=EARLY, audit=0.0)


def names(n: int) -> list[str]:
    return [f"c{index:02d}" for index in range(n)]


def straight(n: int, *, tasks: tuple[str, ...] = ("lm",)) -> Curves:
    """Curves that keep their order all along: c00 is the worst."""
    return {name: {task: {r: i * r / n for r in (0.1, *RUNGS)} for task in tasks} for i, name in enumerate(names(n))}


def scores(curves: Curves, rung: float) -> dict[str, dict[str, float]]:
    return {name: {task: so_far(curve, rung) for task, curve in tasks.items()} for name, tasks in curves.items()}


def at(rung: float, curves: Curves, schedule: Schedule, *, seed: int = 0, state: State | None = None) -> Decision:
    return decide(rung, scores(curves, rung), schedule=schedule, seed=seed, state=state or start(curves))


def test_half_of_the_field_is_promoted_at_each_rung() -> None:
    curves = straight(8)
    first = at(0.25, curves, NO_AUDIT)
    assert first.promoted == ("c04", "c05", "c06", "c07")
    assert first.stopped == ("c00", "c01", "c02", "c03")
    second = at(0.5, curves, NO_AUDIT, state=first.state)
    assert second.promoted == ("c06", "c07")
    assert second.state == State(("c06", "c07"), ("c00", "c01", "c02", "c03", "c04", "c05"), ())


def test_a_task_that_may_not_cut_yet_does_not_count() -> None:
    """By the language model c00 leads at a quarter, by recall c01 does; recall is asked at half only."""
    curves: Curves = {
        "c00": {"lm": {0.25: 0.6, 0.5: 0.6, 1.0: 0.6}, "recall": {0.25: 0.0, 0.5: 0.0, 1.0: 0.0}},
        "c01": {"lm": {0.25: 0.5, 0.5: 0.6, 1.0: 0.6}, "recall": {0.25: 0.9, 0.5: 0.9, 1.0: 0.9}},
    }
    assert at(0.25, curves, NO_AUDIT).promoted == ("c00",)
    assert at(0.5, curves, NO_AUDIT).promoted == ("c01",)


@pytest.mark.parametrize("schedule", [NO_AUDIT, Schedule(audit=0.5)], ids=["named", "by default"])
def test_a_rung_that_no_task_may_cut_keeps_everyone(schedule: Schedule) -> None:
    decision = at(0.25, straight(8, tasks=("recall",)), schedule)
    assert decision.promoted == tuple(names(8))
    assert (decision.stopped, decision.audited) == ((), ())


def test_equal_scores_are_ranked_by_name() -> None:
    curves: Curves = {name: {"lm": {0.25: 0.5}} for name in ("b", "d", "a", "c")}
    assert at(0.25, curves, NO_AUDIT).promoted == ("a", "b")


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (2, 1), (3, 2), (5, 3), (24, 12)])
def test_the_field_is_never_emptied(n: int, kept: int) -> None:
    assert len(at(0.25, straight(n), NO_AUDIT).promoted) == kept


def test_eta_says_how_deep_a_cut_is() -> None:
    assert len(at(0.25, straight(9), Schedule(eta=3, earliest_cut=EARLY, audit=0.0)).promoted) == 3


def test_every_loser_is_audited_with_the_stated_probability() -> None:
    curves, schedule = straight(24), Schedule(earliest_cut=EARLY)
    drawn = [at(0.25, curves, schedule, seed=seed).audited for seed in range(2000)]
    assert {len(one) for one in drawn} == {1, 2}  # a tenth of twelve is 1.2
    rates = np.array([sum(name in one for one in drawn) / len(drawn) for name in names(12)])
    assert rates.mean() == pytest.approx(0.1, abs=0.002)
    assert np.abs(rates - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / 2000)


def test_a_whole_number_of_audits_is_that_number() -> None:
    counts = {len(at(0.25, straight(60), Schedule(earliest_cut=EARLY), seed=seed).audited) for seed in range(50)}
    assert counts == {3}


def test_audited_candidates_compete_no_more() -> None:
    curves = straight(8)
    first = at(0.25, curves, Schedule(earliest_cut=EARLY, audit=1.0))
    assert (first.audited, first.stopped) == (("c00", "c01", "c02", "c03"), ())
    second = at(0.5, curves, Schedule(earliest_cut=EARLY, audit=1.0), state=first.state)
    assert second.promoted == ("c06", "c07")
    assert second.state.audited == ("c00", "c01", "c02", "c03", "c04", "c05")


def test_another_process_decides_alike() -> None:
    code = (
        "from evaluator.halving import *; n = [f'c{i:02d}' for i in range(24)]\n"
        "s = {x: {'lm': i / 24} for i, x in enumerate(n)}\n"
        "print(decide(.25, s, schedule=Schedule(earliest_cut={'lm': .25}), seed=7, state=start(set(n))).audited)"
    )
    root = Path(__file__).resolve().parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=os.environ | {"PYTHONHASHSEED": hashing}, capture_output=True,
            text=True, check=True,
        ).stdout
        for hashing in ("1", "2")
    }  # fmt: skip
    values = {name: {"lm": i / 24} for i, name in enumerate(names(24))}
    here = decide(0.25, values, schedule=Schedule(earliest_cut=EARLY), seed=7, state=start(names(24))).audited
    assert said == {f"{here}\n"}


def test_failed_candidates_leave_the_field() -> None:
    assert State(("a", "b"), ("c",), ("d",)).without("a", "d") == State(("b",), ("c",), ())


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    state = start(["a", "b"])

    def ask(values: dict[str, dict[str, float]], rung: float = 0.25) -> Decision:
        return decide(rung, values, schedule=NO_AUDIT, seed=0, state=state)

    with pytest.raises(HalvingError, match="no scores for b"):
        ask({"a": {"lm": 0.1}})
    with pytest.raises(HalvingError, match="same tasks"):
        ask({"a": {"lm": 0.1}, "b": {"recall": 0.1}})
    for value in (float("nan"), float("inf")):
        with pytest.raises(HalvingError, match="scores of b are not finite"):
            ask({"a": {"lm": 0.1}, "b": {"lm": value}})
    for rung in (1.0, 0.3):
        with pytest.raises(HalvingError, match="no rung that decides"):
            ask({"a": {"lm": 0.1}, "b": {"lm": 0.2}}, rung)
    with pytest.raises(HalvingError, match="names of their own"):
        start(["a", "a"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"eta": 1},
        {"audit": 1.5},
        *({"rungs": rungs} for rungs in ((), (0.5, 0.25, 1.0), (0.25, 0.5), (0.0, 1.0), (0.25, 0.25, 1.0))),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(HalvingError):
        Schedule(**wrong)  # type: ignore[arg-type]


def test_a_score_so_far_is_the_mean_of_the_curve_up_to_there() -> None:
    curve = {0.1: 0.0, 0.25: 0.2, 0.5: 0.4, 1.0: 1.0}
    assert so_far(curve, 0.25) == pytest.approx(0.1)
    assert so_far(curve, 1.0) == pytest.approx(0.4)
    assert so_far(curve, 0.5, "last") == 0.4
    with pytest.raises(HalvingError, match=r"up to 0\.05"):
        so_far(curve, 0.05)


def test_two_halvings_cost_half_and_an_order_that_holds_costs_no_regret() -> None:
    played = replay(straight(24), NO_AUDIT)
    assert played.compute == pytest.approx(0.5)
    assert (played.selected, played.best, played.regret) == ("c23", "c23", 0.0)
    assert (len(played.survivors), len(played.losers), played.false_kills) == (6, 18, ())
    assert (played.top_kept(6), played.top_kept(12)) == (1.0, 0.5)


def test_a_task_that_cuts_late_costs_three_quarters() -> None:
    assert replay(straight(24, tasks=("recall",)), NO_AUDIT).compute == pytest.approx(0.75)


def test_an_audit_of_a_tenth_costs_a_twentieth_on_average() -> None:
    """A tenth of half the field for three quarters, and of a quarter for half: .0375 + .0125."""
    played = [replay(straight(24), Schedule(earliest_cut=EARLY), seed=seed) for seed in range(1000)]
    assert np.mean([one.audit_compute for one in played]) == pytest.approx(0.05, abs=0.001)
    assert all(one.compute == pytest.approx(0.5 + one.audit_compute) for one in played)


def test_costs_weigh_candidates() -> None:
    """c00 is stopped at a quarter; where it costs as much as all others together, more is saved."""
    curves = straight(2)
    even = replay(curves, NO_AUDIT)
    dear = replay(curves, NO_AUDIT, costs={"c00": {"lm": 9.0}, "c01": {"lm": 1.0}})
    assert even.compute == pytest.approx((0.25 + 1) / 2)
    assert dear.compute == pytest.approx((9 * 0.25 + 1) / 10)


def late_bloomer() -> Curves:
    """The worst of eight at every rung, and the best at the end."""
    curves = {name: dict(tasks) for name, tasks in straight(8).items()}
    curves["c00"] = {"lm": {0.1: 0.0, 0.25: 0.0, 0.5: 0.0, 1.0: 9.0}}
    return curves


def test_a_late_bloomer_is_regretted_and_counted() -> None:
    played = replay(late_bloomer(), NO_AUDIT)
    assert (played.best, played.selected, played.false_kills) == ("c00", "c07", ("c00",))
    assert 0 < played.regret <= 1
    assert played.false_kill_rate == pytest.approx(1 / 6)
    assert played.audited_false_kill_rate is None


def test_the_audit_measures_the_rate_of_false_kills_without_bias() -> None:
    played = [replay(late_bloomer(), Schedule(earliest_cut=EARLY, audit=0.2), seed=seed) for seed in range(3000)]
    caught = sum("c00" in one.audited for one in played)
    audited = sum(len(one.audited) for one in played)
    assert caught / audited == pytest.approx(played[0].false_kill_rate, abs=0.015)
    assert {one.audited_false_kill_rate for one in played} <= {None, 0.0, 0.5, 1.0}


def test_no_curves_are_refused() -> None:
    with pytest.raises(HalvingError, match="no curves"):
        replay({}, NO_AUDIT)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
    st.integers(2, 4),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_whatever_the_curves_the_books_balance(
    points: list[tuple[float, float, float]], eta: int, audit: float, seed: int
) -> None:
    curves: Curves = {
        name: {"lm": dict(zip(RUNGS, three, strict=True))}
        for name, three in zip(names(len(points)), points, strict=True)
    }
    schedule = Schedule(eta=eta, earliest_cut=EARLY, audit=audit)
    played = replay(curves, schedule, seed=seed)
    assert sorted((*played.survivors, *played.losers)) == sorted(curves)
    assert set(played.audited) <= set(played.losers)
    assert 0 <= played.regret <= 1
    assert 0.25 <= played.compute <= 1 + 1e-9
    assert played.selected in played.survivors
    assert played == replay(curves, schedule, seed=seed)
