"""What of the memory an experiment's researcher is reminded of: lineage, siblings, failures, neighbours, knowledge.

`Recollection` holds, for one process, the light columns of what is visible and an index of its programs and hypotheses,
both kept in step one experiment at a time; `memory.retrieval` chooses among them by rules. The same visible experiments
give the same choice, whichever process asks and whatever else has finished since.

Not covered: parent and exemplars (`choosing`), how it is worded (`briefing`, the templates).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from agents.contexts import Difference, FailureView, KnowledgeView, Memory, Mention, ProgramView, ResearchContext
from memory.knowledge_base.entries import entry
from memory.neighbours import Neighbour, Neighbours
from memory.records import Evidence, Experiment, Lesson
from memory.retrieval import Fact, Near, Selection, Tried, k_near, select
from memory.store import Store
from memory.tokens import estimate
from memory.vectors import Kind
from memory.view import View
from move37.calibration import Forecast
from move37.differences import Differences
from move37.modes import Plays
from move37.vectorising import Hashed, Vectoriser

_PROGRAMS, _HYPOTHESES = "programs.safetensors", "hypotheses.safetensors"
_SAVED_EVERY = 200  # entries
_AT_ONCE = 256
_PAIRS = 1 << 15  # likenesses that are remembered
_SHOWN = 256  # programs that are remembered as they are shown
_OBSERVED_LOOKED_AT = 500


@dataclass
class Recollection:
    """Grows with the campaign. One event loop's, like the loop that owns it.

    With a `folder` the index is kept there from process to process: to encode a thousand programs takes seconds. It is
    a convenience and never the truth; what it lacks is added, and without it everything is.
    """

    vectoriser: Vectoriser = field(default_factory=Hashed)
    folder: Path | None = None
    view: View[Experiment] = field(default_factory=View)
    differences: Differences = field(default_factory=Differences)
    designs: dict[str, list[str]] = field(default_factory=dict)  # normalised text -> experiments, in order
    suggested: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # experiment and parent -> entries
    forecasts: dict[str, list[Forecast]] = field(default_factory=dict)  # of completed experiments
    _shown: dict[str, ProgramView] = field(default_factory=dict)  # of finished experiments
    _plays: dict[str, Plays] = field(default_factory=dict)
    _learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unsaved: int = 0

    def __post_init__(self) -> None:
        self.programs = self._index("program", _PROGRAMS)
        self.hypotheses = self._index("hypothesis", _HYPOTHESES)
        self.alike = lru_cache(_PAIRS)(self.programs.similarity)  # an entry never changes

    def _index(self, kind: Kind, file: str) -> Neighbours:
        encoder = self.vectoriser.encoder(kind)
        return Neighbours(encoder) if self.folder is None else Neighbours.load(self.folder / file, encoder)

    def plays(self, key: str, default: str) -> Plays:
        """What the bandit over `key` knows of finished experiments."""
        return self._plays.setdefault(key, Plays(key, default))

    def shown(self, experiment_id: str, made: Callable[[str], ProgramView]) -> ProgramView:
        """A finished experiment's program with what it achieved, which `made` makes once: neither changes any more, and
        the best are shown again and again."""
        if experiment_id not in self._shown:
            if len(self._shown) >= _SHOWN:
                del self._shown[next(iter(self._shown))]
            self._shown[experiment_id] = made(experiment_id)
        return self._shown[experiment_id]

    async def learn(self, store: Store, visible: Sequence[Experiment]) -> None:
        """Takes in what of `visible` is new. Nobody sees half of it: who asks meanwhile waits."""
        async with self._learning:
            known = len(visible)  # what is visible grows at its end only: a known one has all known ones before it
            while known and not self.view.visible(visible[known - 1].id):
                known -= 1
            fresh = visible[known:]
            if not fresh:
                return
            programs = {e.id: e.program_sha256 for e in fresh if e.program_sha256 is not None}
            for some in _parts(self.programs.missing(programs)):
                sources = {programs[key]: store.program(programs[key]).source for key in some}
                made = await self.vectoriser.vectors("program", sources)
                self._unsaved += self.programs.sync_vectors({key: made[programs[key]] for key in some})
            said = {e.id: wording(e.hypothesis) for e in fresh if e.hypothesis}
            for some in _parts(self.hypotheses.missing(said)):
                made = await self.vectoriser.vectors("hypothesis", {key: said[key] for key in some})
                self._unsaved += self.hypotheses.sync_vectors(made)
            for e in fresh:
                self.designs.setdefault(normalised((e.hypothesis or {}).get("design", "")), []).append(e.id)
            self.view.add(fresh)  # last: what is in view has its vectors
            if self._unsaved >= _SAVED_EVERY:
                self.save()

    def save(self) -> None:
        """Writes the index down, if it has a place and something new."""
        if self.folder is None or not self._unsaved:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.programs.save(self.folder / _PROGRAMS)
        self.hypotheses.save(self.folder / _HYPOTHESES)
        self._unsaved = 0

    async def recall(
        self,
        store: Store,
        experiment: Experiment,
        visible: Sequence[Experiment],
        lessons: Sequence[Lesson],
        knowledge: Sequence[str],
        evidence: Callable[[Sequence[Lesson]], Sequence[Evidence]],
    ) -> Selection:
        """What `experiment`, whose parent is chosen, is reminded of; `evidence` tells what was given about lessons.

        Raises:
            ValueError: its parent is not among `visible`.
        """
        await self.learn(store, visible)
        parent = str(experiment.parent_id)
        up_to = visible[-1].index
        strongest = _strongest(lessons)
        return select(
            self.view,
            parent,
            up_to=up_to,
            lessons=strongest,
            evidence=evidence(strongest),
            near=self._near(parent, up_to),
            knowledge=knowledge,
        )

    def _near(self, parent: str, up_to: int) -> Near:
        wanted = k_near(self.view, parent, up_to=up_to)

        def nearest(index: Neighbours) -> list[Neighbour]:
            if parent not in index:
                return []
            return index.nearest_to(parent, wanted, among=lambda key: self.view.visible(key, up_to))

        return {"program": nearest(self.programs), "hypothesis": nearest(self.hypotheses)}


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """At most `_AT_ONCE` of them at a time: their texts are in memory together."""
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))


def _strongest(lessons: Sequence[Lesson]) -> list[Lesson]:
    """Those among which the best are: all that are more than observed, and the latest of the others."""
    observed = [x for x in lessons if x.level == "observed"][-_OBSERVED_LOOKED_AT:]
    return [x for x in lessons if x.level != "observed"] + observed


def wording(hypothesis: dict[str, Any] | None) -> str:
    """The words of a hypothesis that say what it is about."""
    said = hypothesis or {}
    return "\n".join(str(said.get(part, "")) for part in ("title", "mechanism", "change", "design"))


def normalised(design: object) -> str:
    """A design's text without what says nothing: white space, case, a final stop."""
    return " ".join(str(design).split()).casefold().rstrip(". ")


