"""User ids that belong to one job each, from a range far above login and subordinate ids.

A job's id is how the kernel keeps it from other jobs (NPROC, signals) and how a launcher ends all of it at once, so no
two jobs at work may have the same: within this process ids in use are remembered, and those of another orchestrator
are seen in /proc. NOT covered: two orchestrators that take the same id within the same milliseconds (one chance in
65,536).
"""

from __future__ import annotations

import secrets
from pathlib import Path

UID_RANGE = range(0x64370000, 0x64380000)

_in_use: set[int] = set()


class Uid:
    """One id, taken until `release`. Idempotent."""

    def __init__(self) -> None:
        self.number = _free()
        _in_use.add(self.number)

    def release(self) -> None:
        _in_use.discard(self.number)


def _free() -> int:
    taken = _in_use | _owners()
    while (number := secrets.choice(UID_RANGE)) in taken:
        pass
    return number


def _owners() -> set[int]:
    """Who has processes here."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal():
                found.add(entry.stat().st_uid)
        except OSError:  # it ended while we looked
            continue
    return found
