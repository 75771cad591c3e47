"""Experiments: opened, selected, finished; never changed afterwards.

`..._at_once` is the function of that name in one statement (memory/at_once.py), or None where that does not do.

Notable: `outline` reads what drawing and counting need and leaves out what is long; `best` answers from an index.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session as Transaction

from memory import at_once, rows
from memory.columns import maybe_finite, plain
from memory.database import Database
from memory.errors import Conflict, NotFound, ValueRefused
from memory.models import AttemptRow, ExperimentRow, ProgramRow, snapshot
from memory.records import Experiment, ExperimentKind, FinalStatus, Outline

_KEPT = ("name", "hypothesis", "program_sha256", "duplicate_of", "equivalent_of", "environment")
_OPEN = at_once.insert(
    ExperimentRow,
    source="turn JOIN campaigns ON campaigns.id = %(campaign_id)s AND turn.taken = ''",
    computed={"id": "campaigns.name || %(suffix)s::text"},
    returning="id",
)
_FINISH = at_once.update(
    ExperimentRow,
    given=("status", "reason", "message", "score", "finished_at"),
    optional=_KEPT,
    condition="experiments.status = 'open'",
    returning="*, (SELECT count(*) FROM attempts WHERE attempts.experiment_id = written.id) AS attempts",
)


def find(session: Transaction, experiment_id: str) -> Experiment:
    """One experiment."""
    found = rows.snapshots(session, Experiment, _recording().where(ExperimentRow.id == experiment_id))
    if not found:
        raise NotFound("experiment", experiment_id)
    return found[0]


def listed(
    session: Transaction,
    campaign_id: str,
    *,
    status: str | None,
    arm: str | None,
    up_to_index: int | None,
    after_index: int = -1,
) -> list[Experiment]:
    """Experiments of a campaign by index, later than `after_index`."""
    query = _whole(campaign_id).where(ExperimentRow.index > after_index)
    if status is not None:
        query = query.where(ExperimentRow.status == status)
    if arm is not None:
        query = query.where(ExperimentRow.arm == arm)
    if up_to_index is not None:
        query = query.where(ExperimentRow.index <= up_to_index)
    return rows.snapshots(session, Experiment, query.order_by(ExperimentRow.index))


def _whole(campaign_id: str) -> Select[tuple[Any, ...]]:
    return _recording().where(ExperimentRow.campaign_id == campaign_id)


def _recording() -> Select[tuple[Any, ...]]:
    n_attempts = (
        select(func.count()).where(AttemptRow.experiment_id == ExperimentRow.id).correlate(ExperimentRow)
    ).scalar_subquery()
    return rows.selecting(Experiment, ExperimentRow, attempts=n_attempts)


def outline(
    session: Transaction, campaign_id: str, *, after_index: int = -1, up_to_index: int | None = None
) -> list[Outline]:
    """Experiments of a campaign by index, in short, later than `after_index` and up to `up_to_index` (inclusive)."""
    columns = ExperimentRow.__table__.c
    query = select(*(columns[name] for name in Outline._fields)).where(columns.campaign_id == campaign_id)
    query = query.where(columns.index > after_index)
    if up_to_index is not None:
        query = query.where(columns.index <= up_to_index)
    return [Outline._make(row) for row in session.connection().execute(query.order_by(columns.index))]


def at(session: Transaction, campaign_id: str, index: int) -> Experiment | None:
    """The experiment of this index, if it was opened."""
    found = rows.snapshots(session, Experiment, _whole(campaign_id).where(ExperimentRow.index == index))
    return found[0] if found else None


def best(session: Transaction, campaign_id: str) -> Outline | None:
    """The completed experiment of the highest score, of equal ones the earliest; None when nothing completed."""
    columns = ExperimentRow.__table__.c
    completed = (columns.campaign_id == campaign_id) & (columns.status == "completed")
    highest = select(func.max(columns.score)).where(completed).scalar_subquery()
    query = select(*(columns[name] for name in Outline._fields)).where(completed, columns.score == highest)
    row = session.connection().execute(query.order_by(columns.index).limit(1)).first()
    return None if row is None else Outline._make(row)


def open_(
    session: Transaction,
    now: datetime,
    campaign_id: str,
    index: int,
    *,
    fixed: Mapping[str, str],
    name: str,
    environment: Mapping[str, Any],
) -> Experiment:
    """The experiment of this index, new or as it is."""
    campaign = rows.campaign(session, campaign_id)
    _check_opening(index, fixed)
    experiment_id = f"{campaign.name}{_suffix(index)}"
    row = session.get(ExperimentRow, experiment_id)
    if row is not None:
        rows.must_agree("experiment", experiment_id, row, fixed)
        return _record(session, row)
    row = ExperimentRow(id=experiment_id, **_opened(now, campaign_id, index, fixed, name, environment))
    session.add(row)
    session.flush()
    return snapshot(Experiment, row, attempts=0)


def open_at_once(
    database: Database,
    now: datetime,
    campaign_id: str,
    index: int,
    *,
    fixed: Mapping[str, str],
    name: str,
    environment: Mapping[str, Any],
    subject: str,
) -> Experiment | None:
    """`open_` of a new one."""
    _check_opening(index, fixed)
    values = _opened(now, campaign_id, index, fixed, name, environment)
    given = at_once.parameters(ExperimentRow, values) | {"suffix": _suffix(index)}
    stored = database.at_once(_OPEN, subject, given)
    return None if stored is None else at_once.record(Experiment, values, id=stored[0], attempts=0)


def _check_opening(index: int, fixed: Mapping[str, str]) -> None:
    if index < 0:
        raise ValueRefused(f"experiment index {index}", "indices count from 0")
    if fixed["kind"] not in get_args(ExperimentKind):
        raise ValueRefused(f"experiment kind {fixed['kind']!r}", f"it is not one of {get_args(ExperimentKind)}")


def _suffix(index: int) -> str:
    return f"-{index:04d}"


def _opened(
    now: datetime,
    campaign_id: str,
    index: int,
    fixed: Mapping[str, str],
    name: str,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The columns of a new experiment but its id."""
    return {
        "campaign_id": campaign_id,
        "index": index,
        "arm": rows.word(fixed["arm"], "arm"),
        "kind": fixed["kind"],
        "track": rows.word(fixed["track"], "track"),
        "tier": rows.word(fixed["tier"], "tier"),
        "status": "open",
        "reason": "",
        "message": "",
        "parent_id": None,
        "exemplar_ids": [],
        "selection": {},
        "selected_at": None,
        "name": name,
        "hypothesis": None,
        "program_sha256": None,
        "duplicate_of": None,
        "equivalent_of": None,
        "score": None,
        "environment": plain(environment, "environment"),
        "created_at": now,
        "finished_at": None,
    }


