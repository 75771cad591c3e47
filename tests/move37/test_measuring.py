"""Differences against noise, the shape of curves, and how predictions are scored."""

import math
from contextlib import closing
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.store import open_store
from memory.testing import new_campaign, new_experiment, trial
from move37.calibration import Forecast, by, forecasts_of, line, score
from move37.curves import shape
from move37.measuring import Difference, Noise, Ruler, difference

NOISE = Noise("sequence", "smoke", ("recall", "mqar"))
UNMEASURED = Noise("sequence", "micro", ("recall",))
POINTS = (0.1, 0.25, 0.5, 1.0)


def test_a_difference_is_weighed_against_the_stored_noise_floor() -> None:
    small = difference({"recall": {0: 0.2}, "mqar": {0: 0.1}}, {"recall": {0: 0.1}, "mqar": {0: 0.1}}, NOISE)
    large = difference({"recall": {0: 0.5}, "mqar": {0: 0.1}}, {"recall": {0: 0.1}, "mqar": {0: 0.1}}, NOISE)
    assert small.tasks["recall"].beyond_noise is False
    assert large.tasks["recall"].sign == 1
    assert large.score is not None
    assert large.score.value == pytest.approx(0.2)
    assert large.score.n == 1
    assert large.score.low is None
    assert large.sign == 1


def test_scores_taken_at_once_compare_as_those_read_one_by_one() -> None:
    with closing(open_store("sqlite://")) as store:
        campaign = new_campaign(store)
        parent, child = (new_experiment(store, campaign, index) for index in (0, 1))
        for one, gain in ((parent, 0.0), (child, 0.2)):
            for place, (task, seed, data) in enumerate(product(("recall", "mqar"), (0, 1), ("selection", "claim"))):
                made = trial(store, one, seed, task=task, data=data)
                score = None if (one, task, seed) == (child, "mqar", 1) else 0.1 + gain + place / 50
                state = "failed" if score is None else "completed"
                store.finish_trial(made.id, state=state, reason="ok", score=score, device_s=1.0)
        at_once, one_by_one = Ruler(store, NOISE), Ruler(store, NOISE)
        at_once.preload(store.campaign_scores(campaign.id))
        found = at_once.compare(child.id, parent.id)
        assert found == one_by_one.compare(child.id, parent.id)
        assert (found.tasks["recall"].n, found.tasks["mqar"].n) == (2, 1)


def test_without_a_floor_one_seed_says_nothing_and_several_say_it_by_their_interval() -> None:
    one = difference({"recall": {0: 0.9}}, {"recall": {0: 0.1}}, UNMEASURED)
    assert one.tasks["recall"].beyond_noise is None
    assert one.sign == 0
    three = difference(
        {"recall": {0: 0.90, 1: 0.91, 2: 0.92}}, {"recall": {0: 0.1, 1: 0.12, 2: 0.11, 3: 0.9}}, UNMEASURED
    )
    assert three.tasks["recall"].beyond_noise is True
    assert three.tasks["recall"].n == 3


def test_from_three_seeds_on_both_floor_and_interval_must_agree() -> None:
    assert Difference(0.3, -0.1, 0.7, 3, 0.1).beyond_noise is False
    assert Difference(0.3, -0.1, 0.7, 2, 0.1).beyond_noise is True
    assert Difference(0.3, 0.1, 0.5, 3, 0.1).sign == 1
    assert Difference(-0.3, -0.5, -0.1, 3, 0.4).sign == 0


def test_what_stopped_halfway_has_no_score() -> None:
    parent = {"recall": {0: 0.1, 1: 0.1}, "mqar": {0: 0.1, 1: 0.1}}
    assert difference({"recall": {0: 0.5}}, parent, NOISE).score is None
    assert difference({"recall": {0: 0.5, 1: 0.5}, "mqar": {0: 0.5}}, parent, NOISE).score is None
    assert difference({}, parent, NOISE).tasks == {}


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.12, 0.13, 0.12, 0.13), "at chance throughout"),
        ((0.12, 0.12, 0.13, 0.60), "at chance until 50 %, then rises; still rising at the end"),
        ((0.12, 0.40, 0.60, 0.62), "at chance until 10 %, then rises; flat at the end"),
        ((0.30, 0.60, 0.90, 0.99), "above chance from 10 % on, then rises; solved at the end"),
        ((0.99, 1.00, 1.00, 1.00), "solved by 10 %; solved at the end"),
        ((0.30, 0.31, 0.30, 0.31), "above chance from 10 % on, and no better later"),
        ((0.12, 0.60, 0.90, 0.40), "at chance until 10 %, then rises; falls back at the end"),
    ],
)
def test_the_shape_of_a_curve_is_said_in_words(accuracies: tuple[float, ...], said: str) -> None:
    assert shape(list(zip(POINTS, accuracies, strict=True)), 0.125) == said


