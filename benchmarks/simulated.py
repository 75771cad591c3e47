"""Whole campaigns in seconds: the real loop, prompts and embedded model, with made-up scores in place of training.

A score is what the embedded model's priors expect of the design, moved by what each component is worth in this world
(drawn from its seed, so that priors are wrong in places) and by noise between seeds. Nothing that comes of it says how
good an architecture is; it says what proposers, prompts and bandits do with scores.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from agents.embedded.features import components_of
from agents.embedded.priors import abilities, expected
from agents.embedded.program import read_program
from evaluator import tiers
from evaluator.gating import CostProfile
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.records import Campaign
from memory.store import Store, open_store
from move37 import briefing, launch
from move37.budget import Budget
from move37.campaign import drive
from move37.config import CampaignConfig
from move37.laboratory import GateOutcome, GateRequest, Progress, TrialOutcome
from move37.loop import Loop, Visibility
from move37.turnstile import Turnstile
from prompts.loader import Prompts

NOISE = 0.03
SURPRISE = 0.15


@dataclass(frozen=True)
class Imagined:
    """A laboratory that accepts what the grammar writes and makes its scores up."""

    world: int = 0

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        """Everything passes."""
        parameters = tiers.get(request.track, request.tier).body_parameters
        cost = CostProfile(parameters, parameters // 2, 64, 2.0 * parameters, 1.0)
        return GateOutcome((Verdict("simulated", True, "ok", "simulated"),), cost)

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        """A score between -0.02 and 0.99."""
        score = self.score(source, request.task, request.seed, tiers.get(request.track, request.tier).d_model)
        curve = [{"fraction": f, "accuracy": max(0.0, score) * f} for f in (0.1, 0.25, 0.5, 1.0)]
        return TrialOutcome(True, "ok", "", score, {"curve_score": score}, curve)

    def score(self, source: str, task: str, seed: int, d_model: int) -> float:
        """What this world makes of a program."""
        mixer = read_program(source, d_model)
        worth = 0.0 if mixer is None else expected(abilities(mixer, 2), task) + self._surprise(components_of(mixer, 2))
        noise = random.Random(f"{self.world}:{source}:{task}:{seed}").gauss(0.0, NOISE)
        return round(min(0.99, max(-0.02, worth + noise)), 4)

    def _surprise(self, components: Sequence[str] | frozenset[str]) -> float:
        drawn = [random.Random(f"{self.world}:{name}").gauss(0.0, SURPRISE) for name in sorted(components)]
        return sum(drawn) / max(1, len(drawn))

    async def close(self) -> None:
        """Nothing is held."""


def campaign(config: CampaignConfig, world: int = 0, store: Store | None = None) -> tuple[Store, Campaign]:
    """A finished campaign, in a store in memory unless another is given."""
    return asyncio.run(_campaign(config, world, store or open_store("sqlite://", create=True)))


async def _campaign(config: CampaignConfig, world: int, store: Store) -> tuple[Store, Campaign]:
    config = config.model_copy(update={"objective": config.objective.model_copy(update={"salt": ""})})
    record = launch.start(store, config)
    models = launch.open_chat_models(config)
    loop = Loop(
        store=store,
        campaign=record,
        config=config,
        brief=briefing.brief(config),
        prompts=Prompts(),
        model=models[config.model.names[0]],
        others=models,
        laboratory=Imagined(world),
        budget=Budget(config.budget, partial(store.spent, record.id)),
        turnstile=Turnstile(Visibility.of(store, record).first),
        notify=lambda kind, payload: None,
    )
    try:
        ending = await drive(loop, checkpoint_file=None)
    finally:
        for model in models.values():
            await model.close()
    if ending.error is not None:
        raise ending.error
    return store, store.campaign(record.id)
