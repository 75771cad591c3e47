"""What the steps of an experiment work with, and what an experiment may see of the others.

Everything that asks "which experiments does this one know of" asks `Visibility`: the campaign's own up to a horizon
and, in a fork, those of the campaigns that it goes on from. It is built from the store alone, so that a resumed or
replayed fork sees what the interrupted or stored one saw.

Not covered: which of the visible ones are shown (`choosing`, `briefing`).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from operator import attrgetter
from typing import Any, Literal

from agents.contexts import Brief
from agents.gateway import ChatModel
from evaluator.objective import selects_on
from memory.errors import NotFound
from memory.records import Campaign, Evidence, Experiment, Lesson
from memory.store import Store
from move37.budget import Budget
from move37.config import CampaignConfig, stored
from move37.errors import NotThere
from move37.evidence import standing
from move37.laboratory import Laboratory
from move37.measuring import Noise, Ruler
from move37.recalling import Recollection
from move37.standings import Standings
from move37.turnstile import Turnstile
from prompts.loader import Prompts

Route = Literal["select", "research", "code", "gate", "trial", "analyse", "record", "end"]
Notify = Callable[[str, dict[str, Any]], None]


def horizon(index: int, parallel: int, starters: int) -> int:
    """The last index that experiment `index` may see, and waits for, with `parallel` experiments in flight.

    A fixed lag instead of "whatever has finished": with the latter, timing would decide what is proposed, and neither
    resume nor replay could reproduce it.
    """
    return -1 if index < starters else max(starters - 1, index - parallel)


@dataclass(frozen=True)
class Stretch:
    """The experiments of one campaign up to an index (inclusive), and `also` one beyond it: the node of a fork."""

    campaign_id: str
    up_to: int
    also: Experiment | None = None

    def holds(self, experiment: Experiment) -> bool:
        """Whether the experiment is one of them."""
        if experiment.campaign_id != self.campaign_id:
            return False
        return experiment.index <= self.up_to or (self.also is not None and experiment.id == self.also.id)

    @property
    def last(self) -> int:
        """The highest index that may be among them."""
        return self.up_to if self.also is None else max(self.up_to, self.also.index)


@dataclass(frozen=True)
class Visibility:
    """Which experiments an experiment of a campaign may know.

    Of its own campaign: those up to `horizon`. In a fork also, for every experiment alike, what the forked experiment
    was allowed to see when it was proposed, and that experiment itself (`inherited`, a stretch per campaign, the oldest
    first). A fork's indices go on from the forked experiment's, so that `exp-0007` in a prompt is one experiment.

    `first` is the index of the campaign's first experiment, `proposals` that of its first proposal: starters lie
    between them, and a fork has none.
    """

    store: Store
    campaign_id: str
    parallel: int
    first: int = 0
    proposals: int = 0
    node: Experiment | None = None
    inherited: tuple[Stretch, ...] = ()
    _known: dict[str, list[Experiment]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, store: Store, campaign: Campaign) -> "Visibility":
        """That of a stored campaign.

        Raises:
            NotThere: a campaign that it was forked from is not in the store.
        """
        config = stored(campaign.config)
        if campaign.forked_at is None:
            return cls(store, campaign.id, config.parallel, proposals=len(config.search.starters))
        try:
            node = store.experiment(campaign.forked_at)
        except NotFound as error:
            raise NotThere(
                f"'{campaign.name}' was forked at {campaign.forked_at}, which is not in this store, so what its "
                "experiments saw is not known. Import the campaign that it was forked from first."
            ) from error
        return cls.forked(store, node, campaign.id, config.parallel)

    @classmethod
    def forked(cls, store: Store, node: Experiment, campaign_id: str, parallel: int) -> "Visibility":
        """That of a campaign that goes on from `node`."""
        *before, own = cls.of(store, store.campaign(node.campaign_id)).stretches(node.index)
        inherited = (*before, replace(own, also=node if node.index > own.up_to else None))
        start = node.index + 1
        return cls(store, campaign_id, parallel, first=start, proposals=start, node=node, inherited=inherited)

    def horizon(self, index: int) -> int:
        """The last index of this campaign that experiment `index` sees and waits for; below `first`: none."""
        return horizon(index, self.parallel, self.proposals)

    def stretches(self, index: int) -> tuple[Stretch, ...]:
        """What experiment `index` sees, the oldest campaign first and this one last."""
        return (*self.inherited, Stretch(self.campaign_id, self.horizon(index)))

    def experiments(self, index: int) -> list[Experiment]:
        """What experiment `index` sees, by index."""
        found: list[Experiment] = []
        for stretch in self.stretches(index):
            found.extend(self._up_to(stretch.campaign_id, stretch.up_to))
            if stretch.also is not None:
                found.append(stretch.also)
        return found

    def _up_to(self, campaign_id: str, up_to: int) -> list[Experiment]:
        """As the store lists them; finished ones never change, so each is read once."""
        known = self._known.setdefault(campaign_id, [])
        last = known[-1].index if known else -1
        if up_to <= last:
            return known[: bisect_right(known, up_to, key=attrgetter("index"))]
        fresh = self.store.experiments(campaign_id, after_index=last, up_to_index=up_to)
        final = list(takewhile(attrgetter("finished"), fresh))
        known.extend(final)
        return [*known, *fresh[len(final) :]]

    def lessons(self, index: int) -> list[Lesson]:
        """The lessons of what experiment `index` sees, by the index of their experiment, each with the level and the
        refuter that the evidence of what it sees gives. One that was refuted only beyond is shown as it stood."""
        visible = self.experiments(index)
        found = self.standings.of(visible)
        return self.lessons_anew(index, visible) if found is None else found

    def lessons_anew(self, index: int, visible: Sequence[Experiment]) -> list[Lesson]:
        """As `lessons`, all read from the store; `visible` is what experiment `index` sees."""
        indices = {e.id: e.index for e in visible}
        found: list[Lesson] = []
        rows: list[Evidence] = []
        for stretch in self.stretches(index):
            lessons = self.store.lessons(stretch.campaign_id, up_to_index=stretch.last)
            found.extend(x for x in lessons if x.experiment_id in indices)
            rows.extend(self.store.evidence(stretch.campaign_id))
        return standing(found, rows, indices)

    @cached_property
    def standings(self) -> Standings:
        """The lessons of what was asked about so far."""
        return Standings(self.store)

    def tried(self, level: str, key: str) -> str | None:
        """The inherited experiment that holds this identity, if there is one: what it tried counts as tried here."""
        for stretch in self.inherited:
            held = self.store.identity(stretch.campaign_id, level, key)
            if held is not None and stretch.holds(self.store.experiment(held.experiment_id)):
                return held.experiment_id
        return None

    def first_parent(self, index: int) -> Experiment | None:
        """The forked experiment, for the first of the fork, if it has a score to improve on."""
        if self.node is None or index != self.first:
            return None
        return self.node if self.node.status == "completed" and self.node.score is not None else None


@dataclass(frozen=True)
class Loop:
    """What the steps work with; the only mutable parts are the store, and what is remembered of it."""

    store: Store
    campaign: Campaign
    config: CampaignConfig
    brief: Brief
    prompts: Prompts
    model: ChatModel
    laboratory: Laboratory
    budget: Budget
    turnstile: Turnstile
    notify: Notify
    recollection: Recollection = field(default_factory=Recollection)
    others: Mapping[str, ChatModel] = field(default_factory=dict)

    def model_of(self, experiment: Experiment) -> ChatModel:
        """The model that answers for an experiment: the one that was selected for it, where there are several."""
        return self.others.get(str(experiment.selection.get("model", "")), self.model)

    @cached_property
    def visibility(self) -> Visibility:
        """Which experiments those of this campaign may know."""
        return Visibility.of(self.store, self.campaign)

    @cached_property
    def ruler(self) -> Ruler:
        """Compares experiments with their parents."""
        goal = self.config.objective
        return Ruler(self.store, Noise(goal.track, goal.tier, goal.tasks))

    @cached_property
    def ranking(self) -> tuple[str, ...]:
        """The tasks whose scores are selected on."""
        goal = self.config.objective
        return tuple(selects_on(goal.track, goal.tier, goal.tasks))

    @property
    def indices(self) -> range:
        """The indices of the campaign's experiments."""
        return range(self.visibility.first, self.visibility.first + self.config.experiments)

    def entry(self, experiment_id: str) -> Route:
        """Where an experiment starts: starters bring their program along."""
        return "gate" if self.store.experiment(experiment_id).kind == "starter" else "select"

    def visible(self, experiment: Experiment) -> list[Experiment]:
        """What this experiment may know: everything up to its horizon, whatever else has finished since."""
        return self.visibility.experiments(experiment.index)
