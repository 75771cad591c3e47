"""What of the memory an experiment's researcher is reminded of: lineage, siblings, failures, neighbours, knowledge.

`Recollection` holds, for one process, the light columns of what is visible and an index of its programs and hypotheses,
both kept in step one experiment at a time; `memory.retrieval` chooses among them by rules. The same visible experiments
give the same choice, whichever process asks and whatever else has finished since.

Not covered: parent and exemplars (`choosing`), how it is worded (`briefing`, the templates).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents.contexts import FailureView, KnowledgeView, Memory, Mention, ResearchContext
from memory.knowledge_base.entries import entry
from memory.neighbours import Neighbour, Neighbours
from memory.records import Experiment, Lesson
from memory.retrieval import Fact, Near, Selection, Tried, k_near, select
from memory.store import Store
from memory.tokens import Fitted, fit
from memory.vectors import Kind
from memory.view import View
from move37.vectorising import Hashed, Vectoriser

_PROGRAMS, _HYPOTHESES = "programs.safetensors", "hypotheses.safetensors"
_SAVED_EVERY = 200  # entries
_AT_ONCE = 256


@dataclass
class Recollection:
    """Grows with the campaign. One event loop's, like the loop that owns it.

    With a `folder` the index is kept there from process to process: to encode a thousand programs takes seconds. It is
    a convenience and never the truth; what it lacks is added, and without it everything is.
    """

    vectoriser: Vectoriser = field(default_factory=Hashed)
    folder: Path | None = None
    view: View[Experiment] = field(default_factory=View)
    _learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unsaved: int = 0

    def __post_init__(self) -> None:
        self.programs = self._index("program", _PROGRAMS)
        self.hypotheses = self._index("hypothesis", _HYPOTHESES)

    def _index(self, kind: Kind, file: str) -> Neighbours:
        encoder = self.vectoriser.encoder(kind)
        return Neighbours(encoder) if self.folder is None else Neighbours.load(self.folder / file, encoder)

    async def learn(self, store: Store, visible: Sequence[Experiment]) -> None:
        """Takes in what of `visible` is new. Nobody sees half of it: who asks meanwhile waits."""
        async with self._learning:
            fresh = [e for e in visible if not self.view.visible(e.id)]
            programs = {e.id: e.program_sha256 for e in fresh if e.program_sha256 is not None}
            for some in _parts(self.programs.missing(programs)):
                sources = {programs[known]: store.program(programs[known]).source for known in some}
                made = await self.vectoriser.vectors("program", sources)
                self._unsaved += self.programs.sync_vectors({known: made[programs[known]] for known in some})
            said = {e.id: wording(e.hypothesis) for e in fresh if e.hypothesis}
            for some in _parts(self.hypotheses.missing(said)):
                made = await self.vectoriser.vectors("hypothesis", {known: said[known] for known in some})
                self._unsaved += self.hypotheses.sync_vectors(made)
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
    ) -> Selection:
        """What `experiment`, whose parent is chosen, is reminded of.

        Raises:
            ValueError: its parent is not among `visible`.
        """
        await self.learn(store, visible)
        parent = str(experiment.parent_id)
        up_to = visible[-1].index
        evidence = [e for campaign in sorted({x.campaign_id for x in visible}) for e in store.evidence(campaign)]
        return select(
            self.view,
            parent,
            up_to=up_to,
            lessons=lessons,
            evidence=evidence,
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


def wording(hypothesis: dict[str, Any] | None) -> str:
    """The words of a hypothesis that say what it is about."""
    said = hypothesis or {}
    return "\n".join(str(said.get(part, "")) for part in ("title", "mechanism", "change", "design"))


def reminded(selection: Selection, visible: Sequence[Experiment]) -> Memory:
    """The selection as the researcher is shown it."""
    by_id = {e.id: e for e in visible}

    def mention(fact: Fact, tried: Tried | None = None) -> Mention:
        hypothesis = by_id[fact.id].hypothesis or {}
        return Mention(
            shown_id(fact.id),
            fact.name,
            fact.status,
            fact.reason,
            fact.score,
            str(hypothesis.get("change", "")),
            None if tried is None else tried.similarity,
            "" if tried is None else tried.by,
        )

    return Memory(
        path=tuple(mention(fact) for fact in selection.lineage.facts[:-1]),
        elided=selection.lineage.elided,
        best=tuple(map(mention, selection.best)),
        worst=tuple(map(mention, selection.worst)),
        n_children=selection.n_children,
        failures=tuple(FailureView(f.status, f.reason, f.count, mention(f.example)) for f in selection.failures),
        neighbours=tuple(mention(one.fact, one) for one in selection.tried),
        knowledge=tuple(
            KnowledgeView(e.id, e.title, e.year, e.source, e.idea, e.when, e.pitfalls)
            for e in map(entry, selection.knowledge)
        ),
    )


def shown_id(experiment_id: str) -> str:
    """How agents know an experiment: without the campaign's name, which decides nothing and so must not reach them."""
    return f"exp-{experiment_id.rpartition('-')[2]}"


_SECTIONS = ("history", "path", "neighbours", "lessons", "failures", "best", "worst", "knowledge")
"""What may be left out of a prompt, from what is kept longest to what goes first."""


def within(context: ResearchContext, tokens: int, count: Callable[[ResearchContext], int]) -> ResearchContext:
    """The context with whole items left out until its prompt has at most so many tokens, by `count`.

    What goes first is said by `_SECTIONS`; of each list the last item goes first. Parent, exemplars and collisions
    stay: if they alone are too long, so is the prompt.
    """
    lengths = {name: len(_items(context, name)) for name in _SECTIONS}
    return _shortened(context, fit(lengths, tokens, lambda fitted: count(_shortened(context, fitted))))


_OF_CONTEXT = frozenset({"lessons", "history"})


def _items(context: ResearchContext, name: str) -> tuple[Any, ...]:
    return tuple(getattr(context if name in _OF_CONTEXT else context.memory, name))


def _shortened(context: ResearchContext, fitted: Fitted) -> ResearchContext:
    kept: dict[str, Any] = {name: _items(context, name)[:number] for name, number in fitted.kept.items()}
    above = {name: kept.pop(name) for name in _OF_CONTEXT}
    return replace(context, **above, memory=replace(context.memory, **kept, omitted=fitted.told()))
