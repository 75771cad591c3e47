"""What the steps of an experiment work with, and what an experiment may see of the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agents.contexts import Brief
from agents.gateway import ChatModel
from memory.records import Campaign, Experiment
from memory.store import Store
from move37.budget import Budget
from move37.config import CampaignConfig
from move37.laboratory import Laboratory
from move37.turnstile import Turnstile
from prompts.loader import Prompts

Route = Literal["select", "research", "code", "gate", "trial", "analyse", "record", "end"]
Notify = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Loop:
    """What the steps work with; the only mutable part is the store."""

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

    def entry(self, experiment_id: str) -> Route:
        """Where an experiment starts: starters bring their program along."""
        return "gate" if self.store.experiment(experiment_id).kind == "starter" else "select"

    def visible(self, experiment: Experiment) -> list[Experiment]:
        """What this experiment may know: everything up to its horizon, whatever else has finished since."""
        return self.store.experiments(
            self.campaign.id,
            up_to_index=horizon(experiment.index, self.config.parallel, len(self.config.search.starters)),
        )


def horizon(index: int, parallel: int, starters: int) -> int:
    """The last index that experiment `index` may see, and waits for, with `parallel` experiments in flight.

    A fixed lag instead of "whatever has finished": with the latter, timing would decide what is proposed, and neither
    resume nor replay could reproduce it.
    """
    return -1 if index < starters else max(starters - 1, index - parallel)
