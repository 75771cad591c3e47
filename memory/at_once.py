"""Writes of one statement, for PostgreSQL: one round trip, which the server commits by itself.

The long way begins, takes its turn, reads what it depends on, writes and commits: six to eight round trips, and as many
trips through the mapper. Nearly all that a campaign writes is new and nothing stands in its way; then one statement
takes the same turn, looks at the same rows and writes. It stores all of its write, or nothing; where it stores nothing
(the row is there, another is missing, the database refuses) the long way follows, finds out why and says so.

Notable:
- A statement sees what was committed before it began, not before it got its turn. So what it depends on is either
  append-only, or decided by a unique constraint or by an UPDATE's condition, or read FOR SHARE: each of these looks at
  the row as it is then.
- Turns come first (`taken`), rows after: the order of the long way, so that nobody waits in a circle.
Not covered: which statements there are (each beside the long way that it shortens).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import JSON, BigInteger, Boolean, Float, Integer
from sqlalchemy.engine.default import DefaultDialect

from memory.columns import AnyText, Moment, json_text
from memory.database import LEDGER_SHARED, TURN
from memory.models import Base

RecordT = TypeVar("RecordT")

_CASTS = ((JSON, "json"), (BigInteger, "bigint"), (Integer, "integer"), (Float, "float8"), (Boolean, "boolean"))
_ANYWHERE = DefaultDialect()  # the types of memory/columns.py ask it for its name only

OPEN_EXPERIMENT = (
    "turn CROSS JOIN LATERAL (SELECT id FROM experiments "
    "WHERE id = %(experiment_id)s AND status = 'open' AND turn.taken = '' FOR SHARE) AS experiment"
)
EXPERIMENT = "turn JOIN experiments AS experiment ON experiment.id = %(experiment_id)s AND turn.taken = ''"


class _Column(NamedTuple):
    placeholder: str
    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any] | None


@cache
def _columns(row: type[Base]) -> dict[str, _Column]:
    return {column.name: _column(column.name, column.type) for column in row.__table__.columns}


def _column(name: str, kind: Any) -> _Column:
    # Never a cast to VARCHAR(n), which would cut off what the column refuses.
    cast = next((cast for known, cast in _CASTS if isinstance(kind, known)), "text")
    if isinstance(kind, JSON):
        return _Column(f"%({name})s::json", json_text, None)
    if isinstance(kind, AnyText | Moment):
        cast = "timestamptz" if isinstance(kind, Moment) else "text"
        return _Column(
            f"%({name})s::{cast}",
            lambda value: kind.process_bind_param(value, _ANYWHERE),
            lambda value: kind.process_result_value(value, _ANYWHERE),
        )
    return _Column(f"%({name})s::{cast}", None, None)


def parameters(row: type[Base], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver is given for values of a row's columns."""
    columns = _columns(row)
    given = {}
    for name, value in values.items():
        encode = columns[name].encode
        given[name] = value if encode is None or value is None else encode(value)
    return given


def record(kind: type[RecordT], values: Mapping[str, Any], **computed: Any) -> RecordT:
    """The record of a row that was stored as `values`."""
    known = {**values, **computed}
    return kind(**{field.name: known[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def read(kind: type[RecordT], row: type[Base], found: Sequence[Any], *computed: str) -> RecordT:
    """The record of a row that an `update` returned, with the names of what it returned besides."""
    columns = _columns(row)
    values: dict[str, Any] = dict(zip([*columns, *computed], found, strict=True))
    for name, column in columns.items():
        if column.decode is not None and values[name] is not None:
            values[name] = column.decode(values[name])
    return record(kind, values)


def insert(
    row: type[Base],
    *,
    source: str = "turn",
    computed: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
    returning: str = "1",
    charging: bool = False,
) -> str:
    """An INSERT of one row whose keys nobody has yet, if `source` (a FROM clause) has a row. Returns a row if it did.

    `computed` are columns given as SQL; with `charging`, what it used is entered in the ledger.
    """
    names = [name for name in _columns(row) if name not in set(without)]
    values = [(computed or {}).get(name, _columns(row)[name].placeholder) for name in names]
    statement = (
        f"INSERT INTO {row.__tablename__} ({_listed(names)}) SELECT {', '.join(values)} FROM {source} "  # noqa: S608
        f"ON CONFLICT DO NOTHING RETURNING {'experiment_id' if charging else returning}"
    )
    return _charged(statement) if charging else f"WITH {TURN} {statement}"


def update(
    row: type[Base],
    *,
    given: Iterable[str],
    optional: Iterable[str],
    condition: str,
    also: Iterable[str] = (),
    returning: str = "*",
    charging: bool = False,
) -> str:
    """An UPDATE of the row with `id`, if `condition` holds for it by then. Returns it.

    What is `optional` stays as it was where None is given; `also` are assignments in SQL, `returning` what is selected
    from the row, `written`; with `charging`, what it used is entered in the ledger.
    """
    known, table = _columns(row), row.__tablename__
    changes = [f'"{name}" = {known[name].placeholder}' for name in given]
    changes += [f'"{name}" = COALESCE({known[name].placeholder}, {table}."{name}")' for name in optional]
    statement = (
        f"UPDATE {table} SET {', '.join([*changes, *also])} FROM turn "  # noqa: S608 - names of columns
        f"WHERE {table}.id = %(id)s AND {condition} AND turn.taken = '' "
        f"RETURNING {', '.join(f'{table}.{name}' for name in _quoted(known))}"
    )
    if charging:
        return _charged(statement, returning)
    return f"WITH {TURN}, written AS ({statement}) SELECT {returning} FROM written"  # noqa: S608


def charges(amounts: Mapping[Any, float], now: datetime, source: str) -> dict[str, Any]:
    """The parameters of a statement that charges."""
    return {"kinds": list(amounts), "amounts": list(amounts.values()), "charged_at": now, "charged_for": source}


def _charged(statement: str, returning: str = "1") -> str:
    """The statement, and entries in the ledger for what it wrote: first that they are being made, then their ids."""
    return f"""
WITH {TURN}, written AS ({statement}),
place AS MATERIALIZED (
    SELECT experiments.id, campaign_id, {LEDGER_SHARED}::text AS taken
    FROM written JOIN experiments ON experiments.id = written.experiment_id
),
charged AS (
    INSERT INTO ledger (campaign_id, experiment_id, kind, amount, source, created_at)
    SELECT campaign_id, id, kind, amount, %(charged_for)s::text, %(charged_at)s::timestamptz
    FROM place CROSS JOIN unnest(%(kinds)s::text[], %(amounts)s::float8[]) AS used(kind, amount)
    WHERE place.taken = ''
)
SELECT {returning} FROM written
"""  # noqa: S608 - constants


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_quoted(names))


def _quoted(names: Iterable[str]) -> Iterator[str]:
    return (f'"{name}"' for name in names)
