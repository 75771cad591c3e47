"""The tables of the experiment memory (SQLAlchemy 2, typed).

Notable: portable column types only; no relationships (reads are snapshots, and configuring mappers costs start-up
time); nothing is ever deleted; finished rows are guarded by triggers that the migrations create, not by this file.
Not covered: what may change when (memory/migrations/guards.py), who calls what (memory/store.py).
"""

from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from memory import records
from memory.columns import AnyText, Moment

ID = String(300)
WORD = String(120)
HASH = String(160)

RecordT = TypeVar("RecordT")


def one_of(column: str, literal: Any) -> CheckConstraint:
    """A CHECK that `column` holds one of the values of a `Literal` type."""
    values = ", ".join(f"'{value}'" for value in get_args(literal))
    return CheckConstraint(f"{column} IN ({values})", name=f"{column}_is_known")


class Base(DeclarativeBase):
    """Declarative base: constraint names are fixed so that migrations can address them on every database."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain class attribute
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        datetime: Moment(),
        float: Float(53),
        int: Integer(),
        str: WORD,
    }


Base.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def snapshot(kind: type[RecordT], row: Base, **computed: Any) -> RecordT:
    """The record of a row: every field from the column of that name, or from `computed`."""
    values: dict[str, Any] = {
        field.name: computed[field.name] if field.name in computed else getattr(row, field.name)
        for field in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**values)


class CampaignRow(Base):
    __tablename__ = "campaigns"
    __table_args__ = (one_of("state", records.CampaignState),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(WORD, unique=True)
    state: Mapped[str]
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str] = mapped_column(HASH)
    objective: Mapped[dict[str, Any]]
    objective_hash: Mapped[str] = mapped_column(HASH)
    seed: Mapped[int] = mapped_column(BigInteger)
    announcements: Mapped[list[Any]]
    stopped_because: Mapped[str | None] = mapped_column(AnyText)
    arms: Mapped[list[Any]]
    forked_from: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    replay_of: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    forked_at: Mapped[str | None] = mapped_column(ForeignKey("experiments.id", use_alter=True))
    origin: Mapped[dict[str, Any] | None]
    read_only: Mapped[bool]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class SessionRow(Base):
    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    owner: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class ProgramRow(Base):
    __tablename__ = "programs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(AnyText)
    n_lines: Mapped[int]
    l0: Mapped[str] = mapped_column(HASH, index=True)
    literal_hash: Mapped[str] = mapped_column(HASH, index=True)
    created_at: Mapped[datetime]


class ExperimentRow(Base):
    __tablename__ = "experiments"
    __table_args__ = (
        UniqueConstraint("campaign_id", "index"),
        Index("ix_experiments_standing", "campaign_id", "status", "score", "index"),
        one_of("kind", records.ExperimentKind),
        one_of("status", records.ExperimentStatus),
        CheckConstraint(
            "status <> 'duplicate' OR duplicate_of IS NOT NULL OR equivalent_of IS NOT NULL",
            name="duplicate_has_original",
        ),
        CheckConstraint("status <> 'completed' OR score IS NOT NULL", name="completed_has_score"),
        CheckConstraint("(status = 'open') = (finished_at IS NULL)", name="finished_has_time"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    index: Mapped[int]
    arm: Mapped[str]
    kind: Mapped[str]
    track: Mapped[str]
    tier: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str] = mapped_column(AnyText)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"), index=True)
    exemplar_ids: Mapped[list[Any]]
    selection: Mapped[dict[str, Any]]
    selected_at: Mapped[datetime | None]
    name: Mapped[str] = mapped_column(AnyText)
    hypothesis: Mapped[dict[str, Any] | None]
    program_sha256: Mapped[str | None] = mapped_column(ForeignKey("programs.sha256"), index=True)
    duplicate_of: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"))
    equivalent_of: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"))
    score: Mapped[float | None]
    environment: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class AttemptRow(Base):
    __tablename__ = "attempts"
    __table_args__ = (one_of("origin", records.AttemptOrigin), one_of("outcome", records.AttemptOutcome))

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    origin: Mapped[str]
    edit: Mapped[str] = mapped_column(AnyText)
    hypothesis: Mapped[dict[str, Any] | None]
    program_sha256: Mapped[str | None] = mapped_column(ForeignKey("programs.sha256"), index=True)
    outcome: Mapped[str | None]
    detail: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]


class IdentityRow(Base):
    __tablename__ = "identities"

    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    level: Mapped[str] = mapped_column(String(16), primary_key=True)
    key: Mapped[str] = mapped_column(HASH, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), index=True)
    created_at: Mapped[datetime]


class ProgramKeyRow(Base):
    __tablename__ = "program_keys"

    program_sha256: Mapped[str] = mapped_column(ForeignKey("programs.sha256"), primary_key=True)
    level: Mapped[str] = mapped_column(String(16), primary_key=True)
    scope: Mapped[str] = mapped_column(WORD, primary_key=True)
    key: Mapped[str | None] = mapped_column(HASH, index=True)
    reason: Mapped[str] = mapped_column(AnyText)
    cost_s: Mapped[float]
    created_at: Mapped[datetime]


class VerdictRow(Base):
    __tablename__ = "verdicts"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    gate: Mapped[str]
    passed: Mapped[bool]
    reason: Mapped[str]
    message: Mapped[str] = mapped_column(AnyText)
    line: Mapped[int | None]
    detail: Mapped[dict[str, Any]]


class TrialRow(Base):
    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("experiment_id", "task", "tier", "seed", "data"),
        one_of("data", records.DataKind),
        one_of("state", records.TrialState),
        CheckConstraint("(state = 'open') = (finished_at IS NULL)", name="finished_has_time"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"))
    task: Mapped[str]
    tier: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[str]
    objective_hash: Mapped[str] = mapped_column(HASH)
    state: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str] = mapped_column(AnyText)
    score: Mapped[float | None]
    metrics: Mapped[dict[str, Any]]
    curve: Mapped[list[Any]]
    log: Mapped[str] = mapped_column(AnyText)
    tries: Mapped[int]
    device_s: Mapped[float]
    environment: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class ExchangeRow(Base):
    __tablename__ = "exchanges"
    __table_args__ = (UniqueConstraint("experiment_id", "role", "attempt", "turn"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"))
    role: Mapped[str]
    attempt: Mapped[int]
    turn: Mapped[int]
    request_key: Mapped[str] = mapped_column(HASH, index=True)
    template_hashes: Mapped[dict[str, Any]]
    model: Mapped[str] = mapped_column(AnyText)
    request: Mapped[dict[str, Any]]
    response: Mapped[dict[str, Any] | None]
    text: Mapped[str] = mapped_column(AnyText)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    usage_estimated: Mapped[bool]
    cost_usd: Mapped[float | None]
    latency_s: Mapped[float]
    finish_reason: Mapped[str] = mapped_column(AnyText)
    created_at: Mapped[datetime]

    def record(self) -> records.Exchange:
        """The snapshot of this row."""
        usage = records.Usage(self.prompt_tokens, self.completion_tokens, self.usage_estimated)
        return snapshot(records.Exchange, self, usage=usage)


class AnalysisRow(Base):
    __tablename__ = "analyses"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class LessonRow(Base):
    __tablename__ = "lessons"
    __table_args__ = (one_of("level", records.EvidenceLevel),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), index=True)
    claim: Mapped[str] = mapped_column(AnyText)
    level: Mapped[str]
    body: Mapped[dict[str, Any]]
    retired_by: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"))
    created_at: Mapped[datetime]


class LessonEvidenceRow(Base):
    __tablename__ = "lesson_evidence"
    __table_args__ = (one_of("stance", records.Stance),)

    lesson_id: Mapped[str] = mapped_column(ForeignKey("lessons.id"), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), primary_key=True, index=True)
    stance: Mapped[str]
    note: Mapped[str] = mapped_column(AnyText)
    created_at: Mapped[datetime]


class KnowledgeUseRow(Base):
    __tablename__ = "knowledge_uses"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    entry: Mapped[str] = mapped_column(WORD, primary_key=True, index=True)
    created_at: Mapped[datetime]


class VectorRow(Base):
    __tablename__ = "vectors"

    kind: Mapped[str] = mapped_column(WORD, primary_key=True)
    key: Mapped[str] = mapped_column(ID, primary_key=True)
    encoder: Mapped[str] = mapped_column(WORD, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]


class ChargeRow(Base):
    __tablename__ = "ledger"
    __table_args__ = (Index("ix_ledger_campaign_id_kind", "campaign_id", "kind"), one_of("kind", records.ChargeKind))

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"))
    kind: Mapped[str]
    amount: Mapped[float]
    source: Mapped[str] = mapped_column(AnyText)
    created_at: Mapped[datetime]


class LedgerTotalRow(Base):
    """What the ledger adds up to; a trigger on it keeps this, in the same transaction, so the two cannot differ."""

    __tablename__ = "ledger_totals"
    __table_args__ = {"info": {"derived": True}}  # noqa: RUF012 - SQLAlchemy reads a plain class attribute

    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[float]
    entries: Mapped[int] = mapped_column(BigInteger)


class FindingRow(Base):
    __tablename__ = "findings"
    __table_args__ = (UniqueConstraint("experiment_id", "baseline_id", "claim_objective_hash"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"))
    baseline_id: Mapped[str] = mapped_column(ForeignKey("experiments.id"))
    statistics: Mapped[dict[str, Any]]
    claim_objective_hash: Mapped[str] = mapped_column(HASH)
    created_at: Mapped[datetime]


class EventRow(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_campaign_id_id", "campaign_id", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    experiment_id: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"))
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
