"""Trials: one training run each.

`..._at_once` is the function of that name in one statement (memory/at_once.py), or None where that does not do.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import at_once, ledger, rows
from memory.columns import finite, maybe_finite, plain
from memory.database import Database
from memory.errors import Conflict, ValueRefused
from memory.models import ExperimentRow, TrialRow, snapshot
from memory.records import DataKind, FinalTrialState, Trial

_ASKED_AT_ONCE = 500  # experiments in one query: SQLite takes only so many parameters
_OPEN = at_once.insert(TrialRow, source=at_once.EXPERIMENT)
_FINISH = at_once.update(
    TrialRow,
    given=("state", "reason", "message", "score", "metrics", "curve", "log", "finished_at"),
    optional=("environment",),
    condition="trials.state = 'open'",
    also=("device_s = trials.device_s + %(device_s)s::float8",),
    charging=True,
)


def scores(session: Transaction, experiment_ids: Collection[str]) -> list[tuple[str, str, int, float]]:
    """Experiment, task, seed and score of scored trials on selection data, of many experiments at once."""
    columns: Any = TrialRow.__table__.c
    query = select(columns.experiment_id, columns.task, columns.seed, columns.score)
    query = query.where(columns.score.is_not(None), columns.data == "selection")
    wanted = sorted(experiment_ids)
    parts = [wanted[start : start + _ASKED_AT_ONCE] for start in range(0, len(wanted), _ASKED_AT_ONCE)]
    found = [row for part in parts for row in session.execute(query.where(columns.experiment_id.in_(part)))]
    return [(row.experiment_id, row.task, row.seed, row.score) for row in found]


def campaign_scores(session: Transaction, campaign_id: str) -> list[tuple[str, str, int, float]]:
    """As `scores`, of a whole campaign, in the order in which `listed` has an experiment's trials."""
    columns: Any = TrialRow.__table__.c
    query = select(columns.experiment_id, columns.task, columns.seed, columns.score)
    query = query.join(ExperimentRow, columns.experiment_id == ExperimentRow.id)
    query = query.where(ExperimentRow.campaign_id == campaign_id)
    query = query.where(columns.score.is_not(None), columns.data == "selection")
    query = query.order_by(columns.experiment_id, columns.tier, columns.task, columns.seed)
    return [(row[0], row[1], row[2], row[3]) for row in session.connection().execute(query)]


def listed(session: Transaction, *, experiment_id: str | None, campaign_id: str | None) -> list[Trial]:
    """Trials of one experiment or of a campaign."""
    if (experiment_id is None) == (campaign_id is None):
        raise ValueError("give either experiment_id or campaign_id")
    query = rows.selecting(Trial, TrialRow).join(ExperimentRow, TrialRow.experiment_id == ExperimentRow.id)
    if experiment_id is not None:
        query = query.where(TrialRow.experiment_id == experiment_id)
    else:
        query = query.where(ExperimentRow.campaign_id == campaign_id)
    query = query.order_by(ExperimentRow.index, TrialRow.data, TrialRow.tier, TrialRow.task, TrialRow.seed)
    return rows.snapshots(session, Trial, query)


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
    trial_id = _id(experiment_id, place)
    row = session.get(TrialRow, trial_id)
    if row is not None:
        rows.must_agree("trial", trial_id, row, {"objective_hash": objective_hash})
        if row.state == "open":
            row.tries += 1
            row.environment = plain(environment, "environment") or row.environment
    else:
        row = TrialRow(**_opened(now, experiment_id, place, objective_hash, environment))
        session.add(row)
    session.flush()
    return snapshot(Trial, row)


def open_at_once(
    database: Database,
    now: datetime,
    experiment_id: str,
    place: tuple[str, str, int, str],
    *,
    objective_hash: str,
    environment: Mapping[str, Any],
) -> Trial | None:
    """`open_` of a new one."""
    values = _opened(now, experiment_id, place, objective_hash, environment)
    stored = database.at_once(_OPEN, experiment_id, at_once.parameters(TrialRow, values))
    return None if stored is None else at_once.record(Trial, values)


def _id(experiment_id: str, place: tuple[str, str, int, str]) -> str:
    task, tier, seed, data = place
    if data not in get_args(DataKind):
        raise ValueRefused(f"trial data {data!r}", f"it is not one of {get_args(DataKind)}")
    return f"{experiment_id}/{rows.word(task, 'task')}/{rows.word(tier, 'tier')}/{seed}/{data}"


def _opened(
    now: datetime,
    experiment_id: str,
    place: tuple[str, str, int, str],
    objective_hash: str,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    task, tier, seed, data = place
    return {
        "id": _id(experiment_id, place),
        "experiment_id": experiment_id,
        "task": task,
        "tier": tier,
        "seed": seed,
        "data": data,
        "objective_hash": objective_hash,
        "state": "open",
        "reason": "",
        "message": "",
        "score": None,
        "metrics": {},
        "curve": [],
        "log": "",
        "tries": 1,
        "device_s": 0.0,
        "environment": plain(environment, "environment"),
        "started_at": now,
        "finished_at": None,
    }


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
    wanted = _final(trial_id, result, environment)
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


def finish_at_once(
    database: Database,
    now: datetime,
    trial_id: str,
    result: Mapping[str, Any],
    *,
    device_s: float,
    environment: Mapping[str, Any] | None,
    subject: str,
) -> Trial | None:
    """`finish` of an open one."""
    wanted = _final(trial_id, result, environment)
    rows.word(wanted["reason"], "reason")
    seconds = _seconds(device_s, trial_id)
    values = {"environment": None, **wanted, "id": trial_id, "device_s": seconds, "finished_at": now}
    entries = ledger.entered(trial_id, {"device_s": seconds})
    given = at_once.parameters(TrialRow, values) | at_once.charges(entries, now, trial_id)
    stored = database.at_once(_FINISH, subject, given)
    return None if stored is None else at_once.read(Trial, TrialRow, stored)


def _final(trial_id: str, result: Mapping[str, Any], environment: Mapping[str, Any] | None) -> dict[str, Any]:
    if result["state"] not in get_args(FinalTrialState):
        raise ValueRefused(f"final trial state {result['state']!r}", f"it is not one of {get_args(FinalTrialState)}")
    wanted = dict(result) | {
        "score": maybe_finite(result["score"], f"score of {trial_id}"),
        "metrics": plain(result["metrics"], f"metrics of {trial_id}"),
        "curve": plain(list(result["curve"]), f"curve of {trial_id}"),
    }
    if environment is not None:
        wanted["environment"] = plain(environment, "environment")
    return wanted


def _seconds(value: float, trial_id: str) -> float:
    seconds = finite(value, f"device time of {trial_id}")
    if seconds < 0:
        raise ValueRefused(f"device time of {trial_id}", f"{seconds} s is negative")
    return seconds
