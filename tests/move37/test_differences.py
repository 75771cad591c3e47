"""Differences to the parent: paired over the seeds that both have, and none where there is nothing to pair."""

from pathlib import Path

import pytest

from agents.contexts import Difference
from memory.store import Store
from move37.differences import Differences
from move37.tracing import Tracer
from tests.move37 import stored_lineages


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stored_lineages.make(tmp_path / "runs").open()


def between(store: Store, child: str, parent: str, known: Differences | None = None) -> Difference | None:
    known = known or Differences()
    return known.between(store, store.experiment(child), store.experiment(parent), ("mqar", "recall"))


def test_it_is_the_interval_of_move37_lineage(store: Store) -> None:
    found = between(store, "demo-0003", "demo-0001")
    shown = Tracer(store).compare(store.experiment("demo-0001"), store.experiment("demo-0003")).score.as_dict()
    assert found is not None
    assert found.seeds == 3
    assert found.estimate == pytest.approx(shown["delta"])


def test_only_common_seeds_are_paired_and_one_has_no_interval(store: Store) -> None:
    found = between(store, "demo-0002", "demo-0000")
    assert found is not None
    assert found.seeds == 1
    assert found.low is None
    assert found.estimate == pytest.approx((0.3 + 0.1) / 2 - (0.2 + 0.1) / 2)


def test_without_scores_there_is_no_difference(store: Store) -> None:
    assert between(store, "demo-0004", "demo-0003") is None
    assert between(store, "demo-0005", "demo-0003") is None


def test_many_are_read_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Differences()
    known.read(store, [f"demo-000{n}" for n in range(6)], ("mqar", "recall"))
    monkeypatch.setattr(Store, "scores", None)
    assert between(store, "demo-0003", "demo-0001", known) is not None
