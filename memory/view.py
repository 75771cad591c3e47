"""The light columns of the experiments that may be seen, held in memory and kept in step one at a time.

A prompt needs a handful of experiments out of perhaps a hundred thousand: the view finds them without reading the rest
again. Finished experiments never change, so it only ever grows.

Not covered: reading them from the store (the caller), what is shown of them (memory/retrieval.py).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

_MANY = 64  # records that are sorted in at once rather than one by one


class Seen(Protocol):
    """The light columns of an experiment. `memory.records.Experiment` has them, and so has `Glance`."""

    @property
    def id(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def name(self) -> str: ...
    @property
    def program_sha256(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Glance:
    """An experiment without its texts: what selection needs of the many that are not shown."""

    id: str
    index: int
    parent_id: str | None
    status: str
    reason: str
    score: float | None
    name: str
    program_sha256: str | None


SeenT = TypeVar("SeenT", bound=Seen)


class View(Generic[SeenT]):
    """Finished experiments, in order, by parent and by score; grows by `add` and is never rebuilt.

    Feed it the campaign's own experiments and, in a fork, those inherited. `up_to` is a horizon: an index, inclusive;
    None is no limit. What lies within a horizon never changes once it is complete, whatever is added later.
    """

    def __init__(self, records: Iterable[SeenT] = ()) -> None:
        self._by_id: dict[str, SeenT] = {}
        self._order: list[tuple[int, str]] = []
        self._ranked: list[tuple[float, int, str]] = []
        self._children: dict[str, list[tuple[int, str]]] = {}
        self._programs: set[str | None] = set()
        self.add(records)

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def last_index(self) -> int:
        """The highest index there is, -1 when empty: ask the store for what comes after."""
        return self._order[-1][0] if self._order else -1

    def add(self, records: Iterable[SeenT]) -> int:
        """Adds those that are new, in any order; a finished experiment never changes. Returns how many were new.

        Raises:
            ValueError: one is still open; nothing was added.
        """
        fresh = {record.id: record for record in records if record.id not in self._by_id}
        still_open = next((record.id for record in fresh.values() if record.status == "open"), None)
        if still_open is not None:
            raise ValueError(f"{still_open} is not finished: only what can no longer change is shown")
        self._by_id.update(fresh)
        _merge(self._order, [(r.index, r.id) for r in fresh.values()])
        scored = [(r.score, r) for r in fresh.values() if r.status == "completed"]
        _merge(self._ranked, [(-score, r.index, r.id) for score, r in scored if score is not None])
        self._programs.update(r.program_sha256 for score, r in scored if score is not None)
        for record in fresh.values():
            if record.parent_id is not None:
                insort(self._children.setdefault(record.parent_id, []), (record.index, record.id))
        return len(fresh)

    def visible(self, experiment_id: str, up_to: int | None = None) -> bool:
        """Whether it is there and within the horizon."""
        record = self._by_id.get(experiment_id)
        return record is not None and (up_to is None or record.index <= up_to)

    def get(self, experiment_id: str, up_to: int | None = None) -> SeenT | None:
        """The experiment, if it is visible."""
        return self._by_id[experiment_id] if self.visible(experiment_id, up_to) else None

    def latest(self, count: int, up_to: int | None = None) -> list[SeenT]:
        """The last `count` experiments, the latest first."""
        end = _end(self._order, up_to)
        return [self._by_id[found] for _, found in reversed(self._order[max(0, end - count) : end])]

    def count(self, up_to: int | None = None) -> int:
        """How many are visible."""
        return _end(self._order, up_to)

    def ranked(self, up_to: int | None = None) -> Iterator[SeenT]:
        """The completed ones, the highest score first, the earlier one of equals first."""
        return (self._by_id[found] for _, index, found in self._ranked if up_to is None or index <= up_to)

    def n_ranked(self, up_to: int | None = None) -> int:
        """How many are completed."""
        return len(self._ranked) - len(self._beyond(up_to))

    def ranked_at(self, place: int, up_to: int | None = None) -> SeenT:
        """The completed one at a place of `ranked`, from 0, without going through those before it.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= place < self.n_ranked(up_to):
            raise IndexError(f"place {place} of {self.n_ranked(up_to)} completed experiments")
        for hidden in self._beyond(up_to):
            if hidden > place:
                break
            place += 1
        return self._by_id[self._ranked[place][2]]

    @property
    def programs_repeat(self) -> bool:
        """Whether any two completed ones, visible or not, have the same program."""
        return len(self._programs) < len(self._ranked)

    def _beyond(self, up_to: int | None) -> list[int]:
        """Places in `_ranked` of what lies beyond the horizon, ascending."""
        if up_to is None:
            return []
        late = (self._by_id[found] for _, found in self._order[_end(self._order, up_to) :])
        return sorted(
            bisect_left(self._ranked, (-one.score, one.index, one.id))
            for one in late
            if one.status == "completed" and one.score is not None
        )

    def children(self, experiment_id: str, up_to: int | None = None) -> list[SeenT]:
        """The children of an experiment, by index."""
        children = self._children.get(experiment_id, [])
        return [self._by_id[found] for _, found in children[: _end(children, up_to)]]

    def n_children(self, experiment_id: str, up_to: int | None = None) -> int:
        """How many children an experiment has."""
        return _end(self._children.get(experiment_id, []), up_to)

    def path(self, experiment_id: str, up_to: int | None = None) -> list[SeenT]:
        """From the eldest visible ancestor to the experiment itself; empty if it is not visible."""
        path: list[SeenT] = []
        met: set[str] = set()
        record = self.get(experiment_id, up_to)
        while record is not None and record.id not in met:
            met.add(record.id)
            path.append(record)
            record = None if record.parent_id is None else self.get(record.parent_id, up_to)
        return path[::-1]


_KeyT = TypeVar("_KeyT", tuple[int, str], tuple[float, int, str])


def _merge(held: list[_KeyT], fresh: list[_KeyT]) -> None:
    if len(fresh) > _MANY:
        held.extend(fresh)
        held.sort()
        return
    for one in fresh:
        insort(held, one)


def _end(order: Sequence[tuple[int, str]], up_to: int | None) -> int:
    """How many of an ordered list lie within the horizon."""
    return len(order) if up_to is None else bisect_left(order, (up_to + 1, ""))
