"""What the reading commands show, as plain data: the stable JSON interface documented in docs/json.md.

Reads the store only; imports neither torch nor langgraph nor pydantic,
and what only some of them need when they need it, so that `status` answers at once.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memory.errors import NotFound
from memory.records import Campaign, Experiment, Trial
from move37.errors import NotThere
from move37.workspace import Workspace

if TYPE_CHECKING:
    from memory.lineage import Forest
    from memory.overview import Overview
    from memory.store import Store


def find_campaign(store: "Overview", name: str | None, *, unfinished: bool = False) -> Campaign:
    """A campaign by name or id; without one, the latest (`unfinished`: the latest that can be resumed).

    Raises:
        NotThere: there is none.
    """
    campaigns = store.campaigns()
    if name is not None:
        for campaign in campaigns:
            if name in {campaign.name, campaign.id}:
                return campaign
        known = ", ".join(c.name for c in campaigns) or "none"
        raise NotThere(f"there is no campaign '{name}'. There are: {known}.")
    wanted = [c for c in campaigns if not unfinished or c.state != "finished"]
    if not wanted:
        if campaigns:
            raise NotThere("every campaign is finished: there is nothing to resume. `move37 status` lists them.")
        raise NotThere("there is no campaign yet. `move37 run` starts one.")
    return max(wanted, key=lambda c: c.created_at)


def find_experiment(store: "Store", name: str) -> Experiment | None:
    """An experiment by id, or None."""
    try:
        return store.experiment(name)
    except NotFound:
        return None


def best_of(experiments: Sequence[Experiment]) -> Experiment | None:
    """The highest score; of equals, the earliest."""
    scored = [e for e in experiments if e.score is not None and e.status == "completed"]
    return min(scored, key=lambda e: (-(e.score or 0.0), e.index), default=None)


def status(workspace: Workspace, store: "Overview", campaign: Campaign) -> dict[str, Any]:
    """One campaign's row of `move37 status --json`."""
    counts = store.by_status(campaign.id)
    spent = store.spent(campaign.id)
    best = store.best(campaign.id)
    state: str = campaign.state
    if state == "running" and not workspace.is_held(campaign.id):
        state = "interrupted"  # its process is gone without a word: `move37 resume` continues it
    return {
        "name": campaign.name,
        "id": campaign.id,
        "forked_from": campaign.forked_at,
        "read_only": campaign.read_only,
        "state": state,
        "arms": campaign.arms,
        "experiments": {
            "total": sum(counts.values()),
            "planned": campaign.config.get("experiments"),
            **counts,
        },
        "best": {"id": best.id, "score": best.score} if best else {"id": None, "score": None},
        "spent": {
            "tokens": spent.tokens,
            "cost_usd": spent.cost_usd,
            "wall_s": round(spent.wall_s, 3),
            "device_s": round(spent.device_s, 3),
        },
        "stopped_because": campaign.stopped_because,
        "notices": campaign.announcements,
        "created_at": _time(campaign.created_at),
    }


def closer(store: "Store", campaign: Campaign) -> dict[str, Any]:
    """What `status` says of one campaign beyond its row; it reads more of it."""
    from memory.knowledge_base.query import usage
    from move37 import modes, reckoning

    experiments = {e.id: e for e in store.outline(campaign.id)}
    gains = {
        e.id: e.score - parent.score
        for e in experiments.values()
        if e.score is not None and (parent := experiments.get(e.parent_id or "")) and parent.score is not None
    }
    uses = usage(((use.experiment_id, use.entry) for use in store.knowledge_uses(campaign.id)), gains)
    proposals = store.experiments(campaign.id)
    model = campaign.config.get("model", {})
    return {
        "modes": modes.summary(proposals, "mode", "improve"),
        "models": modes.summary(proposals, "model", model.get("name") or "") if model.get("others") else None,
        "identity": [
            {"level": x.level, "programs": x.programs, "keyed": x.keyed, "cost_s": x.cost_s, "caught": x.caught}
            for x in store.recognised(campaign.id)
        ],
        "knowledge": [
            {"entry": x.entry, "shown": x.shown, "measured": x.measured, "gained": x.gained, "mean_gain": x.mean_gain}
            for x in uses
        ],
        **reckoning.summary(store, campaign, proposals),
    }


def lineage(store: "Store", campaign: Campaign) -> dict[str, Any]:
    """`move37 lineage --json`.

    Raises:
        LineageCycle: some experiments descend from themselves.
    """
    from memory.lineage import Forest

    return lineage_of(campaign, Forest(store.experiments(campaign.id)))


