"""What is known: analyses, lessons, findings; and the log of events."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import rows
from memory.columns import escape, plain
from memory.errors import Conflict, ValueRefused
from memory.models import AnalysisRow, EventRow, ExperimentRow, FindingRow, LessonRow, snapshot
from memory.records import Analysis, Event, EvidenceLevel, Finding, Lesson

_LEVELS: tuple[str, ...] = get_args(EvidenceLevel)


def analysis(session: Transaction, experiment_id: str) -> Analysis | None:
    """The analysis of an experiment, if any."""
    row = session.get(AnalysisRow, experiment_id)
    return None if row is None else snapshot(Analysis, row)


def put_analysis(session: Transaction, now: datetime, experiment_id: str, body: Mapping[str, Any]) -> Analysis:
    """Store an analysis, once."""
    rows.experiment(session, experiment_id)
    wanted = {"body": plain(body, "analysis")}
    row = session.get(AnalysisRow, experiment_id)
    if row is not None:
        rows.must_agree("analysis", experiment_id, row, wanted)
        return snapshot(Analysis, row)
    row = AnalysisRow(experiment_id=experiment_id, created_at=now, **wanted)
    session.add(row)
    session.flush()
    return snapshot(Analysis, row)


def lessons(session: Transaction, campaign_id: str, up_to_index: int | None) -> list[Lesson]:
    """Lessons by index of their experiment."""
    query = select(LessonRow).join(ExperimentRow, LessonRow.experiment_id == ExperimentRow.id)
    query = query.where(LessonRow.campaign_id == campaign_id)
    if up_to_index is not None:
        query = query.where(ExperimentRow.index <= up_to_index)
    return [snapshot(Lesson, row) for row in session.scalars(query.order_by(ExperimentRow.index, LessonRow.id))]


def put_lesson(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    claim: str,
    *,
    level: EvidenceLevel,
    body: Mapping[str, Any],
) -> Lesson:
    """Store a lesson, or raise the level of a stored one."""
    experiment = rows.experiment(session, experiment_id)
    if level not in _LEVELS:
        raise ValueRefused(f"evidence level {level!r}", f"it is not one of {_LEVELS}")
    lesson_id = _id("l", experiment_id, claim)
    wanted = {"body": plain(body, "lesson")}
    row = session.get(LessonRow, lesson_id)
    if row is not None:
        rows.must_agree("lesson", lesson_id, row, wanted)
        if _LEVELS.index(level) > _LEVELS.index(row.level):
            row.level = level
    else:
        row = LessonRow(
            id=lesson_id,
            campaign_id=experiment.campaign_id,
            experiment_id=experiment_id,
            claim=claim,
            level=level,
            retired_by=None,
            created_at=now,
            **wanted,
        )
        session.add(row)
    session.flush()
    return snapshot(Lesson, row)


def retire_lesson(session: Transaction, lesson_id: str, by_experiment: str) -> Lesson:
    """Mark a lesson as refuted, once."""
    row = rows.get(session, LessonRow, "lesson", lesson_id)
    rows.experiment(session, by_experiment)
    if row.retired_by not in (None, by_experiment):
        raise Conflict("lesson", lesson_id, f"already retired by {row.retired_by}")
    row.retired_by = by_experiment
    session.flush()
    return snapshot(Lesson, row)


def findings(session: Transaction, campaign_id: str) -> list[Finding]:
    """The findings of a campaign, oldest first."""
    query = select(FindingRow).where(FindingRow.campaign_id == campaign_id)
    return [snapshot(Finding, row) for row in session.scalars(query.order_by(FindingRow.created_at, FindingRow.id))]


def put_finding(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    baseline_id: str,
    *,
    statistics: Mapping[str, Any],
    claim_objective_hash: str,
) -> Finding:
    """Store a finding, once."""
    experiment = rows.experiment(session, experiment_id)
    rows.experiment(session, baseline_id)
    finding_id = _id("f", experiment_id, baseline_id, claim_objective_hash)
    wanted = {"statistics": plain(statistics, "finding statistics")}
    row = session.get(FindingRow, finding_id)
    if row is not None:
        rows.must_agree("finding", finding_id, row, wanted)
        return snapshot(Finding, row)
    row = FindingRow(
        id=finding_id,
        campaign_id=experiment.campaign_id,
        experiment_id=experiment_id,
        baseline_id=baseline_id,
        claim_objective_hash=claim_objective_hash,
        created_at=now,
        **wanted,
    )
    session.add(row)
    session.flush()
    return snapshot(Finding, row)


def events(
    session: Transaction,
    campaign_id: str,
    *,
    experiment_id: str | None,
    kind: str | None,
    after: int,
    limit: int | None,
) -> list[Event]:
    """Events in order."""
    query = select(EventRow).where(EventRow.campaign_id == campaign_id, EventRow.id > after)
    if experiment_id is not None:
        query = query.where(EventRow.experiment_id == experiment_id)
    if kind is not None:
        query = query.where(EventRow.kind == kind)
    return [snapshot(Event, row) for row in session.scalars(query.order_by(EventRow.id).limit(limit))]


def put_event(
    session: Transaction,
    now: datetime,
    campaign_id: str,
    experiment_id: str | None,
    kind: str,
    *,
    payload: Mapping[str, Any],
) -> Event:
    """Append an event."""
    rows.campaign(session, campaign_id)
    if experiment_id is not None:
        rows.experiment(session, experiment_id)
    row = EventRow(
        campaign_id=campaign_id,
        experiment_id=experiment_id,
        kind=rows.word(kind, "event kind"),
        payload=plain(payload, "event payload"),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return snapshot(Event, row)


def _id(prefix: str, *parts: str) -> str:
    digest = blake2b("\x00".join(map(escape, parts)).encode(), digest_size=8)
    return f"{prefix}-{digest.hexdigest()}"
