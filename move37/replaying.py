"""Replay of a campaign: re-driven from its stored completions.

It runs the same loop into a memory of its own, with a model that answers only what is stored (by the content hash of
the request, so a prompt that differs by one byte is caught), a laboratory that returns the stored verdicts and trials,
and the stored vectors where an embeddings endpoint made them. It needs no model, no network and no sandbox. The memory
begins empty; that of a fork begins with a copy of what its experiments saw of the campaigns that it goes on from.

Not covered: training again (`retraining`).
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from agents.contexts import Message
from agents.differences import first_difference, lines_in_common, short_diff
from agents.gateway import ChatModel, Completion, request_key
from agents.wire import Usage
from evaluator.gating import CostProfile
from evaluator.static_gate import STATIC_GATES
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.records import Campaign, Exchange, Experiment
from memory.store import Store, open_store
from move37 import briefing, templates
from move37.budget import Budget
from move37.campaign import drive
from move37.config import BudgetConfig, CampaignConfig
from move37.copying import copy_experiments
from move37.errors import NotThere, ReplayDiverged
from move37.laboratory import FoundIdentity, GateOutcome, GateRequest, Laboratory, Progress, TrialOutcome
from move37.launch import stored_config
from move37.loop import Loop, Visibility
from move37.models import CassetteChoice, open_chat_models
from move37.recalling import Recollection
from move37.reserving import scope_of
from move37.turnstile import Turnstile
from move37.vectorising import stored_vectoriser
from prompts.loader import Prompts


class ReplayModel:
    """Answers from stored exchanges; anything else is a divergence."""

    kind: Literal["replay"] = "replay"

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self.name = exchanges[0].model if exchanges else "replay"
        self._by_key: dict[str, Exchange] = {x.request_key: x for x in exchanges}
        self._exchanges = exchanges

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """The stored completion of this very request.

        Raises:
            ReplayDiverged: no stored request has this content; names the nearest one.
        """
        key = request_key(messages, schema_name=schema.__name__ if schema else None, seed=seed)
        stored = self._by_key.get(key)
        if stored is None:
            raise ReplayDiverged(self._miss(messages, seed))
        return Completion(
            text=stored.text,
            model=stored.model,
            usage=Usage(stored.usage.prompt_tokens, stored.usage.completion_tokens, stored.usage.estimated),
            latency_s=0.0,
            finish_reason=stored.finish_reason,
            cost_usd=stored.cost_usd,
            raw=stored.response or {},
        )

    def _miss(self, messages: Sequence[Message], seed: int | None) -> str:
        """What was asked, against the stored request nearest to it. A call's seed is made of its place (experiment,
        role, attempt, turn), so the same seed means the same question; without it, the most lines in common."""
        asked = "\n".join(m.content for m in messages)
        if not self._exchanges:
            return "the replay asked a question, and no exchange is stored"
        nearest = next((x for x in self._exchanges if x.request.get("seed") == seed), None)
        if nearest is None:
            nearest = max(self._exchanges, key=lambda x: lines_in_common(_text(x), asked))
            opening = "the replay asked a question that was never asked; nearest to it is the stored one of"
        else:
            opening = "the replay's question differs from the stored one of"
        stored = _text(nearest)
        at = first_difference(stored, asked)
        shown = short_diff(stored, asked) or "  the text is the same; the schema of the reply differs"
        place = f"{nearest.role}, attempt {nearest.attempt}, turn {nearest.turn}"
        return f"{opening} {nearest.experiment_id} ({place}) at character {at}:\n{shown}"

    async def close(self) -> None:
        """Nothing is held."""


def _text(exchange: Exchange) -> str:
    return "\n".join(m["content"] for m in exchange.request["messages"])


class StoredLaboratory:
    """Verdicts and trials as they were recorded."""

    def __init__(self, store: Store, campaign: Campaign) -> None:
        self._store = store
        self._trials = {
            (t.experiment_id, t.task, t.tier, t.seed, t.data): t for t in store.trials(campaign_id=campaign.id)
        }

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        """The stored verdicts of the gates that ran in the sandbox, and what was found out about the program."""
        experiment_id, _, attempt = label.rpartition("/gates-")
        rows = self._store.verdicts(experiment_id, int(attempt))
        dynamic = [r for r in rows if r.gate not in {*STATIC_GATES, "identity", "equivalence"}]
        if not dynamic:
            raise ReplayDiverged(f"{label}: the replay reached gates that the campaign never ran")
        verdicts = tuple(Verdict(r.gate, r.passed, r.reason, r.message, r.line, dict(r.detail)) for r in dynamic)
        cost = rows[-1].detail.get("cost")  # it rides on the last verdict, of whichever gate
        keys = self._store.program_keys(hashlib.sha256(source.encode()).hexdigest())
        scope = scope_of(request.track, request.tier)
        found = [
            FoundIdentity(k.level, k.key, k.reason, k.cost_s)
            for k in keys
            if k.scope == scope and k.level in request.identity
        ]
        return GateOutcome(verdicts, CostProfile(**cost) if cost else None, identities=tuple(found))

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        """The stored outcome."""
        experiment_id = label.rpartition("/")[0]
        row = self._trials.get((experiment_id, request.task, request.tier, request.seed, request.data))
        if row is None or row.state == "open":
            raise ReplayDiverged(f"{label}: the replay reached a trial that the campaign never finished")
        return TrialOutcome(
            row.state == "completed",
            row.reason,
            row.message,
            row.score,
            {key: float(value) for key, value in row.metrics.items()},
            list(row.curve),
            row.log,
            row.device_s,
            dict(row.environment),
        )

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class CampaignReplay:
    """What a replay of a campaign found."""

    campaign: str
    stored: int
    experiments: int
    programs: list[str | None]
    calls_answered: int
    differences: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether programs, order, statuses and scores are the stored ones."""
        return not self.differences


