"""The stored measurements: written and read alike, never used under another definition, and not left behind."""

import pytest

from evaluator import catalogue, measured, tiers
from evaluator.measured import Measurements, decode, encode
from evaluator.objective import task_hash
from evaluator.statistics import pooled_seed_std

TRACK, TIER = "sequence", "smoke"
RECALL, MQAR = task_hash(TRACK, TIER, "recall"), task_hash(TRACK, TIER, "mqar")
SCORES = {"a": {0: 0.1, 1: 0.3}, "b": {0: 0.5}}


def stored(recall: str = RECALL) -> Measurements:
    tasks = {"recall": (recall, SCORES), "mqar": (MQAR, {"a": {0: 0.3, 1: 0.5}, "c": {0: 0.0}})}
    return Measurements(TIER, "a machine", tasks, {"a": {"parameters": 7.0}})


def test_what_was_written_is_what_is_read() -> None:
    assert decode(encode(stored())) == stored()


def test_scores_of_another_definition_are_not_found() -> None:
    assert stored().scores(TRACK, "recall") == SCORES
    assert stored("0" * 16).scores(TRACK, "recall") == {}
    assert stored().scores(TRACK, "recall:length=20") == {}


def test_composites_need_every_task_and_every_seed() -> None:
    assert stored().composites(TRACK, ["recall", "mqar"], [0, 1]) == {"a": [pytest.approx(0.2), pytest.approx(0.4)]}
    assert stored().composites(TRACK, ["recall"], [0]) == {"a": [0.1], "b": [0.5]}
    assert stored().composites(TRACK, ["recall", "mqar"], [0, 2]) == {}
    assert stored("0" * 16).composites(TRACK, ["recall"], [0]) == {}


def test_groups_are_references_with_several_seeds() -> None:
    assert stored().groups(TRACK, "recall") == [[0.1, 0.3]]


def test_a_tier_without_measurements_has_none() -> None:
    assert measured.load("micro").scores(TRACK, "recall") == {}


def test_every_reference_is_measured_on_every_ranking_task_as_they_are_defined_now() -> None:
    """Fails when a task, the recipe or the scorer changed: `python -m benchmarks.reference_mixers` measures anew."""
    now = measured.load(TIER)
    for task in tiers.get(TRACK, TIER).ranking_tasks:
        scores = now.scores(TRACK, task)
        assert set(scores) == set(catalogue.names()), task
        assert all(len(by_seed) >= 3 for by_seed in scores.values()), task
        assert pooled_seed_std(now.groups(TRACK, task)).estimate > 0, task
