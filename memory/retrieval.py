"""What of the experiment memory a prompt is shown. Pure: the same visible experiments give the same selection.

`memory/view.py` holds the light columns of finished experiments; `select` chooses from what of them lies within a
horizon. Rules, each with ties broken by index and then by id, so that no order of reading matters:

    lineage    from the root to the parent; of a long one the root and the last few, the number left out is told
    best       the parent's completed children, the highest score first, the earlier one of equals first
    worst      the lowest first, none that is among the best
    lessons    replicated before ablated before observed; then those of later experiments; a claim is shown once; a
               lesson that a visible experiment refuted is never shown
    failures   of the last `window` experiments, by status and reason: the most frequent first, then the most recent;
               the most recent one is the example
    tried      the neighbours, as ranked by similarity, without those that stand above already
    knowledge  as handed in

Lessons and neighbours of experiments beyond the horizon are left out, whoever hands them in.

Not covered: similarity (memory/neighbours.py), programs and hypotheses in full (read the rows of `Selection.ids`), the
choice of the parent, and how many tokens it comes to (memory/tokens.py).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from memory.neighbours import Neighbour, Neighbours
from memory.view import Seen, SeenT, View

_LEVELS = {"replicated": 0, "ablated": 1, "observed": 2}


class LessonSeen(Protocol):
    """What is needed of a lesson; `memory.records.Lesson` has it."""

    @property
    def id(self) -> str: ...
    @property
    def experiment_id(self) -> str: ...
    @property
    def claim(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def retired_by(self) -> str | None: ...


class EvidenceSeen(Protocol):
    """What is needed of the evidence for a lesson; `memory.records.Evidence` has it."""

    @property
    def lesson_id(self) -> str: ...
    @property
    def experiment_id(self) -> str: ...
    @property
    def stance(self) -> str: ...


@dataclass(frozen=True)
class Limits:
    """How many of each are chosen at most, before any budget of tokens."""

    lineage: int = 8
    best: int = 3
    worst: int = 2
    lessons: int = 12
    failures: int = 6
    window: int = 200
    tried: int = 6
    knowledge: int = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """An experiment in a line."""

    id: str
    name: str
    status: str
    reason: str
    score: float | None


@dataclass(frozen=True)
class Lineage:
    """The way to the parent: its beginning, how many were left out of a long one, and its end, which is the parent."""

    head: tuple[Fact, ...]
    elided: int
    tail: tuple[Fact, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What is shown, from the root to the parent."""
        return self.head + self.tail


@dataclass(frozen=True)
class Claim:
    """A lesson that is shown. `said` counts the visible lessons with this claim that were not refuted.

    `supports` and `contradicts` count the evidence for this lesson that visible experiments gave.
    """

    lesson_id: str
    experiment_id: str
    level: str
    claim: str
    said: int
    supports: int
    contradicts: int


@dataclass(frozen=True)
class Failure:
    """One way of failing: how often lately, and the latest that did."""

    status: str
    reason: str
    count: int
    example: Fact


@dataclass(frozen=True)
class Tried:
    """An earlier experiment near to what is asked about; `by` says which texts were compared."""

    fact: Fact
    similarity: float
    by: str


