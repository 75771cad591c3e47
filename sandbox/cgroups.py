"""Limits for one job as a whole: a control group that its worker joins before anything else.

Per-process limits (`RLIMIT_AS`) let many processes together exceed what one may have; the kernel's controllers do not.
They count page cache and files in memory too, and give a sure way to end everything that a job has started.

Covered: cgroup v1 (memory and pids, each in its own tree; as root), and v2 where this process's group, or the nearest
one above it, may be given children and hands both controllers down to them (root outside a container, or a delegated
subtree such as systemd's user session). In both cases every limit further up keeps holding. Where there is none,
`Cgroups.why` says why in a sentence, and every trial records it.
The CPU controller is used where it is at hand, and missed otherwise without a word: a quota keeps jobs from each
other's time, and harms nobody where it is lacking.
NOT covered: moving this process to make room for children (v2 gives none to a group with processes in it,
so a container whose only group holds the orchestrator has no limit here; run it under a scope of its own).
The v2 side was tried against a directory tree of the same shape only, never against a kernel.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sandbox.ownership import pid_namespace, process_start_time

Version = Literal["v1", "v2", "none"]

PREFIX = "move37-"
_CONTROLLERS = ("memory", "pids")
_WELCOME = ("cpu",)
_PERIOD_US = 100_000
_PROC = Path("/proc/self")
_GONE_WITHIN_S = 5.0  # SIGKILL takes milliseconds; a process in uninterruptible sleep may outlast this
_TRIED_BYTES = 64 << 20


@dataclass(frozen=True)
class Cgroups:
    """Where the groups of jobs can be made. `parents` are distinct directories: one under v2, one per controller under
    v1 (the CPU's may be missing), and empty with `version` "none"."""

    version: Version
    parents: dict[str, Path] = field(default_factory=dict)
    why: str = ""

    def scope(self, *, memory_bytes: int, pids: int, cpus: float) -> CgroupScope | None:
        """A new group with these limits; None when there are no control groups here.

        Raises:
            OSError: the kernel refused, although it allowed the same when this value was made.
        """
        if self.version == "none":
            return None
        owner = f"{pid_namespace()}-{os.getpid()}-{process_start_time(os.getpid())}"
        name = f"{PREFIX}{owner}-{secrets.token_hex(4)}"
        scope = CgroupScope(self.version, {which: parent / name for which, parent in self.parents.items()})
        try:
            scope.create(memory_bytes=memory_bytes, pids=pids, cpus=cpus)
        except OSError:
            scope.remove()
            raise
        return scope


class CgroupScope:
    """One job's group. Made by `Cgroups.scope`; whoever holds it calls `remove` in the end."""

    def __init__(self, version: Version, groups: dict[str, Path]) -> None:
        self.version = version
        self._memory = groups["memory"]
        self._pids = groups["pids"]
        self._cpu = groups.get("cpu")
        self.directories = tuple(dict.fromkeys(groups.values()))

    def create(self, *, memory_bytes: int, pids: int, cpus: float) -> None:
        for directory in self.directories:
            directory.mkdir()
        quota_us = max(1000, int(cpus * _PERIOD_US))
        if self._cpu is not None and self.version == "v1":
            _write(self._cpu / "cpu.cfs_period_us", _PERIOD_US)
            _write(self._cpu / "cpu.cfs_quota_us", quota_us)
        elif self._cpu is not None:
            _write(self._cpu / "cpu.max", f"{quota_us} {_PERIOD_US}")
        _write(self._pids / "pids.max", pids)
        if self.version == "v1":
            _write(self._memory / "memory.limit_in_bytes", memory_bytes)
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
                _write(self._memory / "memory.memsw.limit_in_bytes", memory_bytes)
        else:
            _write(self._memory / "memory.max", memory_bytes)
            with contextlib.suppress(FileNotFoundError):
                _write(self._memory / "memory.swap.max", 0)
            _write(self._memory / "memory.oom.group", 1)

    def join_files(self) -> list[str]:
        """The files that a process writes its own pid to, to become a member."""
        return [str(directory / "cgroup.procs") for directory in self.directories]

    def oom_killed(self) -> bool:
        """Whether the kernel has ended a process of this group because memory ran out; False once it is removed."""
        file = self._memory / ("memory.oom_control" if self.version == "v1" else "memory.events")
        try:
            lines = file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines)

    def peak_bytes(self) -> int | None:
        """The most memory the group has held, page cache included; None where the kernel keeps no maximum."""
        file = self._memory / ("memory.max_usage_in_bytes" if self.version == "v1" else "memory.peak")
        try:
            return int(file.read_text())
        except FileNotFoundError:  # v2 before Linux 5.19, or removed
            return None

    def kill(self) -> bool:
        """Ends every member and waits until they are gone; False if some are not. No member can fork meanwhile, so none
        escapes by being quicker."""
        ends = time.monotonic() + _GONE_WITHIN_S
        with contextlib.suppress(FileNotFoundError):
            _write(self._pids / "pids.max", 0)
        while members := self._members():
            if time.monotonic() > ends:
                return False
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        return True

    def remove(self) -> None:
        """Kills what is left and removes the group. Idempotent. What cannot be ended now is left to
        `remove_abandoned`."""
        self.kill()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                _remove_directory(directory)

    def _members(self) -> set[int]:
        found: set[int] = set()
        for file in self.join_files():
            with contextlib.suppress(FileNotFoundError):
                found.update(int(pid) for pid in Path(file).read_text().split())
        return found - {0}  # 0: a member that our own pid namespace does not show


