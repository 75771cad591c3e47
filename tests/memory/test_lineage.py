"""The lineage's pure functions, over experiments of a real store and over generated ones."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import lineage
from memory.errors import NotFound
from memory.records import Experiment
from memory.store import open_store
from memory.testing import Ticking, completed, new_campaign, new_experiment


def made() -> list[Experiment]:
    """0 ─ 1 ─ 3 and 0 ─ 2, and 4 open with no parent."""
    store = open_store("sqlite://", clock=Ticking())
    campaign = new_campaign(store)
    completed(store, campaign, 0, 0.5)
    completed(store, campaign, 1, 0.75, parent="demo-0000")
    completed(store, campaign, 2, 0.25, parent="demo-0000")
    completed(store, campaign, 3, 0.75, parent="demo-0001")
    new_experiment(store, campaign, 4)
    experiments = store.experiments(campaign.id)
    store.close()
    return experiments


def test_tree_is_ordered_by_index() -> None:
    experiments = made()
    first, last = lineage.tree(reversed(experiments))
    assert [(node.experiment.index, node.depth) for node in first.walk()] == [(0, 0), (1, 1), (3, 2), (2, 1)]
    assert (last.experiment.index, last.children) == (4, ())
    assert [one.index for one in lineage.children(experiments, "demo-0000")] == [1, 2]


def test_path_and_gains() -> None:
    experiments = made()
    path = lineage.path_to_root(experiments, "demo-0003")
    assert [one.index for one in path] == [3, 1, 0]
    assert [(step.parent.index, step.child.index, step.gain) for step in lineage.gains(path)] == [
        (0, 1, 0.25),
        (1, 3, 0.0),
    ]
    unscored = dataclasses.replace(path[0], score=None)
    assert lineage.gains((unscored, *path[1:]))[-1].gain is None
    assert lineage.gains(path[:1]) == ()
    with pytest.raises(NotFound):
        lineage.path_to_root(experiments, "nobody")


def test_best_is_the_highest_and_then_the_earliest() -> None:
    experiments = made()
    found = lineage.best(experiments)
    assert found is not None
    assert found.index == 1
    assert lineage.best(experiments[4:]) is None
    failed = [dataclasses.replace(one, status="failed") for one in experiments]
    assert lineage.best(failed) is None


def test_missing_parents_make_roots() -> None:
    experiments = made()
    assert [node.experiment.index for node in lineage.tree(experiments[1:])] == [1, 2, 4]
    assert [one.index for one in lineage.path_to_root(experiments[1:], "demo-0003")] == [3, 1]


def test_json_and_dot() -> None:
    experiments = made()
    experiments[2] = dataclasses.replace(experiments[2], name='a "quoted"\\name', exemplar_ids=["demo-0001"])
    experiments[4] = dataclasses.replace(experiments[4], duplicate_of="demo-0001")
    data = lineage.as_json(experiments)
    assert [node["id"] for node in data["nodes"]] == [one.id for one in experiments]
    assert {(edge["from"], edge["to"], edge["kind"]) for edge in data["edges"]} == {
        ("demo-0000", "demo-0001", "parent"),
        ("demo-0000", "demo-0002", "parent"),
        ("demo-0001", "demo-0003", "parent"),
        ("demo-0001", "demo-0002", "exemplar"),
        ("demo-0001", "demo-0004", "duplicate"),
    }
    dot = lineage.as_dot(experiments)
    assert dot.startswith("digraph lineage {")
    assert '"demo-0002" [label="demo-0002\\na \\"quoted\\"\\\\name\\n0.2500"];' in dot
    assert '"demo-0001" -> "demo-0004" [style=dotted];' in dot


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_every_experiment_is_in_the_tree_once(choices: list[int]) -> None:
    template = MADE[0]
    experiments = [
        dataclasses.replace(
            template,
            id=f"x-{index}",
            index=index,
            parent_id=f"x-{choice % (index + 1)}" if choice % (index + 1) < index else None,
        )
        for index, choice in enumerate(choices)
    ]
    nodes = [node for root in lineage.tree(experiments) for node in root.walk()]
    assert sorted(node.experiment.index for node in nodes) == list(range(len(choices)))
    for node in nodes:
        assert node.depth == len(lineage.path_to_root(experiments, node.experiment.id)) - 1


def test_a_long_line_does_not_exhaust_the_stack() -> None:
    template = MADE[0]
    experiments = [
        dataclasses.replace(template, id=f"x-{index}", index=index, parent_id=f"x-{index - 1}" if index else None)
        for index in range(5000)
    ]
    (root,) = lineage.tree(experiments)
    assert sum(1 for _ in root.walk()) == 5000
    assert len(lineage.path_to_root(experiments, "x-4999")) == 5000


MADE = made()
