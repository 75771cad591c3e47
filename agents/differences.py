"""What differs between a request that was recorded and one that is asked, in a few lines for a person."""

from __future__ import annotations

import difflib
from collections import Counter
from itertools import islice

_CHANGES_SHOWN = 3  # of each side
_LINE_SHOWN = 160


def lines_in_common(one: str, other: str) -> int:
    """How many lines occur in both, counted as often as they do."""
    return (Counter(one.splitlines()) & Counter(other.splitlines())).total()


def first_difference(one: str, other: str) -> int:
    """The position of the first character that differs; the shorter length if one begins with the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def short_diff(stored: str, asked: str) -> str:
    """The first lines that differ: `-` as stored, `+` as asked. "" if none does, white space aside."""
    lines = difflib.unified_diff(stored.splitlines(), asked.splitlines(), lineterm="", n=0)
    changes = [line for line in islice(lines, 2, None) if not line.startswith("@@") and line[1:].strip()]
    first = [line for sign in "-+" for line in [x for x in changes if x[0] == sign][:_CHANGES_SHOWN]]
    shown = [f"  {line[:_LINE_SHOWN]}{'…' if len(line) > _LINE_SHOWN else ''}" for line in first]
    if len(changes) > len(first):
        shown.append(f"  and {len(changes) - len(first)} more changed lines")
    return "\n".join(shown)
