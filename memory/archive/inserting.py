"""Inserting many rows of many tables, each after what it points at.

Notable: tables that point at themselves or at each other (campaigns and experiments) are sorted row by row; all
others stream. A batch that the database refuses is repeated row by row, to say which row it was and why.
Not covered: committing; the caller's transaction holds everything or nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Table, and_, insert, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from memory.archive.errors import RowInvalid
from memory.archive.membership import ROOT, TABLES, key_columns, numbered, references, target

_BATCH = 500

Progress = Callable[[str, int], None]


class Row(NamedTuple):
    """A row to insert, and its place in the file (counted from 1)."""

    number: int
    values: dict[str, Any]


class Inserter:
    """Inserts into a store on behalf of a file, which errors name."""

    def __init__(self, session: Session, file: Path, on_progress: Progress | None = None) -> None:
        self._session = session
        self._file = file
        self._on_progress = on_progress or (lambda table, rows: None)

    def insert(self, rows: Mapping[str, Iterable[Row]]) -> dict[str, int]:
        """Insert everything; how many rows per table. Campaigns get their final state when all is in.

        Raises:
            RowInvalid: the database refuses a row, or rows of the file refer to each other in a circle.
        """
        counts = dict.fromkeys(rows, 0)
        closing: list[dict[str, Any]] = []
        for group in insertion_order():
            if len(group) == 1 and not _points_at(TABLES[group[0]], TABLES[group[0]]):
                ordered: Iterable[tuple[str, Row]] = ((group[0], row) for row in rows.get(group[0], ()))
            else:
                ordered = self._sorted({name: list(rows.get(name, ())) for name in group})
            for name, batch in groupby(ordered, key=lambda pair: pair[0]):
                opened = (self._opened(row, closing) if name == ROOT else row for _, row in batch)
                counts[name] = counts.get(name, 0) + self._insert(TABLES[name], opened)
        for final in closing:
            campaigns = TABLES[ROOT]
            self._session.execute(update(campaigns).where(campaigns.c.id == final["id"]).values(final))
        return counts

    @staticmethod
    def _opened(row: Row, closing: list[dict[str, Any]]) -> Row:
        """A read-only campaign takes no experiments: it becomes so when they are in."""
        if not row.values["read_only"]:
            return row
        closing.append({name: row.values[name] for name in ("id", "state", "read_only")})
        return Row(row.number, row.values | {"state": "running", "read_only": False})

    def _insert(self, table: Table, rows: Iterable[Row]) -> int:
        count = 0
        for batch in _batches(rows):
            self._batch(table, batch)
            count += len(batch)
            self._on_progress(table.name, count)
        return count

    def _batch(self, table: Table, batch: list[Row]) -> None:
        counted = numbered(table)
        values = [
            {name: value for name, value in row.values.items() if counted is None or name != counted.name}
            for row in batch
        ]
        try:
            with self._session.begin_nested():
                self._session.connection().execute(insert(table), values)
        except (IntegrityError, DataError, OverflowError, UnicodeEncodeError) as error:
            if len(batch) == 1:
                raise RowInvalid(self._file, table.name, batch[0].number, self._why(table, batch[0], error)) from error
            for row in batch:
                self._batch(table, [row])

    def _why(self, table: Table, row: Row, error: Exception) -> str:
        for column in references(table):
            aimed = target(column)
            [key] = key_columns(aimed)
            wanted = row.values[column.name]
            if wanted is not None and self._session.execute(select(key).where(key == wanted)).first() is None:
                return f"{column.name} is {wanted!r}, and there is no such row of {aimed.name}, here or in the store"
        keys = key_columns(table)
        if numbered(table) is None:
            same = select(keys[0]).where(and_(*(key == row.values[key.name] for key in keys)))
            if self._session.execute(same).first() is not None:
                return f"there is a row {[row.values[key.name] for key in keys]} already"
        return f"the database refuses it ({str(getattr(error, 'orig', None) or error).splitlines()[0]})"

    def _sorted(self, rows: Mapping[str, list[Row]]) -> Iterator[tuple[str, Row]]:
        """The rows of tables that point at each other, each after those it points at."""
        places = {(name, self._key(name, row)): (name, row) for name, listed in rows.items() for row in listed}
        if len(places) != sum(map(len, rows.values())):
            name, row = next(
                (name, row)
                for name, listed in rows.items()
                for row in listed
                if places[name, self._key(name, row)][1] is not row
            )
            raise RowInvalid(self._file, name, row.number, f"its key {self._key(name, row)!r} comes again later")
        graph: TopologicalSorter[tuple[str, str]] = TopologicalSorter()
        for place, (name, row) in places.items():
            aims = {(target(column).name, row.values[column.name]) for column in references(TABLES[name])}
            graph.add(place, *(aim for aim in aims if aim in places and aim != place))
        try:
            order = list(graph.static_order())
        except CycleError as error:
            circle = [key for _, key in error.args[1]]
            name, row = places[error.args[1][0]]
            raise RowInvalid(
                self._file, name, row.number, f"rows refer to each other in a circle: {' -> '.join(circle)}"
            ) from error
        for place in order:
            yield places[place]

    @staticmethod
    def _key(name: str, row: Row) -> str:
        [key] = key_columns(TABLES[name])
        return str(row.values[key.name])


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _points_at(table: Table, other: Table) -> bool:
    return any(target(column) is other for column in references(table))


def insertion_order() -> list[list[str]]:
    """The tables, each after those it points at; tables that reach each other are one group."""
    reached = {name: _reached(table) for name, table in TABLES.items()}
    groups: list[list[str]] = []
    for name in TABLES:
        group = sorted({name, *(other for other in reached[name] if name in reached[other])})
        if group not in groups:
            groups.append(group)
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, group in enumerate(groups):
        below = {other for name in group for other in reached[name]} - set(group)
        sorter.add(index, *(i for i, candidate in enumerate(groups) if below & set(candidate)))
    return [groups[index] for index in sorter.static_order()]


def _reached(table: Table) -> set[str]:
    """Names of every table that foreign keys lead to from `table`, over any number of steps."""
    found: set[str] = set()
    waiting = [table]
    while waiting:
        for column in references(waiting.pop()):
            aimed = target(column)
            if aimed.name not in found:
                found.add(aimed.name)
                waiting.append(aimed)
    return found