def lineage_of(campaign: Campaign, forest: "Forest", chosen: Collection[str] | None = None) -> dict[str, Any]:
    """As `lineage`, of a forest in hand and of those `chosen` from it (all by default)."""
    from memory.lineage import gain_over

    counts = forest.descendant_counts()
    best = best_of(forest.experiments)
    return {
        "campaign": campaign.name,
        "best_path": [one.id for one in forest.path(best.id)] if best else [],
        "nodes": [
            {
                **node(one),
                "depth": forest.depth(one.id),
                "descendants": counts[one.id],
                "gain": gain_over(forest.parent(one.id), one),
            }
            for one in forest.experiments
            if chosen is None or one.id in chosen
        ],
    }


def node(experiment: Experiment) -> dict[str, Any]:
    """One node of the lineage."""
    hypothesis = experiment.hypothesis or {}
    return {
        "id": experiment.id,
        "parent": experiment.parent_id,
        "name": experiment.name,
        "status": experiment.status,
        "reason": experiment.reason,
        "score": experiment.score,
        "program_sha256": experiment.program_sha256,
        "index": experiment.index,
        "kind": experiment.kind,
        "arm": experiment.arm,
        "change": hypothesis.get("change", ""),
        "duplicate_of": experiment.duplicate_of,
        "equivalent_of": experiment.equivalent_of,
    }


def show(store: "Store", experiment: Experiment) -> dict[str, Any]:
    """`move37 show --json`: everything about one experiment."""
    campaign = store.campaign(experiment.campaign_id)
    analysis = store.analysis(experiment.id)
    attempts = store.attempts(experiment.id)
    from move37 import reckoning

    parent = store.experiment(experiment.parent_id) if experiment.parent_id else None
    return {
        **node(experiment),
        "campaign": campaign.name,
        "forked_from": campaign.forked_at,
        "message": experiment.message,
        "track": experiment.track,
        "tier": experiment.tier,
        "exemplars": experiment.exemplar_ids,
        "selection": experiment.selection,
        "hypothesis": experiment.hypothesis,
        "parent_score": parent.score if parent else None,
        "program": store.program(experiment.program_sha256).source if experiment.program_sha256 else None,
        "attempts": [
            {
                "number": a.number,
                "origin": a.origin,
                "outcome": a.outcome,
                "detail": a.detail,
                "program_sha256": a.program_sha256,
                "hypothesis": a.hypothesis,
                "verdicts": [
                    {
                        "gate": v.gate,
                        "passed": v.passed,
                        "reason": v.reason,
                        "message": v.message,
                        "line": v.line,
                        "detail": v.detail,
                    }
                    for v in store.verdicts(experiment.id, a.number)
                ],
            }
            for a in attempts
        ],
        "trials": [_trial(t) for t in store.trials(experiment.id)],
        "analysis": analysis.body if analysis else None,
        **reckoning.of_experiment(store, campaign, experiment),
        "exchanges": [
            {
                "id": x.id,
                "role": x.role,
                "attempt": x.attempt,
                "turn": x.turn,
                "model": x.model,
                "request_key": x.request_key,
                "template_hashes": x.template_hashes,
                "messages": x.request.get("messages", []),
                "response": x.response,
                "text": x.text,
                "usage": {
                    "prompt_tokens": x.usage.prompt_tokens,
                    "completion_tokens": x.usage.completion_tokens,
                    "estimated": x.usage.estimated,
                },
                "cost_usd": x.cost_usd,
                "latency_s": x.latency_s,
                "finish_reason": x.finish_reason,
            }
            for x in store.exchanges(experiment.id)
        ],
        "environment": experiment.environment,
        "created_at": _time(experiment.created_at),
        "finished_at": _time(experiment.finished_at),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "id": trial.id,
        "task": trial.task,
        "tier": trial.tier,
        "seed": trial.seed,
        "data": trial.data,
        "objective_hash": trial.objective_hash,
        "state": trial.state,
        "reason": trial.reason,
        "message": trial.message,
        "score": trial.score,
        "metrics": trial.metrics,
        "curve": trial.curve,
        "log": trial.log,
        "tries": trial.tries,
        "device_s": trial.device_s,
        "environment": trial.environment,
        "started_at": _time(trial.started_at),
        "finished_at": _time(trial.finished_at),
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
