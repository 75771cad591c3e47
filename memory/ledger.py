"""The ledger: one entry for everything that was spent, when it was spent. Append-only.

An exchange is charged when it is stored, a trial for every try, so that what a killed or repeated try used is not
forgotten and no sum has to be kept beside its parts.

Notable: on PostgreSQL entries of a campaign are made side by side; whoever lists them waits for those being made, so
that going on `after` an id misses none.
Not covered: prices (they come with the exchange), wall time (it belongs to sessions).
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session as Transaction

from memory.columns import finite
from memory.database import close_ledger, share_ledger
from memory.models import ChargeRow, ExperimentRow, LedgerTotalRow, snapshot
from memory.records import Charge, ChargeKind


def charge(
    session: Transaction, now: datetime, experiment: ExperimentRow, source: str, amounts: Mapping[ChargeKind, float]
) -> None:
    """Enter what `source` (an exchange or a trial of `experiment`) used; nothing for amounts of zero but money."""
    share_ledger(session, experiment.campaign_id)
    entries = [
        {
            "campaign_id": experiment.campaign_id,
            "experiment_id": experiment.id,
            "kind": kind,
            "amount": amount,
            "source": source,
            "created_at": now,
        }
        for kind, amount in entered(source, amounts).items()
    ]
    if entries:
        session.flush()  # first what is charged for
        session.execute(insert(ChargeRow.__table__), entries)  # type: ignore[arg-type]


def entered(source: str, amounts: Mapping[ChargeKind, float]) -> dict[ChargeKind, float]:
    """What makes an entry: nothing for amounts of zero but money."""
    return {kind: finite(amount, f"{kind} of {source}") for kind, amount in amounts.items() if amount or kind == "usd"}


def total(session: Transaction, campaign_id: str, arm: str | None) -> dict[str, float]:
    """Sums by kind; a kind that was never charged is missing."""
    return {kind: amount for kind, (amount, _) in totals(session, campaign_id, arm).items()}


def totals(session: Transaction, campaign_id: str, arm: str | None) -> dict[str, tuple[float, int]]:
    """Sum and number of entries by kind. Those of a whole campaign are kept by the database, those of an arm summed."""
    if arm is None:
        kept = select(LedgerTotalRow.kind, LedgerTotalRow.amount, LedgerTotalRow.entries)
        query = kept.where(LedgerTotalRow.campaign_id == campaign_id).order_by(LedgerTotalRow.kind)
    else:
        query = select(ChargeRow.kind, func.sum(ChargeRow.amount), func.count())
        query = query.join(ExperimentRow, ChargeRow.experiment_id == ExperimentRow.id)
        query = query.where(ChargeRow.campaign_id == campaign_id, ExperimentRow.arm == arm).group_by(ChargeRow.kind)
    return {str(kind): (float(amount), int(entries)) for kind, amount, entries in session.execute(query)}


def listed(session: Transaction, campaign_id: str, *, after: int, limit: int | None) -> list[Charge]:
    """Entries in the order in which they were made."""
    close_ledger(session, campaign_id)  # who goes on `after` the last one has missed none
    query = select(ChargeRow).where(ChargeRow.campaign_id == campaign_id, ChargeRow.id > after)
    return [snapshot(Charge, row) for row in session.scalars(query.order_by(ChargeRow.id).limit(limit))]
