"""The lineage: who came from whom. Pure functions over experiments in hand; nothing here asks the store.

Notable: order is by index everywhere, ties included, so that the same experiments give the same tree; experiments
whose parent is not among those given (a fork, a filtered list) count as roots; no recursion, whatever the depth.
Not covered: choosing parents (that is the campaign's), drawing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from memory.errors import NotFound
from memory.records import Experiment


@dataclass(frozen=True)
class Node:
    """An experiment with its depth (roots are at 0) and its children by index."""

    experiment: Experiment
    depth: int
    children: tuple["Node", ...]

    def walk(self) -> Iterator["Node"]:
        """This node and everything below it, parents before children, siblings by index."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True)
class Gain:
    """One step of a path: the child's score minus the parent's; None when either has no score."""

    parent: Experiment
    child: Experiment
    gain: float | None


def tree(experiments: Iterable[Experiment]) -> tuple[Node, ...]:
    """The forest, roots by index."""
    ordered = sorted(experiments, key=_by_index)
    known = {experiment.id for experiment in ordered}
    below = _children_of(ordered)
    roots = [experiment for experiment in ordered if experiment.parent_id not in known]
    depths = dict.fromkeys((root.id for root in roots), 0)
    downwards = list(roots)
    for experiment in downwards:  # grows while it is walked: breadth first
        for child in below.get(experiment.id, ()):
            depths[child.id] = depths[experiment.id] + 1
            downwards.append(child)
    nodes: dict[str, Node] = {}
    for experiment in reversed(downwards):
        children = tuple(nodes[child.id] for child in below.get(experiment.id, ()))
        nodes[experiment.id] = Node(experiment, depths[experiment.id], children)
    return tuple(nodes[root.id] for root in roots)


def path_to_root(experiments: Iterable[Experiment], experiment_id: str) -> tuple[Experiment, ...]:
    """The experiment, its parent, and so on to its root.

    Raises:
        NotFound: the experiment is not among those given.
    """
    by_id = {experiment.id: experiment for experiment in experiments}
    if experiment_id not in by_id:
        raise NotFound("experiment", experiment_id, "It is not among the experiments of this lineage")
    path: list[Experiment] = []
    current: str | None = experiment_id
    while current is not None and current in by_id:
        path.append(by_id.pop(current))
        current = path[-1].parent_id
    return tuple(path)


def children(experiments: Iterable[Experiment], experiment_id: str) -> tuple[Experiment, ...]:
    """The experiments whose parent this is, by index."""
    return tuple(sorted((one for one in experiments if one.parent_id == experiment_id), key=_by_index))


def best(experiments: Iterable[Experiment]) -> Experiment | None:
    """The completed experiment of the highest score; of equal ones the earliest. None when nothing completed."""
    scored = [one for one in experiments if one.status == "completed" and one.score is not None]
    return min(scored, key=lambda one: (-(one.score or 0.0), *_by_index(one)), default=None)


def gains(path: Sequence[Experiment]) -> tuple[Gain, ...]:
    """The steps of a path as `path_to_root` gives it, from the root on."""
    downwards = path[::-1]
    return tuple(
        Gain(parent, child, None if parent.score is None or child.score is None else child.score - parent.score)
        for parent, child in pairwise(downwards)
    )


def as_json(experiments: Iterable[Experiment]) -> dict[str, Any]:
    """Nodes and edges as JSON data, for a page or another program."""
    ordered = sorted(experiments, key=_by_index)
    return {
        "nodes": [
            {
                "id": one.id,
                "index": one.index,
                "name": one.name,
                "arm": one.arm,
                "kind": one.kind,
                "status": one.status,
                "reason": one.reason,
                "score": one.score,
            }
            for one in ordered
        ],
        "edges": [
            *({"from": one.parent_id, "to": one.id, "kind": "parent"} for one in ordered if one.parent_id),
            *({"from": source, "to": one.id, "kind": "exemplar"} for one in ordered for source in one.exemplar_ids),
            *({"from": one.duplicate_of, "to": one.id, "kind": "duplicate"} for one in ordered if one.duplicate_of),
        ],
    }


def as_dot(experiments: Iterable[Experiment]) -> str:
    """The lineage in Graphviz's language; exemplars are dashed, originals of duplicates dotted."""
    data = as_json(experiments)
    styles = {"parent": "solid", "exemplar": "dashed", "duplicate": "dotted"}
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    for node in data["nodes"]:
        result = node["status"] if node["score"] is None else f"{node['score']:.4f}"
        label = _quoted(f"{node['id']}\n{node['name']}\n{result}" if node["name"] else f"{node['id']}\n{result}")
        lines.append(f"  {_quoted(node['id'])} [label={label}];")
    lines += [f"  {_quoted(e['from'])} -> {_quoted(e['to'])} [style={styles[e['kind']]}];" for e in data["edges"]]
    return "\n".join([*lines, "}", ""])


def _children_of(ordered: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    below: dict[str, list[Experiment]] = {}
    for experiment in ordered:
        if experiment.parent_id is not None:
            below.setdefault(experiment.parent_id, []).append(experiment)
    return below


def _by_index(experiment: Experiment) -> tuple[int, str]:
    return experiment.index, experiment.id


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
