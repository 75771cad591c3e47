"""Column types and checks that make what comes out equal to what went in, on every database.

- `Moment`: timezone-aware UTC; SQLite keeps no offset, so it is put back on reading.
- `AnyText`: any Python string (memory/escaping.py).
- `json_text`/`plain`: JSON without NaN, Infinity or keys that are not text; tuples become lists.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator

from memory.errors import ValueRefused
from memory.escaping import escape, unescape

_MAX_JSON_DEPTH = 64


class AnyText(TypeDecorator[str]):
    """Text of any content."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escape(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unescape(value)


class Moment(TypeDecorator[datetime]):
    """A point in time, timezone-aware, in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueRefused("a time without a timezone", "which moment it means is unknown; use datetime.now(UTC)")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def json_text(value: Any) -> str:
    """JSON as stored: ASCII, so that any string survives any database; finite numbers only."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def plain(value: Any, what: str) -> Any:
    """`value` as JSON gives it back (tuples become lists), checked.

    Raises:
        ValueRefused: non-finite number, key that is not text, type JSON has not, or nesting beyond 64.
    """
    return _plain(value, what, 0)


def _plain(value: Any, path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return finite(value, path)
    if depth >= _MAX_JSON_DEPTH:
        raise ValueRefused(path, f"it is nested deeper than {_MAX_JSON_DEPTH}")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueRefused(f"{path} key {key!r}", "keys of JSON objects are text")
        return {str(key): _plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{position}]", depth + 1) for position, item in enumerate(value)]
    raise ValueRefused(path, f"{type(value).__name__} is not a JSON type")


def finite(value: float, what: str) -> float:
    """`value` as a plain float.

    Raises:
        ValueRefused: it is NaN or infinite (a status, never a number).
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueRefused(what, f"{number} is not a finite number")
    return number


def maybe_finite(value: float | None, what: str) -> float | None:
    """`finite`, letting None through."""
    return None if value is None else finite(value, what)
