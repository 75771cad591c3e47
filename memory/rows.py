"""Getting a row or saying that there is none; comparing a repeated call with what is stored."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from memory.errors import Conflict, NotFound, ValueRefused
from memory.models import Base, CampaignRow, ExperimentRow

RowT = TypeVar("RowT", bound=Base)
RecordT = TypeVar("RecordT")
_MAX_WORD = 120


def get(session: Session, kind: type[RowT], noun: str, key: Any) -> RowT:
    """The row with this primary key.

    Raises:
        NotFound: there is none.
    """
    row = session.get(kind, key)
    if row is None:
        raise NotFound(noun, key if isinstance(key, str) else "/".join(map(str, key)))
    return row


def selecting(kind: type[Any], table: type[Base], **computed: ColumnElement[Any]) -> Select[tuple[Any, ...]]:
    """The columns of a record, in the order of its fields: each from the table, or from `computed`."""
    columns: Any = table.__table__.c
    return select(*(computed[field.name] if field.name in computed else columns[field.name] for field in fields(kind)))


def snapshots(session: Session, kind: type[RecordT], query: Select[tuple[Any, ...]]) -> list[RecordT]:
    """The records of a `selecting` query. No row becomes an object of the mapper, which takes as long as all the rest:
    for lists of thousands."""
    return [kind(*row) for row in session.connection().execute(query)]


def campaign(session: Session, campaign_id: str) -> CampaignRow:
    """The campaign's row; raises `NotFound`."""
    return get(session, CampaignRow, "campaign", campaign_id)


def experiment(session: Session, experiment_id: str) -> ExperimentRow:
    """The experiment's row; raises `NotFound`."""
    return get(session, ExperimentRow, "experiment", experiment_id)


def exists(session: Session, kind: type[Base], noun: str, key: str) -> None:
    """Check that there is a row with this primary key, without reading it.

    Raises:
        NotFound: there is none.
    """
    table: Any = kind.__table__
    (column,) = table.primary_key.columns
    if session.connection().execute(select(column).where(column == key)).first() is None:
        raise NotFound(noun, key)


def open_experiment(session: Session, experiment_id: str, doing: str) -> ExperimentRow:
    """The row of an experiment that is still open.

    Raises:
        NotFound: there is none.
        Conflict: it is finished.
    """
    row = experiment(session, experiment_id)
    if row.status != "open":
        raise Conflict("experiment", experiment_id, f"it is {row.status}, which is final: {doing} is too late")
    return row


def must_agree(noun: str, key: str, row: Base, wanted: Mapping[str, Any]) -> None:
    """Check that a repeated call says what is stored.

    Raises:
        Conflict: some column differs.
    """
    differing = [name for name, value in wanted.items() if getattr(row, name) != value]
    if differing:
        raise Conflict(noun, key, f"already stored with another {', '.join(differing)}; finished rows never change")


def word(value: str, what: str) -> str:
    """A short printable name without spaces at its ends.

    Raises:
        ValueRefused: it is empty, too long, or not printable.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_WORD:
        raise ValueRefused(f"{what} {value!r}", f"it has to be text of 1 to {_MAX_WORD} characters")
    if not value.isprintable() or value != value.strip():
        raise ValueRefused(f"{what} {value!r}", "it has to be printable, without spaces at its ends")
    return value