def replay_campaign(
    store: Store, campaign: Campaign, prompts: Path | None = None, cassette: Path | None = None
) -> CampaignReplay:
    """Re-drives the loop over everything that was recorded up to the first experiment that is still open. `prompts` is
    where the campaign's own templates lie, if not where they lay when it began. With a `cassette`, completions come
    from it and not from the store.

    Raises:
        CassetteInvalid: the cassette cannot be used.
        ConfigError: the campaign was not run by Move37, or its templates are not what they were.
        NotThere: nothing has ended yet, or a campaign that it was forked from is not in the store.
        ReplayDiverged: the loop asked something that is not stored, or not on the cassette; the nearest is named.
    """
    return asyncio.run(_replay_campaign(store, campaign, prompts, cassette))


async def _replay_campaign(
    store: Store, campaign: Campaign, prompts: Path | None, cassette: Path | None
) -> CampaignReplay:
    originals = store.experiments(campaign.id)
    stored = len(originals)
    originals = originals[: next((place for place, e in enumerate(originals) if e.status == "open"), stored)]
    config = stored_config(campaign)
    if not originals:
        raise NotThere(
            f"no experiment of '{campaign.name}' has ended yet: there is nothing to replay. `move37 resume "
            f"{campaign.name}` goes on with it."
        )
    config = config.model_copy(update={"experiments": len(originals), "budget": BudgetConfig()})
    kept = {e.id for e in originals}
    exchanges = [x for x in store.exchanges(campaign_id=campaign.id) if x.experiment_id in kept]
    scratch = open_store("sqlite://", create=True)
    try:
        again = _copied_record(store, scratch, campaign)
        models: dict[str, ChatModel] = {}
        if cassette is not None:
            models = open_chat_models(config, CassetteChoice(cassette, "replay"))
        answers = next(iter(models.values()), None) or ReplayModel(exchanges)
        laboratory = StoredLaboratory(store, campaign)
        remembered = Recollection(stored_vectoriser(store, config))
        own = templates.of_campaign(store, campaign, prompts)
        loop = _loop(scratch, again, config, answers, laboratory, remembered, own)
        ending = await drive(replace(loop, others=models), checkpoint_file=None)
        if ending.error is not None:
            raise ReplayDiverged(str(ending.error)) from ending.error
        repeated = scratch.experiments(again.id)
        calls = scratch.counts(again.id).exchanges
    finally:
        scratch.close()
    return CampaignReplay(
        campaign.name,
        stored,
        len(repeated),
        [e.program_sha256 for e in repeated],
        calls,
        _differences(originals, repeated, len(exchanges), calls),
    )


def _copied_record(store: Store, scratch: Store, campaign: Campaign) -> Campaign:
    """The campaign's record without experiments; before it, if it is a fork, what it goes on from."""
    origin = None
    if campaign.forked_at is not None:
        node = Visibility.of(store, campaign).node
        if node is None:
            raise AssertionError(f"{campaign.name} was forked at {campaign.forked_at} and has no node")
        origin = _copied_record(store, scratch, store.campaign(node.campaign_id))
        copy_experiments(store, scratch, origin.id, node)
    return scratch.create_campaign(
        name=campaign.name,
        config=campaign.config,
        config_hash=campaign.config_hash,
        objective=campaign.objective,
        objective_hash=campaign.objective_hash,
        seed=campaign.seed,
        arms=campaign.arms,
        forked_from=None if origin is None else origin.id,
        forked_at=campaign.forked_at,
    )


def _loop(
    store: Store,
    campaign: Campaign,
    config: CampaignConfig,
    model: ChatModel,
    laboratory: Laboratory,
    recollection: Recollection,
    prompts: Prompts,
) -> Loop:
    return Loop(
        store=store,
        campaign=campaign,
        config=config,
        brief=briefing.brief(config),
        prompts=prompts,
        model=model,
        laboratory=laboratory,
        budget=Budget(BudgetConfig(), lambda: store.spent(campaign.id)),
        turnstile=Turnstile(Visibility.of(store, campaign).first),
        notify=lambda kind, payload: None,
        recollection=recollection,
    )


def _differences(
    originals: Sequence[Experiment], repeated: Sequence[Experiment], asked: int, answered: int
) -> list[str]:
    found = []
    if len(originals) != len(repeated):
        found.append(f"{len(originals)} experiments stored, {len(repeated)} replayed")
    for old, new in zip(originals, repeated, strict=False):
        for name in ("id", "program_sha256", "parent_id", "status", "reason", "score", "duplicate_of", "name"):
            before, after = getattr(old, name), getattr(new, name)
            if before != after:
                found.append(f"{old.id}: {name} was {before!r}, is {after!r}")
    if asked != answered:
        found.append(f"{asked} exchanges stored, {answered} replayed")
    return found