_FAILED_CHILDREN = 3

To = Callable[[str], Difference | None]  # an experiment's difference to its parent, by id


def reminded(
    selection: Selection, view: View[Experiment], up_to: int | None, difference: To = lambda one: None
) -> Memory:
    """The selection as the researcher is shown it; `view` holds what was selected from, `up_to` an index."""

    def mention(fact: Fact, tried: Tried | None = None) -> Mention:
        found = view.get(fact.id)
        hypothesis = (None if found is None else found.hypothesis) or {}
        return Mention(
            shown_id(fact.id),
            fact.name,
            fact.status,
            fact.reason,
            fact.score,
            str(hypothesis.get("change", "")),
            None if tried is None else tried.similarity,
            "" if tried is None else tried.by,
            difference(fact.id),
        )

    return Memory(
        path=tuple(mention(fact) for fact in selection.lineage.facts[:-1]),
        elided=selection.lineage.elided,
        best=tuple(map(mention, selection.best)),
        worst=tuple(map(mention, selection.worst)),
        failed=tuple(map(mention, _failed(view.children(selection.parent_id, up_to)))),
        n_children=selection.n_children,
        failures=tuple(FailureView(f.status, f.reason, f.count, mention(f.example)) for f in selection.failures),
        neighbours=tuple(mention(one.fact, one) for one in selection.tried),
        knowledge=tuple(
            KnowledgeView(e.id, e.title, e.year, e.source, e.idea, e.when, e.pitfalls)
            for e in map(entry, selection.knowledge)
        ),
    )


