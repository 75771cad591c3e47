"""The lineage's pure functions, over experiments of a real store and over generated ones."""

import dataclasses
from collections.abc import Iterable

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


def linked(parents: list[int | None]) -> list[Experiment]:
    """Experiments x-0, x-1, ... with these parents by number."""
    return [
        dataclasses.replace(MADE[0], id=f"x-{i}", index=i, parent_id=None if p is None else f"x-{p}")
        for i, p in enumerate(parents)
    ]


# 0 ─ 1 ─ 3 ─ 5 and 0 ─ 2 ─ 4, and 6 ─ 7
PARENTS = [None, 0, 0, 1, 2, 3, None, 6]


def ids(experiments: Iterable[Experiment]) -> list[str]:
    return [one.id.removeprefix("x-") for one in experiments]


def test_relatives() -> None:
    forest = lineage.Forest(linked(PARENTS))
    assert ids(forest.roots) == ["0", "6"]
    assert ids(forest.ancestors("x-5")) == ["3", "1", "0"]
    assert ids(forest.path("x-5")) == ["0", "1", "3", "5"]
    assert ids(forest.descendants("x-0")) == ["1", "3", "5", "2", "4"]
    assert ids(forest.siblings("x-1")) == ["2"]
    assert ids(forest.siblings("x-0")) == []
    assert forest.descendant_counts() == {f"x-{i}": n for i, n in enumerate([5, 2, 1, 1, 0, 0, 1, 0])}
    for a, b, expected in (("5", "4", "0"), ("5", "1", "1"), ("3", "3", "3"), ("5", "7", None)):
        found = forest.common_ancestor(f"x-{a}", f"x-{b}")
        assert (found.id if found else None) == (f"x-{expected}" if expected else None)
    for question in (forest.depth, forest.parent, forest.children, forest.siblings, forest.subtree, forest.path):
        with pytest.raises(NotFound):
            question("x-99")


def test_siblings_of_a_missing_parent_are_still_siblings() -> None:
    forest = lineage.Forest(linked(PARENTS)[1:])
    assert ids(forest.roots) == ["1", "2", "6"]
    assert ids(forest.siblings("x-1")) == ["2"]
    assert forest.summary().dangling == 2


@pytest.mark.parametrize(
    ("parents", "members"),
    [([0], ["x-0"]), ([None, 3, 1, 2, 2], ["x-1", "x-3", "x-2"]), ([1, 0, 3, 2], ["x-0", "x-1"])],
)
def test_a_cycle_is_an_error_that_names_its_members(parents: list[int | None], members: list[str]) -> None:
    experiments = linked(parents)
    for build in (lineage.tree, lineage.Forest):
        with pytest.raises(lineage.LineageCycle, match=f"{len(members)} experiments descend from themselves") as raised:
            build(experiments)
        assert list(raised.value.experiment_ids) == members
        assert all(member in str(raised.value) for member in members)
    with pytest.raises(lineage.LineageCycle) as raised:
        lineage.path_to_root(experiments, experiments[-1].id)
    assert len(raised.value.experiment_ids) > 0


def test_subtree_counts_what_came_of_an_experiment() -> None:
    scores = [0.5, 0.6, 0.4, 0.55, None, 0.9, 0.1, 0.1]
    experiments = [dataclasses.replace(one, score=s) for one, s in zip(linked(PARENTS), scores, strict=True)]
    forest = lineage.Forest(experiments)
    below = forest.subtree("x-0")
    assert (below.descendants, below.depth, below.edges, below.improving) == (5, 3, 4, 2)
    assert below.best is not None
    assert below.best.id == "x-5"
    assert below.share_improving == 0.5
    leaf = forest.subtree("x-5")
    assert (leaf.descendants, leaf.depth, leaf.best, leaf.share_improving) == (0, 0, None, None)


def test_summary() -> None:
    scores = [0.5, 0.6, 0.4, 0.55, None, 0.9, 0.1, 0.9]
    experiments = [dataclasses.replace(one, score=s) for one, s in zip(linked(PARENTS), scores, strict=True)]
    experiments[4] = dataclasses.replace(experiments[4], status="failed", program_sha256=None)
    found = lineage.Forest(experiments).summary()
    assert (found.nodes, found.roots, found.dangling, found.max_depth, found.best_depth) == (8, 2, 0, 3, 3)
    assert found.statuses == {"completed": 7, "failed": 1}
    assert found.without_program == 1
    assert ids(found.best_path) == ["0", "1", "3", "5"]
    assert found.best_reached_after == 6
    assert ids(found.records) == ["0", "1", "5"]
    assert (found.edges, found.improving) == (5, 3)
    assert [(one.experiment.id, one.descendants, one.children) for one in found.prolific[:2]] == [
        ("x-0", 5, 2),
        ("x-1", 2, 1),
    ]


def test_an_empty_lineage_has_a_summary() -> None:
    found = lineage.Forest([]).summary()
    assert (found.nodes, found.max_depth, found.best, found.best_path, found.prolific) == (0, 0, None, (), ())


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30), st.data())
def test_relations_agree_with_each_other(choices: list[int], data: st.DataObject) -> None:
    parents = [choice % (i + 1) if choice % (i + 1) < i else None for i, choice in enumerate(choices)]
    forest = lineage.Forest(linked(parents))
    counts = forest.descendant_counts()
    for one in forest.experiments:
        above, below = forest.ancestors(one.id), forest.descendants(one.id)
        assert len(above) == forest.depth(one.id)
        assert len(below) == counts[one.id] == forest.subtree(one.id).descendants
        assert all(one in forest.descendants(ancestor.id) for ancestor in above)
    a, b = (data.draw(st.sampled_from(forest.experiments)).id for _ in range(2))
    common = forest.common_ancestor(a, b)
    shared = [one for one in forest.path(a) if one in forest.path(b)]
    assert common == (shared[-1] if shared else None)
    assert common == forest.common_ancestor(b, a)


def test_ten_thousand_generations() -> None:
    forest = lineage.Forest(linked([None, *range(9_999)]))
    assert forest.summary().max_depth == 9_999
    assert forest.subtree("x-0").descendants == 9_999
    assert len(forest.path("x-9999")) == 10_000
    assert forest.common_ancestor("x-9999", "x-5000") == forest.get("x-5000")
