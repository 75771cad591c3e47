"""What is known: analyses, lessons, findings; and the log of events."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, get_args

from sqlalchemy import insert, select
from sqlalchemy.orm import Session as Transaction

from memory import at_once, rows
from memory.columns import plain
from memory.database import Database
from memory.errors import Conflict, ValueRefused
from memory.escaping import escape
from memory.models import (
    AnalysisRow,
    CampaignRow,
    EventRow,
    ExperimentRow,
    FindingRow,
    KnowledgeUseRow,
    LessonEvidenceRow,
    LessonRow,
    snapshot,
)
from memory.records import Analysis, Event, Evidence, EvidenceLevel, Finding, KnowledgeUse, Lesson, Stance

_PUT_EVENT = at_once.insert(EventRow, without=("id",), returning="id")
_LEVELS: tuple[str, ...] = get_args(EvidenceLevel)
_ASKED_AT_ONCE = 500  # experiments in one query: SQLite takes only so many parameters


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


def lessons(
    session: Transaction, campaign_id: str, up_to_index: int | None, *, after_index: int = -1, raised: bool = False
) -> list[Lesson]:
    """Lessons by index of their experiment."""
    query = rows.selecting(Lesson, LessonRow).join(ExperimentRow, LessonRow.experiment_id == ExperimentRow.id)
    query = query.where(LessonRow.campaign_id == campaign_id)
    if up_to_index is not None:
        query = query.where(ExperimentRow.index <= up_to_index)
    if after_index >= 0:
        query = query.where(ExperimentRow.index > after_index)
    if raised:
        query = query.where((LessonRow.level != _LEVELS[0]) | LessonRow.retired_by.is_not(None))
    return rows.snapshots(session, Lesson, query.order_by(ExperimentRow.index, LessonRow.id))


def lessons_of(session: Transaction, experiment_ids: Collection[str]) -> list[Lesson]:
    """The lessons of some experiments, by index of their experiment."""
    query = rows.selecting(Lesson, LessonRow).add_columns(ExperimentRow.index)
    query = query.join(ExperimentRow, LessonRow.experiment_id == ExperimentRow.id)
    parts = (query.where(LessonRow.experiment_id.in_(part)) for part in _parts(experiment_ids))
    found = [row for part in parts for row in session.connection().execute(part)]
    by_index = sorted(((row[-1], Lesson(*row[:-1])) for row in found), key=lambda pair: (pair[0], pair[1].id))
    return [lesson for _, lesson in by_index]


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


def evidence(session: Transaction, campaign_id: str) -> list[Evidence]:
    """What supports and contradicts the lessons of a campaign, in order of lesson and experiment."""
    query = select(LessonEvidenceRow).join(LessonRow, LessonEvidenceRow.lesson_id == LessonRow.id)
    query = query.where(LessonRow.campaign_id == campaign_id)
    query = query.order_by(LessonEvidenceRow.lesson_id, LessonEvidenceRow.experiment_id)
    return [snapshot(Evidence, row) for row in session.scalars(query)]


def evidence_with(session: Transaction, experiment_ids: Collection[str]) -> list[Evidence]:
    """What some experiments gave, and what was given about their lessons, in order of lesson and experiment."""
    table: Any = LessonEvidenceRow.__table__
    query = rows.selecting(Evidence, LessonEvidenceRow)
    about = query.join(LessonRow, table.c.lesson_id == LessonRow.id)
    found: dict[tuple[str, str], Evidence] = {}
    for part in _parts(experiment_ids):
        for one in (query.where(table.c.experiment_id.in_(part)), about.where(LessonRow.experiment_id.in_(part))):
            found.update({(e.lesson_id, e.experiment_id): e for e in rows.snapshots(session, Evidence, one)})
    return [found[key] for key in sorted(found)]


def _parts(ids: Collection[str]) -> list[list[str]]:
    wanted = sorted(ids)
    return [wanted[start : start + _ASKED_AT_ONCE] for start in range(0, len(wanted), _ASKED_AT_ONCE)]


def put_evidence(
    session: Transaction, now: datetime, lesson_id: str, experiment_id: str, stance: Stance, note: str
) -> Evidence:
    """Store what an experiment says of a lesson, once."""
    rows.get(session, LessonRow, "lesson", lesson_id)
    rows.experiment(session, experiment_id)
    if stance not in get_args(Stance):
        raise ValueRefused(f"stance {stance!r}", f"it is not one of {get_args(Stance)}")
    wanted = {"stance": stance, "note": note}
    row = session.get(LessonEvidenceRow, (lesson_id, experiment_id))
    if row is not None:
        rows.must_agree("evidence", f"{lesson_id}/{experiment_id}", row, wanted)
        return snapshot(Evidence, row)
    row = LessonEvidenceRow(lesson_id=lesson_id, experiment_id=experiment_id, created_at=now, **wanted)
    session.add(row)
    session.flush()
    return snapshot(Evidence, row)


def knowledge_uses(session: Transaction, campaign_id: str) -> list[KnowledgeUse]:
    """Which entries the researchers of a campaign were shown, by index and entry."""
    query = select(KnowledgeUseRow).join(ExperimentRow, KnowledgeUseRow.experiment_id == ExperimentRow.id)
    query = query.where(ExperimentRow.campaign_id == campaign_id).order_by(ExperimentRow.index, KnowledgeUseRow.entry)
    return [snapshot(KnowledgeUse, row) for row in session.scalars(query)]


def knowledge_shown(session: Transaction, experiment_ids: Collection[str]) -> set[str]:
    """The entries that any of some experiments was shown."""
    query = select(KnowledgeUseRow.entry).distinct()
    parts = (query.where(KnowledgeUseRow.experiment_id.in_(part)) for part in _parts(experiment_ids))
    return {entry for part in parts for entry in session.scalars(part)}


def put_knowledge_uses(session: Transaction, now: datetime, experiment_id: str, entries: Sequence[str]) -> None:
    """Store that an experiment was shown entries of the knowledge base."""
    rows.exists(session, ExperimentRow, "experiment", experiment_id)
    held = set(session.scalars(select(KnowledgeUseRow.entry).where(KnowledgeUseRow.experiment_id == experiment_id)))
    wanted = dict.fromkeys(rows.word(entry, "knowledge entry") for entry in entries)
    fresh = [{"experiment_id": experiment_id, "entry": x, "created_at": now} for x in wanted if x not in held]
    if fresh:
        session.connection().execute(insert(KnowledgeUseRow), fresh)


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
    rows.exists(session, CampaignRow, "campaign", campaign_id)
    if experiment_id is not None:
        rows.exists(session, ExperimentRow, "experiment", experiment_id)
    row = EventRow(**_event(now, campaign_id, experiment_id, kind, payload))
    session.add(row)
    session.flush()
    return snapshot(Event, row)


def put_event_at_once(
    database: Database,
    now: datetime,
    campaign_id: str,
    experiment_id: str | None,
    kind: str,
    *,
    payload: Mapping[str, Any],
    subject: str,
) -> Event | None:
    """`put_event` in one statement (memory/at_once.py), or None where that does not do. Foreign keys find the rows."""
    values = _event(now, campaign_id, experiment_id, kind, payload)
    stored = database.at_once(_PUT_EVENT, subject, at_once.parameters(EventRow, values))
    return None if stored is None else at_once.record(Event, values, id=stored[0])


def _event(
    now: datetime, campaign_id: str, experiment_id: str | None, kind: str, payload: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "campaign_id": campaign_id,
        "experiment_id": experiment_id,
        "kind": rows.word(kind, "event kind"),
        "payload": plain(payload, "event payload"),
        "created_at": now,
    }


def _id(prefix: str, *parts: str) -> str:
    digest = blake2b("\x00".join(map(escape, parts)).encode(), digest_size=8)
    return f"{prefix}-{digest.hexdigest()}"
