"""Which rows belong to a campaign, read off the schema: a table that is added later needs no new code here.

Every table is one of three kinds:
- *owned*: one foreign key leads, possibly over other tables, to `campaigns`. It is `campaign_id`, else
  `experiment_id`, else the first one within the primary key.
- *shared*: contents that several campaigns may point at (`programs`), and what hangs on them (`program_keys`).
  Exported when an exported row points at them.
- *keyed*: no foreign key at all and nobody points at it (`vectors`): its column `key` names what it is about. Exported
  when the key is that of an exported row.

Foreign keys that do not own may lead to a campaign outside: a fork's origin. `outside` finds those.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    ForeignKey,
    Select,
    String,
    Table,
    and_,
    collate,
    or_,
    select,
)
from sqlalchemy.orm import Session

from memory.models import Base

ROOT = "campaigns"
TABLES: dict[str, Table] = {
    name: table for name, table in sorted(Base.metadata.tables.items()) if not table.info.get("derived")
}
_OWNERS = ("campaign_id", "experiment_id")


def key_columns(table: Table) -> list[Column[Any]]:
    """The primary key."""
    return list(table.primary_key.columns)


def foreign_key(column: Column[Any]) -> ForeignKey | None:
    """The foreign key of a column; the schema has single-column ones only."""
    return next(iter(column.foreign_keys), None)


def target(column: Column[Any]) -> Table:
    """The table that a column with a foreign key points into, at its primary key."""
    found = foreign_key(column)
    if found is None:
        raise LookupError(f"{column} has no foreign key")
    return found.column.table


def references(table: Table) -> list[Column[Any]]:
    """Every column with a foreign key, in order."""
    return [column for column in table.columns if column.foreign_keys]


def owner(table: Table) -> Column[Any] | None:
    """The column that says whose a row is; None for `campaigns` and for tables that nobody owns."""
    if table.name == ROOT:
        return None
    for name in _OWNERS:
        if name in table.columns and table.columns[name].foreign_keys:
            return table.columns[name]
    return next((column for column in key_columns(table) if column.foreign_keys), None)


def is_owned(table: Table) -> bool:
    """Whether a row of this table is of one campaign."""
    column = owner(table)
    return table.name == ROOT if column is None else is_owned(target(column))


def numbered(table: Table) -> Column[Any] | None:
    """The key that the database counts up by itself, if the table has one."""
    return table.autoincrement_column


def in_order(table: Table, dialect: Dialect) -> list[ColumnElement[Any]]:
    """What sorts the rows alike on every database: the primary key, texts by code point."""
    binary = dialect.name == "postgresql"
    return [
        collate(column, "C") if binary and isinstance(column.type, String) else column for column in key_columns(table)
    ]


@dataclass(frozen=True)
class Outside:
    """Rows of another campaign that exported rows point at."""

    campaign_id: str
    table: str
    keys: tuple[str, ...]


class Membership:
    """The rows of some campaigns, as conditions of queries."""

    def __init__(self, campaign_ids: Collection[str]) -> None:
        self.campaign_ids = sorted(campaign_ids)

    def condition(self, table: Table) -> ColumnElement[bool]:
        """What holds of the rows of `table` that belong to the campaigns."""
        if table.name == ROOT:
            return table.columns["id"].in_(self.campaign_ids)
        column = owner(table)
        if column is not None:
            if target(column).name == ROOT:
                return column.in_(self.campaign_ids)
            return column.in_(self.keys(target(column)))
        pointing = [column for column in _columns_into(table) if is_owned(column.table)]
        if pointing:
            [key] = key_columns(table)
            return or_(
                *(
                    key.in_(select(column).where(and_(column.is_not(None), self.condition(column.table))))
                    for column in pointing
                )
            )
        return or_(*(table.columns["key"].in_(self.keys(known)) for known in _known_by_text()))

    def keys(self, table: Table) -> Select[Any]:
        """The primary keys of the rows that belong."""
        return select(*key_columns(table)).where(self.condition(table))

    def outside(self, session: Session) -> list[Outside]:
        """The rows of other campaigns that these point at, by campaign and table."""
        found: dict[tuple[str, str], set[str]] = {}
        for table in filter(is_owned, TABLES.values()):
            for column in references(table):
                if column is owner(table) or not is_owned(target(column)):
                    continue
                for campaign_id, key in session.execute(self._leading_out(column)):
                    found.setdefault((campaign_id, target(column).name), set()).add(key)
        return [Outside(*place, tuple(sorted(keys))) for place, keys in sorted(found.items())]

    def _leading_out(self, column: Column[Any]) -> Select[Any]:
        """(campaign, key) of what `column` points at beyond the campaigns."""
        aimed = target(column)
        [key] = key_columns(aimed)
        used = select(column).where(and_(column.is_not(None), self.condition(column.table)))
        whose = _campaign_of(aimed)
        return select(whose, key).where(and_(key.in_(used), whose.not_in(self.campaign_ids)))


def _campaign_of(table: Table) -> ColumnElement[Any]:
    """The campaign's id of a row of an owned table."""
    column = owner(table)
    if column is None:
        return table.columns["id"]
    above = target(column)
    if above.name == ROOT:
        return column
    [key] = key_columns(above)
    return select(_campaign_of(above)).where(key == column).scalar_subquery()


def _columns_into(table: Table) -> Iterator[Column[Any]]:
    for other in TABLES.values():
        for column in references(other):
            if target(column) is table:
                yield column


def _known_by_text() -> list[Table]:
    """Tables whose rows a text names: what a keyed row can be about."""
    return [
        table
        for table in TABLES.values()
        if len(key_columns(table)) == 1
        and isinstance(key_columns(table)[0].type, String)
        and (is_owned(table) or owner(table) is None)
    ]
