"""Experiments and trials as Parquet, for whoever analyses a campaign elsewhere. Never read back.

Metrics become columns `metrics.<name>`, nested ones joined by dots; what is not a number, a truth value or a text is
JSON text. Text that UTF-8 cannot hold is written with backslashes. pyarrow is imported when it is needed.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import Column, select
from sqlalchemy.orm import Session

from memory.archive.errors import ParquetUnavailable
from memory.archive.membership import TABLES, Membership, in_order
from memory.columns import Moment

_FLATTENED = {"trials": "metrics"}
_FILES = ("experiments", "trials")
_BATCH = 500


def library(path: Path) -> Any:
    """pyarrow; raises `ParquetUnavailable` for the archive at `path`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ParquetUnavailable(path) from error
    return pyarrow


def files(session: Session, membership: Membership) -> Iterator[tuple[str, bytes, int]]:
    """(name, bytes, rows) of every Parquet file."""
    for name in _FILES:
        data, rows = _file(session, name, membership)
        yield f"tables/{name}.parquet", data, rows


def _file(session: Session, name: str, membership: Membership) -> tuple[bytes, int]:
    arrow = library(Path(name))
    table = TABLES[name]
    dialect = session.connection().dialect
    query = select(table).where(membership.condition(table)).order_by(*in_order(table, dialect))
    with session.execute(query.execution_options(yield_per=_BATCH)) as stream:
        rows = [_flat(dict(row), _FLATTENED.get(name)) for row in stream.mappings()]
    fixed = {column.name: _python(column) for column in table.columns if column.name != _FLATTENED.get(name)}
    flattened = sorted({column for row in rows for column in row if column not in fixed})
    columns, schema = [], []
    for column in [*fixed, *flattened]:
        values = [row.get(column) for row in rows]
        kind = _kind(arrow, values if column in flattened else None, fixed.get(column))
        if kind == arrow.string():
            values = [value if value is None else _text(value) for value in values]
        columns.append(arrow.array(values, type=kind))
        schema.append(arrow.field(column, kind))
    out = BytesIO()
    arrow.parquet.write_table(arrow.Table.from_arrays(columns, schema=arrow.schema(schema)), out, compression="zstd")
    return out.getvalue(), len(rows)


def _python(column: Column[Any]) -> type:
    return datetime if isinstance(column.type, Moment) else column.type.python_type


def _flat(row: dict[str, Any], spread: str | None) -> dict[str, Any]:
    nested = row.pop(spread) if spread is not None else {}
    return row | dict(_leaves(nested, spread or ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{_text(key)}")
    elif path and value != {}:
        yield path, value


def _kind(arrow: Any, values: list[Any] | None, python: type | None) -> Any:
    """The type of a column: of its values where the schema does not say."""
    if values is not None:
        kinds = {type(value) for value in values if value is not None}
        python = bool if kinds == {bool} else float if kinds and kinds <= {int, float} else str
    known = {bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64(), datetime: arrow.timestamp("us", tz="UTC")}
    return known.get(python or str, arrow.string())


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()
