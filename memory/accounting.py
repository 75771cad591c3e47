"""What a campaign used and has: what the ledger adds up to, and numbers of rows.

Notable: the totals of a campaign are kept by the database with every entry of the ledger (one look-up, however large
the campaign); those of an arm are summed. `by_status` reads an index only; `counts` walks what it counts.
"""

from typing import Any, TypeVar, get_args

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session as Transaction

from memory import campaigns, ledger, rows
from memory.models import (
    AttemptRow,
    ExchangeRow,
    ExperimentRow,
    FindingRow,
    LessonRow,
    TrialRow,
)
from memory.records import Counts, ExperimentStatus, Spent

SelectT = TypeVar("SelectT", bound=Select[*tuple[Any, ...]])


def spent(session: Transaction, campaign_id: str, arm: str | None) -> Spent:
    """Tokens, money, wall and device time."""
    rows.campaign(session, campaign_id)
    wall_s = sum(one.wall_s for one in campaigns.sessions(session, campaign_id))
    return Spent.of(ledger.totals(session, campaign_id, arm), wall_s)


def by_status(session: Transaction, campaign_id: str, arm: str | None) -> dict[str, int]:
    """Experiments of each status; all five are there."""
    query = _of_campaign(select(ExperimentRow.status, func.count()), campaign_id, arm).group_by(ExperimentRow.status)
    found = {str(status): int(number) for status, number in session.execute(query)}
    return {status: found.get(status, 0) for status in get_args(ExperimentStatus)}


def counts(session: Transaction, campaign_id: str, arm: str | None) -> Counts:
    """Rows of each kind, in one query."""
    rows.campaign(session, campaign_id)
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
    return Counts(**by_status(session, campaign_id, arm), **numbers._asdict())


def _of_campaign(query: SelectT, campaign_id: str, arm: str | None) -> SelectT:
    query = query.where(ExperimentRow.campaign_id == campaign_id)
    return query if arm is None else query.where(ExperimentRow.arm == arm)
