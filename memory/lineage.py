"""The lineage: who came from whom. Pure functions over experiments in hand; nothing here asks the store.

`Forest` indexes the experiments once and answers in time proportional to its answer: depths, ancestors, descendants,
siblings, common ancestors, subtrees, a summary. The functions beside it are for a single question.

Notable: order is by index everywhere, ties included, so that the same experiments give the same tree; experiments
whose parent is not among those given (a fork, a filtered list, foreign data) count as roots; no recursion, whatever
the depth; a cycle, which only foreign data can hold, is an error that names its members.
Not covered: choosing parents (that is the campaign's), intervals (`move37.tracing`), drawing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from memory.errors import MemoryStoreError, NotFound
from memory.records import Experiment

_NAMED_IN_A_CYCLE = 10
PROLIFIC = 5  # ancestors that a summary names


class LineageCycle(MemoryStoreError):
    """Experiments that descend from themselves. `experiment_ids`: the members, each the parent of the one before it."""

    def __init__(self, experiment_ids: Sequence[str]) -> None:
        shown = [*experiment_ids[:_NAMED_IN_A_CYCLE], *(["…"] if len(experiment_ids) > _NAMED_IN_A_CYCLE else [])]
        super().__init__(
            f"{len(experiment_ids)} experiments descend from themselves: {' from '.join([*shown, experiment_ids[0]])}. "
            "Correct the parents in the data that they were imported from"
        )
        self.experiment_ids = tuple(experiment_ids)


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


@dataclass(frozen=True)
class Subtree:
    """What came of one experiment.

    Attributes:
        descendants: experiments below it, itself not counted.
        depth: edges to its deepest descendant.
        best: the best of its descendants, itself not counted; None when none completed.
        edges: edges below it whose both ends have a score.
        improving: those of them whose child scored above its parent.
    """

    experiment: Experiment
    descendants: int
    depth: int
    best: Experiment | None
    edges: int
    improving: int

    @property
    def share_improving(self) -> float | None:
        """Share of scored edges that improve; None without any."""
        return self.improving / self.edges if self.edges else None


@dataclass(frozen=True)
class Prolific:
    """An experiment with how many descend from it, and how many directly."""

    experiment: Experiment
    descendants: int
    children: int


@dataclass(frozen=True)
class Summary:
    """A whole lineage in figures.

    Attributes:
        dangling: roots that name a parent which is not among the experiments.
        statuses: experiments by status.
        without_program: experiments that no program is stored of.
        max_depth: edges from a root to the deepest experiment; 0 for an empty lineage.
        best_path: from the root to the best.
        best_reached_after: experiments up to and including the best one, by index.
        records: the experiments that raised the best score so far, by index; the last one is the best.
        edges: edges whose both ends have a score.
        prolific: those with the most descendants, `PROLIFIC` at most.
    """

    nodes: int
    roots: int
    dangling: int
    statuses: dict[str, int]
    without_program: int
    max_depth: int
    best: Experiment | None
    best_depth: int | None
    best_path: tuple[Experiment, ...]
    best_reached_after: int | None
    records: tuple[Experiment, ...]
    edges: int
    improving: int
    prolific: tuple[Prolific, ...]


class Forest:
    """Experiments with their relations, indexed once.

    Every method that takes an id raises `NotFound` when the experiment is not among those given.

    Raises:
        LineageCycle: some experiments descend from themselves.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self.experiments = tuple(sorted(experiments, key=_by_index))
        self._by_id = {one.id: one for one in self.experiments}
        self._below = _children_of(self.experiments)
        self.roots = tuple(one for one in self.experiments if one.parent_id not in self._by_id)
        self._depths = dict.fromkeys((root.id for root in self.roots), 0)
        downwards = list(self.roots)
        for one in downwards:  # grows while it is walked: breadth first
            for child in self._below.get(one.id, ()):
                self._depths[child.id] = self._depths[one.id] + 1
                downwards.append(child)
        self._downwards = tuple(downwards)
        if len(downwards) < len(self._by_id):
            raise LineageCycle(self._cycle())

    def __len__(self) -> int:
        return len(self.experiments)

    def __contains__(self, experiment_id: str) -> bool:
        return experiment_id in self._by_id

    def get(self, experiment_id: str) -> Experiment:
        """The experiment of this id."""
        try:
            return self._by_id[experiment_id]
        except KeyError:
            raise NotFound("experiment", experiment_id, "It is not among the experiments of this lineage") from None

    def depth(self, experiment_id: str) -> int:
        """Edges from its root."""
        return self._depths[self.get(experiment_id).id]

    def parent(self, experiment_id: str) -> Experiment | None:
        """The parent; None for a root."""
        parent_id = self.get(experiment_id).parent_id
        return self._by_id.get(parent_id) if parent_id is not None else None

    def children(self, experiment_id: str) -> tuple[Experiment, ...]:
        """Those whose parent it is, by index."""
        return tuple(self._below.get(self.get(experiment_id).id, ()))

    def siblings(self, experiment_id: str) -> tuple[Experiment, ...]:
        """The others that name the same parent, whether or not it is here; none for one that names no parent."""
        one = self.get(experiment_id)
        beside = self._below.get(one.parent_id, []) if one.parent_id is not None else []
        return tuple(other for other in beside if other.id != one.id)

    def ancestors(self, experiment_id: str) -> tuple[Experiment, ...]:
        """The parent, its parent, and so on to the root."""
        found: list[Experiment] = []
        above = self.parent(experiment_id)
        while above is not None:
            found.append(above)
            above = self.parent(above.id)
        return tuple(found)

    def path(self, experiment_id: str) -> tuple[Experiment, ...]:
        """From the root down to the experiment, both included."""
        return (*reversed(self.ancestors(experiment_id)), self.get(experiment_id))

    def walk(self, experiment_id: str | None = None) -> Iterator[Experiment]:
        """The experiment and all below it (without one: everything), parents before children, siblings by index."""
        waiting = [self.get(experiment_id)] if experiment_id is not None else list(reversed(self.roots))
        while waiting:
            one = waiting.pop()
            yield one
            waiting.extend(reversed(self._below.get(one.id, ())))

    def descendants(self, experiment_id: str) -> tuple[Experiment, ...]:
        """All below it, itself not included, parents before children."""
        return tuple(self.walk(experiment_id))[1:]

    def descendant_counts(self) -> dict[str, int]:
        """How many descend from each experiment, by id."""
        counts = dict.fromkeys(self._by_id, 0)
        for one in reversed(self._downwards):
            if one.parent_id is not None and one.parent_id in counts:
                counts[one.parent_id] += counts[one.id] + 1
        return counts

    def common_ancestor(self, a: str, b: str) -> Experiment | None:
        """The lowest experiment from which both come, itself counted among its own; None in different trees."""
        above_a = {one.id for one in self.path(a)}
        return next((one for one in reversed(self.path(b)) if one.id in above_a), None)

    def subtree(self, experiment_id: str) -> Subtree:
        """What came of the experiment."""
        below = self.descendants(experiment_id)
        depth = max((self._depths[one.id] for one in below), default=self.depth(experiment_id))
        edges, improving = self._improving(below)
        return Subtree(
            self.get(experiment_id), len(below), depth - self.depth(experiment_id), best(below), edges, improving
        )

    def summary(self) -> Summary:
        """The lineage in figures."""
        found = best(self.experiments)
        edges, improving = self._improving(self.experiments)
        counts = self.descendant_counts()
        most = sorted((one for one in self.experiments if counts[one.id]), key=lambda one: -counts[one.id])[:PROLIFIC]
        return Summary(
            nodes=len(self),
            roots=len(self.roots),
            dangling=sum(root.parent_id is not None for root in self.roots),
            statuses=dict(sorted(Counter(one.status for one in self.experiments).items())),
            without_program=sum(one.program_sha256 is None for one in self.experiments),
            max_depth=max(self._depths.values(), default=0),
            best=found,
            best_depth=self.depth(found.id) if found else None,
            best_path=self.path(found.id) if found else (),
            best_reached_after=self.experiments.index(found) + 1 if found else None,
            records=_records(self.experiments),
            edges=edges,
            improving=improving,
            prolific=tuple(Prolific(one, counts[one.id], len(self._below[one.id])) for one in most),
        )

    def nodes(self) -> tuple[Node, ...]:
        """The roots as nodes with their children."""
        made: dict[str, Node] = {}
        for one in reversed(self._downwards):
            below = tuple(made[child.id] for child in self._below.get(one.id, ()))
            made[one.id] = Node(one, self._depths[one.id], below)
        return tuple(made[root.id] for root in self.roots)

    def _improving(self, children: Iterable[Experiment]) -> tuple[int, int]:
        """Scored edges to these children, and those that improve."""
        steps = [gain_over(self.parent(one.id), one) for one in children]
        scored = [step for step in steps if step is not None]
        return len(scored), sum(step > 0 for step in scored)

    def _cycle(self) -> list[str]:
        """The members of one cycle among what no root reaches, the earliest first."""
        current = next(one for one in self.experiments if one.id not in self._depths)
        seen: dict[str, None] = {}
        while current.id not in seen:
            seen[current.id] = None
            assert current.parent_id is not None  # without a parent it would be a root
            current = self._by_id[current.parent_id]
        members = list(seen)[list(seen).index(current.id) :]
        start = members.index(min(members, key=lambda one: _by_index(self._by_id[one])))
        return members[start:] + members[:start]