def _failed(children: Iterable[Experiment]) -> list[Fact]:
    """The latest of the children that were not completed."""
    failed = [e for e in children if e.status != "completed"]
    return [Fact(e.id, e.name, e.status, e.reason, e.score) for e in failed[: -_FAILED_CHILDREN - 1 : -1]]


def shown_id(experiment_id: str) -> str:
    """How agents know an experiment: without the campaign's name, which decides nothing and so must not reach them."""
    return f"exp-{experiment_id.rpartition('-')[2]}"


_DROPPED_FIRST = (
    "knowledge", "worst", "failed", "best", "failures", "lessons", "neighbours", "path", "history", "exemplars",
    "collisions",
)  # fmt: skip


def within(context: ResearchContext, tokens: int, count: Callable[[ResearchContext], int]) -> ResearchContext:
    """The context with whole items left out until its prompt has at most so many tokens, by `count`, which was asked
    about the very context that is returned.

    What goes first is said by `_DROPPED_FIRST`; of each list the last item goes first. In a transfer the published
    findings go last, since one of them is to be used. The parents stay: if they alone are too long, so is the prompt.

    The fewest that are enough are left out. A prompt with an item less is shorter, so that their number is looked for
    from a guess by the items' own tokens: rendering a long prompt for each of fifty items takes too long.
    """
    excess = count(context) - tokens
    if excess <= 0:
        return context
    order: Sequence[str] = _DROPPED_FIRST
    if context.mode == "transfer":
        order = (*(name for name in order if name != "knowledge"), "knowledge")
    queue = [(name, item) for name in order for item in reversed(_items(context, name))]
    names = [name for name, _ in queue]
    saved = accumulate(estimate(str(item)) for _, item in queue)
    guess = next((n for n, enough in enumerate(saved, 1) if enough >= excess), len(queue))

    tried: dict[int, ResearchContext] = {}

    def fits(dropped: int) -> bool:
        tried[dropped] = _without(context, names[:dropped])
        return count(tried[dropped]) <= tokens

    if fits(guess):
        while guess > 1 and fits(guess - 1):
            guess -= 1
    else:
        while guess < len(queue):
            guess += 1
            if fits(guess):
                break
    return tried[guess]


def _without(context: ResearchContext, names: Sequence[str]) -> ResearchContext:
    """The context less the last item of each list as often as it is named, and a line that says so."""
    dropped = Counter(names)
    if not dropped:
        return context
    kept: dict[str, Any] = {name: _items(context, name)[: -dropped[name]] for name in dropped}
    told = "left out for length: " + ", ".join(f"{n} of {what}" for what, n in dropped.items())
    own = {name: items for name, items in kept.items() if name in _OF_CONTEXT}
    rest = {name: items for name, items in kept.items() if name not in _OF_CONTEXT}
    return replace(context, memory=replace(context.memory, omitted=told, **rest), **own)


_OF_CONTEXT = frozenset({"lessons", "history", "exemplars", "collisions"})


def _items(context: ResearchContext, name: str) -> tuple[Any, ...]:
    return tuple(getattr(context if name in _OF_CONTEXT else context.memory, name))