def select_(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    parent_id: str | None,
    *,
    exemplar_ids: Sequence[str],
    selection: Mapping[str, Any],
) -> Experiment:
    """Store what the experiment starts from, once."""
    row = rows.experiment(session, experiment_id)
    wanted = {
        "parent_id": parent_id,
        "exemplar_ids": [str(exemplar) for exemplar in exemplar_ids],
        "selection": plain(selection, "selection"),
    }
    if row.selected_at is not None:
        rows.must_agree("experiment", experiment_id, row, wanted)
        return _record(session, row)
    rows.open_experiment(session, experiment_id, "selecting")
    for source in [*([parent_id] if parent_id is not None else []), *exemplar_ids]:
        if rows.experiment(session, source).status == "open":
            raise Conflict("experiment", experiment_id, f"it cannot build on {source}, which is not finished")
    for column, value in wanted.items():
        setattr(row, column, value)
    row.selected_at = now
    session.flush()
    return _record(session, row)


def finish(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    required: Mapping[str, Any],
    optional: Mapping[str, Any],
) -> Experiment:
    """Give the final status."""
    row = rows.experiment(session, experiment_id)
    wanted = _final(experiment_id, required, optional)
    if row.status != "open":
        rows.must_agree("experiment", experiment_id, row, wanted)
        return _record(session, row)
    if wanted["reason"]:
        rows.word(wanted["reason"], "reason")
    if "program_sha256" in wanted:
        rows.exists(session, ProgramRow, "program", wanted["program_sha256"])
    for original in ("duplicate_of", "equivalent_of"):
        if original in wanted:
            rows.experiment(session, wanted[original])
    _check_final(experiment_id, wanted)
    for column, value in wanted.items():
        setattr(row, column, value)
    row.finished_at = now
    session.flush()
    return _record(session, row)


def finish_at_once(
    database: Database,
    now: datetime,
    experiment_id: str,
    required: Mapping[str, Any],
    optional: Mapping[str, Any],
) -> Experiment | None:
    """`finish` of an open one. Foreign keys find the program and the original."""
    wanted = _final(experiment_id, required, optional)
    if wanted["reason"]:
        rows.word(wanted["reason"], "reason")
    _check_final(experiment_id, wanted)
    values = {**dict.fromkeys(_KEPT), **wanted, "id": experiment_id, "finished_at": now}
    stored = database.at_once(_FINISH, experiment_id, at_once.parameters(ExperimentRow, values))
    return None if stored is None else at_once.read(Experiment, ExperimentRow, stored, "attempts")


def _final(experiment_id: str, required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    if required["status"] not in get_args(FinalStatus):
        raise ValueRefused(f"final status {required['status']!r}", f"it is not one of {get_args(FinalStatus)}")
    wanted = dict(required) | {name: value for name, value in optional.items() if value is not None}
    wanted["score"] = maybe_finite(required["score"], f"score of {experiment_id}")
    for name in ("hypothesis", "environment"):
        if name in wanted:
            wanted[name] = plain(wanted[name], name)
    return wanted


def _check_final(experiment_id: str, wanted: Mapping[str, Any]) -> None:
    status = wanted["status"]
    if status == "completed" and (wanted["score"] is None or "program_sha256" not in wanted):
        raise Conflict("experiment", experiment_id, "completed means measured: it needs a score and a program")
    originals = {wanted.get("duplicate_of"), wanted.get("equivalent_of")} - {None}
    if status == "duplicate" and (not originals or experiment_id in originals):
        raise Conflict("experiment", experiment_id, "a duplicate needs the other experiment that it repeats")


def _record(session: Transaction, row: ExperimentRow) -> Experiment:
    count = session.scalar(select(func.count()).where(AttemptRow.experiment_id == row.id))
    return snapshot(Experiment, row, attempts=count)
