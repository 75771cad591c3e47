"""What a campaign used and has: sums over its rows, never a counter that could drift from them."""

from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session as Transaction

from memory import campaigns, rows
from memory.models import (
    AttemptRow,
    ExchangeRow,
    ExperimentRow,
    FindingRow,
    LessonRow,
    TrialRow,
)
from memory.records import Counts, Spent

SelectT = TypeVar("SelectT", bound=Select[*tuple[Any, ...]])


def spent(session: Transaction, campaign_id: str, arm: str | None) -> Spent:
    """Tokens, money, wall and device time."""
    rows.campaign(session, campaign_id)
    calls, priced, prompt, completion, cost = session.execute(
        _of_campaign(
            select(
                func.count(),
                func.count(ExchangeRow.cost_usd),
                func.coalesce(func.sum(ExchangeRow.prompt_tokens), 0),
                func.coalesce(func.sum(ExchangeRow.completion_tokens), 0),
                func.sum(ExchangeRow.cost_usd),
            ).join(ExperimentRow, ExchangeRow.experiment_id == ExperimentRow.id),
            campaign_id,
            arm,
        )
    ).one()
    device_s = session.execute(
        _of_campaign(
            select(func.sum(TrialRow.device_s)).join(ExperimentRow, TrialRow.experiment_id == ExperimentRow.id),
            campaign_id,
            arm,
        )
    ).scalar_one()
    return Spent(
        tokens=int(prompt) + int(completion),
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        cost_usd=None if calls and not priced else float(cost or 0.0),
        calls=calls,
        unpriced_calls=calls - priced,
        wall_s=sum(one.wall_s for one in campaigns.sessions(session, campaign_id)),
        device_s=float(device_s or 0.0),
    )


def counts(session: Transaction, campaign_id: str, arm: str | None) -> Counts:
    """Rows of each kind, in one query."""
    rows.campaign(session, campaign_id)
    by_status = _of_campaign(select(ExperimentRow.status, func.count()), campaign_id, arm).group_by(
        ExperimentRow.status
    )
    found = {str(status): int(number) for status, number in session.execute(by_status)}
    related = {
        "attempts": AttemptRow.experiment_id,
        "trials": TrialRow.experiment_id,
        "exchanges": ExchangeRow.experiment_id,
        "lessons": LessonRow.experiment_id,
        "findings": FindingRow.experiment_id,
    }
    numbers = session.execute(
        select(
            *(
                _of_campaign(
                    select(func.count()).join_from(column.parent, ExperimentRow, column == ExperimentRow.id),
                    campaign_id,
                    arm,
                )
                .scalar_subquery()
                .label(name)
                for name, column in related.items()
            )
        )
    ).one()
    statuses = {status: found.get(status, 0) for status in ("open", "completed", "rejected", "duplicate", "failed")}
    return Counts(**statuses, **numbers._asdict())


def _of_campaign(query: SelectT, campaign_id: str, arm: str | None) -> SelectT:
    query = query.where(ExperimentRow.campaign_id == campaign_id)
    return query if arm is None else query.where(ExperimentRow.arm == arm)