def test_a_curve_that_is_not_there_is_said_to_be_so() -> None:
    assert shape([], 0.1) == "not recorded"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 0.9))
def test_every_curve_has_a_shape(accuracies: list[float], chance: float) -> None:
    assert shape([(0.1 * (i + 1), a) for i, a in enumerate(accuracies)], chance)


def forecast(direction: str, size: float, measured: float, noise: float = 0.05, **more: str) -> Forecast:
    settings = {"experiment_id": "a-0001", "model": "m", "mode": "improve", "task": "recall"} | more
    return Forecast(**settings, direction=direction, size=size, measured=measured, noise=noise)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("direction", "size", "measured", "right"),
    [
        ("up", 0.2, 0.1, True),
        ("up", 0.2, 0.04, False),  # within noise: nothing was seen to move
        ("up", 0.2, -0.3, False),
        ("down", 0.2, -0.1, True),
        ("same", 0.02, 0.04, True),
        ("same", 0.1, 0.08, True),
        ("same", 0.02, -0.2, False),
    ],
)
def test_a_direction_is_right_beyond_noise(direction: str, size: float, measured: float, right: bool) -> None:
    assert forecast(direction, size, measured).right is right


def test_calibration_is_counted_per_prediction() -> None:
    made = [forecast("up", 0.2, 0.2), forecast("up", 0.2, -0.2, mode="ablate"), forecast("same", 0.02, 0.0)]
    found = score(made)
    assert found is not None
    assert (found.right, found.n) == (2, 3)
    assert found.error == pytest.approx(0.4 / 3)
    assert found.skill == pytest.approx(1 - 0.16 / 0.08)
    assert found.low < found.rate < found.high
    assert {name: one.n for name, one in by(made, lambda f: f.mode).items()} == {"ablate": 1, "improve": 2}
    assert line(made).startswith("direction right in 2 of 3 (95 % interval 0.21 to 0.94); sizes off by 0.133")
    assert score([]) is None
    assert line([]) == ""


class Scored:
    """The trials of experiments with one score each, on one task."""

    def __init__(self, **scores: float) -> None:
        self._scores = scores

    def trials(self, experiment_id: str | None = None) -> Any:
        score = self._scores[str(experiment_id)]
        return [SimpleNamespace(experiment_id=experiment_id, data="selection", task="recall", seed=0, score=score)]


def test_a_prediction_belongs_to_the_model_that_made_it() -> None:
    """With several models in a campaign, each experiment is one's; without, all are the campaign's."""
    said = {"predictions": [{"task": "recall", "direction": "up", "size": 0.2}]}
    made: list[Any] = [
        SimpleNamespace(
            id=name,
            campaign_id="c",
            status="completed",
            kind="proposal",
            parent_id="p",
            hypothesis=said,
            selection=chosen,
        )
        for name, chosen in (("a", {"model": "first"}), ("b", {"model": "second"}), ("old", {}))
    ]
    ruler = Ruler(Scored(p=0.1, a=0.5, b=0.1, old=0.5), Noise("sequence", "smoke", ("recall",)), intervals=False)
    found = by(forecasts_of(made, ruler, {"c": "first"}), lambda f: f.model)
    assert {name: (one.right, one.n) for name, one in found.items()} == {"first": (2, 2), "second": (0, 1)}


forecasts = st.lists(
    st.builds(forecast, st.sampled_from(["up", "down", "same"]), st.floats(0, 1), st.floats(-1, 1)),
    min_size=1,
    max_size=12,
)


@given(forecasts)
def test_skill_has_its_reference_points(made: list[Forecast]) -> None:
    found = score(made)
    assert found is not None
    assert 0 <= found.low <= found.rate <= found.high <= 1
    silent = score([forecast("same", 0.0, one.measured) for one in made])
    assert silent is not None
    if found.skill is not None:
        assert found.skill <= 1
        assert math.isclose(silent.skill or 0.0, 0.0, abs_tol=1e-9)
