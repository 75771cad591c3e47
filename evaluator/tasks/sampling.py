"""Random draws without replacement, for all rows of a batch at once and exactly distributed.

Notable: no `argsort` over the whole range where few values are needed. With 64 keys out of 4,095 that alone took most
of the time of a batch of multi-query recall.
B rows, N values to choose from, K chosen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluator.tasks.task import MOST_LENGTH, MOST_VOCABULARY, BoolArray, IntArray

AnyInts = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
_INDEX_BITS = MOST_LENGTH.bit_length()  # an index up to `MOST_LENGTH` fits
_INDEX = (1 << _INDEX_BITS) - 1


def distinct(rng: np.random.Generator, rows: int, below: int, count: int) -> IntArray:
    """(B, K) integers in [0, below), distinct within a row; every ordered choice is equally likely.

    Few of many: draw, and draw again what repeats. That is exact: relabelling the values changes nothing in the
    procedure, and any ordered choice becomes any other by relabelling. Otherwise: the order of random numbers.
    """
    if below <= 4 * count:
        return np.argsort(rng.random((rows, below)), axis=1)[:, :count]
    # In 32 bits: what is sorted to find repeats is half as large.
    chosen = rng.integers(0, below, size=(rows, count), dtype=np.int32)
    redraw_repeats(chosen, lambda wanted: rng.integers(0, below, size=int(wanted.sum()), dtype=np.int32))
    return chosen.astype(np.int64)


def redraw_repeats(chosen: AnyInts, draw: Callable[[BoolArray], AnyInts]) -> None:
    """Replace, in place, whatever occurred earlier in its row by a new draw, until every row is free of repeats.

    Args:
        draw: from a (B', K) mask of wanted places, in row-major order, as many new values.
    """
    rows = np.flatnonzero(_with_repeats(chosen))
    while rows.size:
        part = chosen[rows]
        wanted = repeats(part)
        part[wanted] = draw(wanted)
        chosen[rows] = part
        rows = rows[_with_repeats(part)]


def _with_repeats(values: AnyInts) -> BoolArray:
    """(B, K) -> (B,)"""
    ordered = np.sort(values, axis=1)
    found: BoolArray = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return found


def repeats(values: AnyInts) -> BoolArray:
    """(B, K) -> (B, K): True where the value occurred earlier in its row. Values in [0, 2^48), K up to `MOST_LENGTH`.

    Value and place are packed into one integer: sorting integers is several times faster than a stable `argsort`, and
    tokens (below `MOST_VOCABULARY`) fit into 32 bits with their places.
    """
    narrow = values.size > 0 and int(values.max()) < MOST_VOCABULARY
    packed: AnyInts = values.astype(np.int32 if narrow else np.int64)
    packed <<= _INDEX_BITS
    packed |= np.arange(values.shape[1], dtype=packed.dtype)
    packed.sort(axis=1)
    again = np.zeros(values.shape, dtype=np.bool_)
    again[:, 1:] = (packed[:, 1:] ^ packed[:, :-1]) <= _INDEX
    found = np.empty_like(again)
    put(found, packed & _INDEX, again)
    return found


def flat(columns: np.ndarray[Any, Any], width: int) -> IntArray:
    """(B, K) columns of a (B, `width`) array as indices into the flattened array."""
    places = columns.astype(np.int64)
    places += np.arange(0, columns.shape[0] * width, width)[:, None]
    return places


def put(target: np.ndarray[Any, Any], columns: np.ndarray[Any, Any], values: Any) -> None:
    """`target[b, columns[b, k]] = values[b, k]`, in place, for a contiguous (B, L) target."""
    target.reshape(-1)[flat(columns, target.shape[1])] = values


def smallest(keys: np.ndarray[Any, np.dtype[np.float64]], count: int) -> IntArray:
    """(B, N) positive numbers, overwritten -> (B, K): the places of each row's `count` smallest, the smallest first.

    The place takes the number's lowest bits: 37 of 52 are left, so that a tie decides once in 10^11 pairs. In place,
    since large temporaries cost more than the arithmetic on them.
    """
    packed = np.ascontiguousarray(keys).view(np.int64)
    packed &= ~_INDEX
    packed |= np.arange(packed.shape[1])
    if count < packed.shape[1]:
        packed.partition(count, axis=1)
    chosen = np.sort(packed[:, :count], axis=1)
    chosen &= _INDEX
    return chosen
