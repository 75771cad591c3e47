"""A row as one line of JSON, and back, by the types of its columns; what comes out equals what went in.

ASCII JSON, columns in the order of the table, times as ISO 8601 in UTC, bytes in base64, finite numbers only. Reading
checks every value against its column as strictly as the strictest database would, and says what is wrong with it.
"""

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_type_hints

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, LargeBinary, String, Table

from memory.columns import AnyText, Moment, json_text, plain
from memory.errors import ValueRefused
from memory.models import Base

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_INTEGER_BITS = {True: 63, False: 31}


class BadValue(ValueError):
    """A value that its column cannot take; whoever knows the row says which it was."""


def encode(table: Table, row: Mapping[str, Any]) -> bytes:
    """The line of a row, with its line feed."""
    values = {column.name: _written(row[column.name]) for column in table.columns}
    return json_text(values).encode() + b"\n"


def _written(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return b64encode(value).decode() if isinstance(value, bytes) else value


def decode(table: Table, line: bytes) -> dict[str, Any]:
    """The row of a line.

    Raises:
        BadValue: it is no JSON object of exactly the table's columns, or a value does not fit its column.
    """
    try:
        row = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, a number of too many digits
        raise BadValue(f"this is not a line of JSON ({error})") from error
    if not isinstance(row, dict):
        raise BadValue(f"this is {type(row).__name__}, not an object")
    unknown = sorted(set(row) - set(table.columns.keys()))
    if unknown:
        raise BadValue(f"unknown column {unknown[0]!r}")
    missing = [column.name for column in table.columns if column.name not in row]
    if missing:
        raise BadValue(f"column {missing[0]} is missing")
    return {column.name: _read(column, row[column.name]) for column in table.columns}


def _no_constant(name: str) -> Any:
    raise BadValue(f"{name} is not a finite number")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadValue("an object has a key twice")
    return found


def _read(column: Column[Any], value: Any) -> Any:
    if value is None:
        if not column.nullable:
            raise BadValue(f"{column.name} is null")
        return None
    kind = column.type
    if isinstance(kind, JSON):
        return _json(column, value)
    if isinstance(kind, Moment):
        return _moment(column, value)
    if isinstance(kind, AnyText | String):
        return _text(column, value)
    if isinstance(kind, LargeBinary):
        return _bytes(column, value)
    if isinstance(kind, Boolean):
        return _typed(column, value, bool)
    if isinstance(kind, Float):
        return _float(column, value)
    if isinstance(kind, Integer):
        return _integer(column, value, wide=isinstance(kind, BigInteger))
    raise TypeError(f"archives have no form for {kind!r} of {column}")


def _typed(column: Column[Any], value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise BadValue(f"{column.name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _json(column: Column[Any], value: Any) -> Any:
    """What the column is annotated with (an object or a list), nested no deeper than the store takes it."""
    try:
        return plain(_typed(column, value, _shapes()[column.table.name, column.name]), column.name)
    except ValueRefused as error:
        raise BadValue(f"{error.what}: {error.why}") from error


@cache
def _shapes() -> dict[tuple[str, str], type]:
    """`dict` or `list` per JSON column."""
    return {
        (str(mapper.local_table.name), name): list if "list[" in str(hint) else dict
        for mapper in Base.registry.mappers
        for name, hint in get_type_hints(mapper.class_).items()
        if isinstance(mapper.local_table, Table)
    }


def _moment(column: Column[Any], value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_typed(column, value, str))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadValue(f"{column.name} is no ISO 8601 time: {error}") from error
    raise BadValue(f"{column.name} is a time without an offset")


def _text(column: Column[Any], value: Any) -> str:
    text = str(_typed(column, value, str))
    if isinstance(column.type, String):  # AnyText takes what these cannot
        found = _UNSTORABLE.search(text)
        if found:
            what = "NUL" if found[0] == "\x00" else "a lone surrogate"
            raise BadValue(f"{column.name} holds {what} at character {found.start()}")
        if column.type.length is not None and len(text) > column.type.length:
            raise BadValue(f"{column.name} has {len(text)} characters; at most {column.type.length} fit")
    return text


def _bytes(column: Column[Any], value: Any) -> bytes:
    try:
        return b64decode(_typed(column, value, str), validate=True)
    except ValueError as error:
        raise BadValue(f"{column.name} is no base64: {error}") from error


def _float(column: Column[Any], value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"{column.name} is {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):  # 1e999 is JSON
        raise BadValue(f"{column.name} is not a finite number")
    return number


def _integer(column: Column[Any], value: Any, *, wide: bool) -> int:
    number = int(_typed(column, value, int))
    bits = _INTEGER_BITS[wide]
    if not -(2**bits) <= number < 2**bits:
        raise BadValue(f"{column.name} does not fit {bits + 1} bits")
    return number