def find_cgroups(proc: Path = _PROC) -> Cgroups:
    """What can be had here, tried by making a group and removing it."""
    groups = _own_groups(proc)
    candidates = [*_candidates_v1(groups), *_candidates_v2(groups)]
    whys = [] if candidates else [_why_not(groups)]
    for candidate in candidates:
        try:
            scope = candidate.scope(memory_bytes=_TRIED_BYTES, pids=8, cpus=1.0)
        except OSError as error:
            whys.append(f"{candidate.version} at {candidate.parents['memory']}: {error.strerror}")
            continue
        if scope is not None:
            scope.remove()
        return candidate
    return Cgroups("none", why=f"no control group with a memory limit can be made ({'; '.join(whys)})")


def open_cgroups() -> Cgroups:
    """What a sandbox calls once: clears what a killed owner left, and says what can be had."""
    remove_abandoned()
    return find_cgroups()


def remove_abandoned(proc: Path = _PROC) -> int:
    """Ends and removes the groups whose owner is gone, wherever in the visible trees. Returns how many there were.

    Groups of owners in another pid namespace (a container's) are not judged.
    """
    found: dict[str, list[Path]] = {}
    for _, root in _mounts(proc):
        for directory in _named(root):
            if _abandoned(directory.name) and os.access(directory, os.W_OK):
                found.setdefault(directory.name, []).append(directory)
    for directories in found.values():
        pids = next((each for each in directories if (each / "pids.max").exists()), directories[0])
        every = {str(number): directory for number, directory in enumerate(directories)}
        CgroupScope("none", {"memory": pids, "pids": pids, **every}).remove()
    return len(found)


def _abandoned(name: str) -> bool:
    namespace, _, rest = name.removeprefix(PREFIX).partition("-")
    pid, _, rest = rest.partition("-")
    start = rest.partition("-")[0]
    return namespace == pid_namespace() and pid.isdecimal() and process_start_time(int(pid)) != start


def _named(root: Path) -> Iterator[Path]:
    for parent, names, _ in os.walk(root):
        yield from (Path(parent, name) for name in names if name.startswith(PREFIX))


def _candidates_v1(groups: dict[str, Path]) -> Iterator[Cgroups]:
    if all(controller in groups for controller in _CONTROLLERS):
        parents = {controller: groups[controller] for controller in _CONTROLLERS}
        welcome = {controller: groups[controller] for controller in _WELCOME if controller in groups}
        if welcome:
            yield Cgroups("v1", parents | welcome)
        yield Cgroups("v1", parents)


def _candidates_v2(groups: dict[str, Path]) -> Iterator[Cgroups]:
    """Our own group and those above it, nearest first."""
    own, top = groups.get(""), groups.get("top")
    if own is None or top is None:
        return
    for directory in (own, *own.parents):
        handed_down = set(_words(directory / "cgroup.subtree_control"))
        if set(_CONTROLLERS) <= handed_down:
            welcome = [controller for controller in _WELCOME if controller in handed_down]
            yield Cgroups("v2", dict.fromkeys((*_CONTROLLERS, *welcome), directory))
        if directory == top:
            return


def _why_not(groups: dict[str, Path]) -> str:
    if not groups:
        return "no cgroup file system is mounted"
    if "" in groups and not set(groups) & set(_CONTROLLERS):
        return "neither this process's group nor one above it hands the memory and pids controllers down"
    return "there is no memory controller" if "memory" not in groups else "there is no pids controller"


def _own_groups(proc: Path) -> dict[str, Path]:
    """This process's directories: by controller (v1), "" for v2's, and "top" for the highest v2 one we can see."""
    paths: dict[str, str] = {}
    for line in _lines(proc / "cgroup"):
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    found: dict[str, Path] = {}
    for mount, root in _mounts(proc):
        for controller in mount.controllers or ("",):
            if controller not in paths:
                continue
            inside = os.path.relpath(paths[controller], mount.shows)
            own = root if inside.startswith("..") else root / inside  # "..": above what is mounted here
            found[controller] = own
            if controller == "":
                found["top"] = root
    return found


@dataclass(frozen=True)
class _Mount:
    shows: str  # the group that is the root of this mount
    controllers: tuple[str, ...]  # empty: v2


def _mounts(proc: Path) -> list[tuple[_Mount, Path]]:
    """proc_pid_mountinfo(5): id, parent, device, root, mount point, options, ... - type, source, super options."""
    found = []
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind == "cgroup":
            names = tuple(option for option in options.split(",") if option in _CONTROLLERS + _WELCOME)
            if names:
                found.append((_Mount(root, names), Path(point)))
        elif kind == "cgroup2":
            found.append((_Mount(root, ()), Path(point)))
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except FileNotFoundError:  # no /proc, or a kernel without control groups
        return []


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _write(file: Path, value: int | str) -> None:
    """Never creates the file: in a control group it exists, or the kernel does not know it."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, f"{value}\n".encode())
    finally:
        os.close(fd)


def _remove_directory(directory: Path) -> None:
    """A group whose last member has just ended is busy for a moment."""
    ends = time.monotonic() + 1.0
    while True:
        try:
            directory.rmdir()
        except OSError:
            if not directory.exists() or time.monotonic() > ends:
                raise
            time.sleep(0.005)
        else:
            return
