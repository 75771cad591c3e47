"""All probes, what each backend does not contain, and the matrix of both for the documentation.

`python -m tests.sandbox.probes.suite` prints the matrix as Markdown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from sandbox.cgroups import find_cgroups
from tests.sandbox.probes.files import FILES
from tests.sandbox.probes.kernel import KERNEL
from tests.sandbox.probes.probe import Gap, Probe
from tests.sandbox.probes.processes import PROCESSES
from tests.sandbox.probes.resources import RESOURCES
from tests.sandbox.probes.truth import TRUTH
from tests.sandbox.probes.wire import WIRE

ISOLATED = ("docker", "bubblewrap", "landlock")
REFERENCE = ("1", "2", "2b", *map(str, range(3, 37)))
PROBES: tuple[Probe, ...] = (*RESOURCES, *FILES, *KERNEL, *PROCESSES, *WIRE, *TRUTH)


GAPS: dict[str, dict[str, Gap]] = {
    "docker": {},
    "bubblewrap": {
        "inode flood": Gap("bwrap sizes a tmpfs and cannot limit its inodes; only the control group counts them"),
    },
    "landlock": {},
}
# Where no control group can be made, as most ordinary users know it.
_ALONE = Gap("memory is limited per process, not in total")
GAPS_WITHOUT_CGROUP: dict[str, dict[str, Gap]] = {
    "docker": {},
    "bubblewrap": {"memory shared out": _ALONE, "hoard in memory files": _ALONE},
    "landlock": {"memory shared out": _ALONE},
}
# Where there is one, the CPU's controller may still be missing.
_NO_SHARE = {"more CPU than its share": Gap("CPU time is limited per process, not in total", asserted=False)}
# And where a job has no user id of its own either, by which its processes could be ended all at once.
_GAPS_AS_ORDINARY_USER = {"daemons that breed": Gap("who forks fast enough may leave a process behind", asserted=False)}


@cache
def gaps_here(level: str) -> dict[str, Gap]:
    """What this backend does not contain on this machine and as this user."""
    found = dict(GAPS.get(level, {}))
    if level in ("bubblewrap", "landlock") and "cpu" not in find_cgroups().parents:
        found |= _NO_SHARE
    if level in GAPS and find_cgroups().version == "none":
        found |= GAPS_WITHOUT_CGROUP[level]
        if level == "landlock" and os.geteuid() != 0:
            found |= _GAPS_AS_ORDINARY_USER
    return found


@dataclass(frozen=True)
class Row:
    """One line of the matrix. `gaps`: why not, for the backends that do not contain it where control groups work."""

    number: str
    name: str
    tries: str
    stops: str
    gaps: dict[str, str]


def matrix() -> list[Row]:
    """All probes, those of the study first and in its order."""

    def order(probe: Probe) -> tuple[int, str]:
        return (99, "") if probe.number == "own" else (int(probe.number.rstrip("b")), probe.number)

    return [
        Row(
            *(probe.number, probe.name, probe.tries, probe.stops),
            {level: GAPS[level][probe.name].why for level in ISOLATED if probe.name in GAPS[level]},
        )
        for probe in sorted(PROBES, key=order)
    ]


def as_markdown() -> str:
    """The matrix as a table: a cross marks a backend that does not contain the probe, and the notes below say why."""
    lines = [f"| # | probe | tries | what stops it | {' | '.join(ISOLATED)} |", "|---" * (4 + len(ISOLATED)) + "|"]
    notes = []
    for row in matrix():
        marks = ["no" if level in row.gaps else "yes" for level in ISOLATED]
        lines.append(f"| {row.number} | {row.name} | {row.tries} | {row.stops} | {' | '.join(marks)} |")
        notes += [f"- {row.name}, {level}: {why}." for level, why in row.gaps.items()]
    for level, gaps in GAPS_WITHOUT_CGROUP.items():
        notes += [f"- {name}, {level} without a control group: {gap.why}." for name, gap in gaps.items()]
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    print(as_markdown())