def tree(experiments: Iterable[Experiment]) -> tuple[Node, ...]:
    """The forest, roots by index.

    Raises:
        LineageCycle: some experiments descend from themselves.
    """
    return Forest(experiments).nodes()


def path_to_root(experiments: Iterable[Experiment], experiment_id: str) -> tuple[Experiment, ...]:
    """The experiment, its parent, and so on to its root.

    Raises:
        NotFound: the experiment is not among those given.
        LineageCycle: the way up leads back to where it was.
    """
    by_id = {experiment.id: experiment for experiment in experiments}
    if experiment_id not in by_id:
        raise NotFound("experiment", experiment_id, "It is not among the experiments of this lineage")
    path: dict[str, Experiment] = {}
    current: str | None = experiment_id
    while current is not None and current in by_id:
        if current in path:
            raise LineageCycle([*path][[*path].index(current) :])
        path[current] = by_id[current]
        current = by_id[current].parent_id
    return tuple(path.values())


def gain_over(parent: Experiment | None, child: Experiment) -> float | None:
    """The child's score minus the parent's; None when either has none, or there is no parent."""
    if parent is None or parent.score is None or child.score is None:
        return None
    return child.score - parent.score


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
    return tuple(Gain(parent, child, gain_over(parent, child)) for parent, child in pairwise(downwards))


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
            *({"from": one.equivalent_of, "to": one.id, "kind": "equivalent"} for one in ordered if one.equivalent_of),
        ],
    }


def as_dot(experiments: Iterable[Experiment]) -> str:
    """The lineage in Graphviz's language; exemplars are dashed, originals of repetitions dotted."""
    data = as_json(experiments)
    styles = {"parent": "solid", "exemplar": "dashed", "duplicate": "dotted", "equivalent": "dotted"}
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


def _records(ordered: Sequence[Experiment]) -> tuple[Experiment, ...]:
    found: list[Experiment] = []
    for one in ordered:
        if one.status == "completed" and one.score is not None and (not found or one.score > (found[-1].score or 0.0)):
            found.append(one)
    return tuple(found)


def _by_index(experiment: Experiment) -> tuple[int, str]:
    return experiment.index, experiment.id


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
