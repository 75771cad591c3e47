"""Who started a container, and whether that process still lives: what a janitor may remove.

A container carries its owner as `pid:start time:boot id`, which no later process can have again. Liveness can be judged
from this machine only, in this boot and this PID namespace; the containers of others, which a shared engine shows too,
are left alone until their own deadline is well past.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

LABEL = "move37"
OWNER_LABEL = "move37.owner"
NAMESPACE_LABEL = "move37.namespace"
DEADLINE_LABEL = "move37.deadline"

OVERDUE_GRACE_S = 600.0  # the clocks of two hosts may differ


def process_start_time(pid: int) -> str | None:
    """Clock ticks between boot and the start of a process, None if there is none: with the pid, unique in one boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); the name before it may hold anything


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def owner() -> str:
    """This process, as its containers name it."""
    pid = os.getpid()
    return f"{pid}:{process_start_time(pid)}:{boot_id()}"


def labels(*, lifetime_s: float) -> dict[str, str]:
    """The labels of a container that this process starts now."""
    return {
        LABEL: "worker",
        OWNER_LABEL: owner(),
        NAMESPACE_LABEL: pid_namespace(),
        DEADLINE_LABEL: str(int(time.time() + lifetime_s)),
    }


def is_abandoned(found: Mapping[str, str], *, running: bool) -> bool:
    """Whether the container with these labels has nobody left who would remove it."""
    deadline = found.get(DEADLINE_LABEL, "")
    if deadline.isdecimal() and time.time() > int(deadline) + OVERDUE_GRACE_S:
        return True
    pid, _, rest = found.get(OWNER_LABEL, "").partition(":")
    start, _, boot = rest.partition(":")
    if not pid.isdecimal():
        return False
    if boot != boot_id():
        # From before a restart of this machine it cannot run any more; if it runs, it is another machine's.
        return not running
    return found.get(NAMESPACE_LABEL) == pid_namespace() and process_start_time(int(pid)) != start
