"""Trials: one training run each."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import ledger, rows
from memory.columns import finite, maybe_finite, plain
from memory.errors import Conflict, ValueRefused
from memory.models import ExperimentRow, TrialRow, snapshot
from memory.records import DataKind, FinalTrialState, Trial

_ASKED_AT_ONCE = 500  # experiments in one query: SQLite takes only so many parameters


def scores(session: Transaction, experiment_ids: Collection[str]) -> list[tuple[str, str, int, float]]:
    """Experiment, task, seed and score of scored trials on selection data, of many experiments at once."""
    columns: Any = TrialRow.__table__.c
    query = select(columns.experiment_id, columns.task, columns.seed, columns.score)
    query = query.where(columns.score.is_not(None), columns.data == "selection")
    wanted = sorted(experiment_ids)
    parts = [wanted[start : start + _ASKED_AT_ONCE] for start in range(0, len(wanted), _ASKED_AT_ONCE)]
    found = [row for part in parts for row in session.execute(query.where(columns.experiment_id.in_(part)))]
    return [(row.experiment_id, row.task, row.seed, row.score) for row in found]


def listed(session: Transaction, *, experiment_id: str | None, campaign_id: str | None) -> list[Trial]:
    """Trials of one experiment or of a campaign."""
    if (experiment_id is None) == (campaign_id is None):
        raise ValueError("give either experiment_id or campaign_id")
    query = select(TrialRow).join(ExperimentRow, TrialRow.experiment_id == ExperimentRow.id)
    if experiment_id is not None:
        query = query.where(TrialRow.experiment_id == experiment_id)
    else:
        query = query.where(ExperimentRow.campaign_id == campaign_id)
    query = query.order_by(ExperimentRow.index, TrialRow.data, TrialRow.tier, TrialRow.task, TrialRow.seed)
    return [snapshot(Trial, row) for row in session.scalars(query)]


def open_(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    place: tuple[str, str, int, str],
    *,
    objective_hash: str,
    environment: Mapping[str, Any],
) -> Trial:
    """A new trial, an open one tried again, or a finished one."""
    rows.exists(session, ExperimentRow, "experiment", experiment_id)
    task, tier, seed, data = place
    if data not in get_args(DataKind):
        raise ValueRefused(f"trial data {data!r}", f"it is not one of {get_args(DataKind)}")
    trial_id = f"{experiment_id}/{rows.word(task, 'task')}/{rows.word(tier, 'tier')}/{seed}/{data}"
    row = session.get(TrialRow, trial_id)
    if row is not None:
        rows.must_agree("trial", trial_id, row, {"objective_hash": objective_hash})
        if row.state == "open":
            row.tries += 1
            row.environment = plain(environment, "environment") or row.environment
    else:
        row = TrialRow(
            id=trial_id,
            experiment_id=experiment_id,
            task=task,
            tier=tier,
            seed=seed,
            data=data,
            objective_hash=objective_hash,
            state="open",
            reason="",
            message="",
            score=None,
            metrics={},
            curve=[],
            log="",
            tries=1,
            device_s=0.0,
            environment=plain(environment, "environment"),
            started_at=now,
            finished_at=None,
        )
        session.add(row)
    session.flush()
    return snapshot(Trial, row)


def charge(session: Transaction, now: datetime, trial_id: str, device_s: float) -> Trial:
    """Add lost device time."""
    row = rows.get(session, TrialRow, "trial", trial_id)
    if row.state != "open":
        raise Conflict("trial", trial_id, f"it is {row.state}, which is final")
    _add(session, now, row, device_s)
    session.flush()
    return snapshot(Trial, row)


def _add(session: Transaction, now: datetime, row: TrialRow, device_s: float) -> None:
    seconds = _seconds(device_s, row.id)
    row.device_s += seconds
    ledger.charge(session, now, rows.experiment(session, row.experiment_id), row.id, {"device_s": seconds})


def finish(
    session: Transaction,
    now: datetime,
    trial_id: str,
    result: Mapping[str, Any],
    *,
    device_s: float,
    environment: Mapping[str, Any] | None,
) -> Trial:
    """Give a trial its result."""
    row = rows.get(session, TrialRow, "trial", trial_id)
    if result["state"] not in get_args(FinalTrialState):
        raise ValueRefused(f"final trial state {result['state']!r}", f"it is not one of {get_args(FinalTrialState)}")
    wanted = dict(result) | {
        "score": maybe_finite(result["score"], f"score of {trial_id}"),
        "metrics": plain(result["metrics"], f"metrics of {trial_id}"),
        "curve": plain(list(result["curve"]), f"curve of {trial_id}"),
    }
    if environment is not None:
        wanted["environment"] = plain(environment, "environment")
    if row.state != "open":
        rows.must_agree("trial", trial_id, row, wanted)
        return snapshot(Trial, row)
    rows.word(wanted["reason"], "reason")
    _add(session, now, row, device_s)
    for column, value in wanted.items():
        setattr(row, column, value)
    row.finished_at = now
    session.flush()
    return snapshot(Trial, row)


def _seconds(value: float, trial_id: str) -> float:
    seconds = finite(value, f"device time of {trial_id}")
    if seconds < 0:
        raise ValueRefused(f"device time of {trial_id}", f"{seconds} s is negative")
    return seconds
