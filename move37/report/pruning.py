"""Which experiments of a large lineage are drawn: to a depth, and the best with what leads to them up to a number.

Notable: what is left out is counted where it hangs, with the best score in it; the same lineage is cut the same way.
Not covered: drawing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from memory.lineage import Forest
from memory.records import Experiment


@dataclass(frozen=True)
class Hidden:
    """What is left out below one experiment and above the next that is shown."""

    count: int
    best: float | None


@dataclass(frozen=True)
class Pruned:
    """The part of a forest that is shown.

    Attributes:
        experiments: those shown, parents before children, siblings by index.
        above: of each shown one the nearest shown one above it, None if there is none.
        hidden: what is left out, by the nearest shown one above it; under None what hangs on nothing that is shown.
    """

    experiments: tuple[Experiment, ...]
    above: dict[str, str | None]
    hidden: dict[str | None, Hidden]

    @property
    def left_out(self) -> int:
        """How many experiments are not shown."""
        return sum(hidden.count for hidden in self.hidden.values())


def prune(
    forest: Forest, chosen: Collection[str] | None = None, *, depth: int | None = None, limit: int | None = None
) -> Pruned:
    """Cut a forest, or those `chosen` from it.

    Args:
        forest: the whole.
        chosen: ids of the experiments that are asked for; the others are not even counted.
        depth: levels shown below the topmost chosen ones, 0 for these alone; None for all.
        limit: how many are shown at most; None for all.
    """
    asked = {one.id for one in forest.experiments} if chosen is None else set(chosen)
    levels: dict[str, int] = {}
    for one in forest.walk():
        if one.id in asked:
            levels[one.id] = levels.get(one.parent_id or "", -1) + 1
    kept = {experiment_id for experiment_id, level in levels.items() if depth is None or level <= depth}
    if limit is not None and len(kept) > limit:
        kept = _best(forest, kept, limit)
    return _arranged(forest, asked, kept)


def _best(forest: Forest, allowed: set[str], limit: int) -> set[str]:
    """The best experiments, each with what leads to it from the top while there is room, then the earliest."""
    kept: set[str] = set()
    ranked = sorted(
        (one for one in forest.experiments if one.id in allowed),
        key=lambda one: (one.score is None, -(one.score or 0.0), one.index),
    )
    for one in ranked:
        if len(kept) >= limit:
            break
        missing: list[str] = []
        above: Experiment | None = one
        while above is not None and above.id in allowed and above.id not in kept and len(missing) <= limit:
            missing.append(above.id)
            above = forest.parent(above.id)
        kept.update(missing if len(kept) + len(missing) <= limit else [one.id])
    return kept


def _arranged(forest: Forest, asked: set[str], kept: set[str]) -> Pruned:
    shown: list[Experiment] = []
    nearest: dict[str, str | None] = {}  # of every experiment: itself if shown, else the nearest shown one above
    above: dict[str, str | None] = {}
    hidden: dict[str | None, Hidden] = {}
    for one in forest.walk():
        over = nearest.get(one.parent_id or "")
        nearest[one.id] = one.id if one.id in kept else over
        if one.id in kept:
            shown.append(one)
            above[one.id] = over
        elif one.id in asked:
            so_far = hidden.get(over, Hidden(0, None))
            scores = [score for score in (so_far.best, one.score) if score is not None]
            hidden[over] = Hidden(so_far.count + 1, max(scores, default=None))
    return Pruned(tuple(shown), above, hidden)