@dataclass(frozen=True)
class Selection:
    """What is shown of the memory to one experiment: ids and facts. `n_children` counts all children of the parent."""

    parent_id: str
    lineage: Lineage
    best: tuple[Fact, ...]
    worst: tuple[Fact, ...]
    n_children: int
    lessons: tuple[Claim, ...]
    failures: tuple[Failure, ...]
    tried: tuple[Tried, ...]
    knowledge: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The experiments in it, each once, in the order of the fields: whose rows a renderer may need."""
        facts = (*self.lineage.facts, *self.best, *self.worst)
        examples = (failure.example for failure in self.failures)
        lessons = (lesson.experiment_id for lesson in self.lessons)
        named = (*(fact.id for fact in (*facts, *examples, *(one.fact for one in self.tried))), *lessons)
        return tuple(dict.fromkeys(named))


Near = Mapping[Literal["program", "hypothesis"], Sequence[Neighbour]]


def select(
    view: View[SeenT],
    parent_id: str,
    *,
    up_to: int | None = None,
    lessons: Iterable[LessonSeen] = (),
    evidence: Iterable[EvidenceSeen] = (),
    near: Near | None = None,
    knowledge: Sequence[str] = (),
    limits: Limits | None = None,
) -> Selection:
    """Chooses what to show for a child of `parent_id`.

    Args:
        view: holds every experiment up to the horizon.
        parent_id: a visible experiment.
        up_to: the horizon, an index, inclusive.
        lessons: candidates in any order; of a long campaign the strongest and latest are enough.
        evidence: what supports and contradicts them, in any order.
        near: neighbours by what was compared; keys are ids of experiments. Ask for `k_near` of each.
        knowledge: entries of the knowledge base, the most important first.
        limits: how many of each.

    Raises:
        ValueError: the parent is not visible; a lesson has an unknown level.
    """
    limits = limits or Limits()
    path = view.path(parent_id, up_to)
    if not path:
        raise ValueError(f"the parent {parent_id} is not among the visible experiments")
    best, worst = _siblings(view.children(parent_id, up_to), limits)
    shown = {record.id for record in path} | {fact.id for fact in (*best, *worst)}
    return Selection(
        parent_id=parent_id,
        lineage=_elided(path, limits.lineage),
        best=best,
        worst=worst,
        n_children=view.n_children(parent_id, up_to),
        lessons=_lessons(view, up_to, lessons, evidence, limits.lessons),
        failures=_failures(view.latest(limits.window, up_to))[: limits.failures],
        tried=_tried(view, up_to, near or {}, shown, limits.tried),
        knowledge=tuple(dict.fromkeys(knowledge))[: limits.knowledge],
    )


def already_tried(
    index: Neighbours, view: View[SeenT], text: str, *, up_to: int | None = None, k: int = Limits.tried
) -> list[Neighbour]:
    """The k visible experiments nearest to a text: those whose proposal a new one may repeat."""
    return index.nearest(text, k, among=lambda key: view.visible(key, up_to))


def k_near(view: View[SeenT], parent_id: str, *, up_to: int | None = None, limits: Limits | None = None) -> int:
    """How many neighbours `select` needs to be left with `limits.tried` that are not shown already."""
    limits = limits or Limits()
    return limits.tried + len(view.path(parent_id, up_to)) + limits.best + limits.worst


def _fact(record: Seen) -> Fact:
    return Fact(record.id, record.name, record.status, record.reason, record.score)


def _elided(path: Sequence[Seen], most: int) -> Lineage:
    facts = tuple(map(_fact, path))
    if len(facts) <= max(most, 2):
        return Lineage((), 0, facts)
    tail = max(most - 1, 1)
    return Lineage(facts[:1], len(facts) - 1 - tail, facts[-tail:])


def _siblings(children: Sequence[Seen], limits: Limits) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    scored = [(c.score, c) for c in children if c.status == "completed" and c.score is not None]
    ranked = [c for _, c in sorted(scored, key=lambda pair: (-pair[0], pair[1].index, pair[1].id))]
    best, rest = ranked[: limits.best], ranked[limits.best :]
    worst = rest[::-1][: limits.worst]
    return tuple(map(_fact, best)), tuple(map(_fact, worst))


def _lessons(
    view: View[SeenT], up_to: int | None, lessons: Iterable[LessonSeen], evidence: Iterable[EvidenceSeen], most: int
) -> tuple[Claim, ...]:
    standing: list[tuple[int, int, str, LessonSeen]] = []
    for lesson in {lesson.id: lesson for lesson in lessons}.values():
        source = view.get(lesson.experiment_id, up_to)
        if source is None or (lesson.retired_by is not None and view.visible(lesson.retired_by, up_to)):
            continue
        if lesson.level not in _LEVELS:
            raise ValueError(f"lesson {lesson.id} has evidence level {lesson.level!r}; known are {list(_LEVELS)}")
        standing.append((_LEVELS[lesson.level], -source.index, lesson.id, lesson))
    standing.sort(key=lambda one: one[:3])
    claims = [(_plain(lesson.claim), lesson) for *_, lesson in standing]
    said = Counter(key for key, _ in claims)
    first: dict[str, LessonSeen] = {}
    for key, lesson in claims:
        first.setdefault(key, lesson)
    shown = dict(islice(first.items(), most))
    ids = {x.id for x in shown.values()}
    about = (e for e in evidence if e.lesson_id in ids and view.visible(e.experiment_id, up_to))
    stances = {(e.lesson_id, e.experiment_id, e.stance) for e in about}
    counted = Counter((lesson_id, stance) for lesson_id, _, stance in stances)
    return tuple(
        Claim(
            x.id, x.experiment_id, x.level, x.claim, said[key], counted[x.id, "supports"], counted[x.id, "contradicts"]
        )
        for key, x in shown.items()
    )


def _plain(claim: str) -> str:
    return " ".join(claim.casefold().split())


def _failures(latest: Sequence[Seen]) -> tuple[Failure, ...]:
    """By kind; `latest` has the latest first, so the first of a kind is its example."""
    examples: dict[tuple[str, str], Seen] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for record in latest:
        if record.status != "completed":
            kind = (record.status, record.reason)
            counts[kind] += 1
            examples.setdefault(kind, record)
    kinds = sorted(counts, key=lambda kind: (-counts[kind], -examples[kind].index, kind))
    return tuple(Failure(*kind, counts[kind], _fact(examples[kind])) for kind in kinds)


def _tried(view: View[SeenT], up_to: int | None, near: Near, shown: Iterable[str], most: int) -> tuple[Tried, ...]:
    """Up to `most` of each kind of neighbours, each experiment once."""
    taken = set(shown)
    found: list[Tried] = []
    for by, neighbours in sorted(near.items()):
        ranked = sorted(neighbours, key=lambda one: (-one.similarity, one.key))
        fresh = ((one, record) for one in ranked if (record := view.get(one.key, up_to)) and one.key not in taken)
        chosen = [Tried(_fact(record), one.similarity, by) for one, record in islice(fresh, most)]
        taken.update(one.fact.id for one in chosen)
        found.extend(chosen)
    return tuple(found)
