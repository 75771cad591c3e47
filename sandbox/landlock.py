"""The landlock sandbox: a process that has given up its rights, where neither Docker nor namespaces can be had.

For an orchestrator that itself runs inside a container: Landlock and system-call filters need no privilege there.
`launcher.py` stays outside as a parent that the program cannot reach, and ends whatever the program started.

Covered: the program reads the interpreter, its packages, the system's shared libraries and the evaluator, and nothing
else of the host; it executes the interpreter alone; it writes nowhere, and has no scratch directory; no socket (a pair
of connected ones excepted), so no network and no service of the host; no signal to, trace of, or resource limit on a
process outside; a filter on system calls stricter than the other backends'; a clean environment and file descriptors;
limits per process, and on memory, processes and CPU time as a whole where a control group can be made (`cgroups.py`).
NOT covered: what `landlock_gaps` lists. There is one kernel, one process table and one clock; nothing hides that they
are the host's.

Two ways to keep it from the orchestrator's processes:
- as root, a user id of its own for each job, from the range that bubblewrap uses, without any capability. Where the
  interpreter lies in a directory closed to others (/root), the launcher hands it in as an open directory: a path
  through /proc/self/fd asks for no permission on the way;
- as an ordinary user the program keeps that user's id. Then only Landlock's scopes keep it from signalling the
  orchestrator, which takes ABI 6 (Linux 6.12). What Landlock cannot restrict there (modes, owners and times of the
  user's files, connecting to sockets that have a path, other processes' limits) the filter denies.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import evaluator
from sandbox.bubblewrap import interpreter_paths, launch_outside, library_paths
from sandbox.cgroups import Cgroups, find_cgroups, open_cgroups
from sandbox.environment import flags_hash, package_paths, worker_environment
from sandbox.errors import SandboxUnavailable
from sandbox.launcher import CREATE_RULESET, FIRST_DIRECTORY
from sandbox.pool import StartedWorker
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Limits
from sandbox.subprocesses import SubprocessWorker, rlimits
from sandbox.syscalls import program
from sandbox.uids import UID_RANGE, Uid

NOWHERE = "/nonexistent"
SCOPES_SINCE_ABI = 6

# linux/landlock.h: how many rights on files each ABI knows, counted from the lowest bit; later ones add none.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_SINCE_ABI, _TCP, _SCOPES = 4, 0b11, 0b11  # bind and connect; abstract sockets and signals
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_VERSION_FLAG = 1

# Read by PyTorch or the C library to count and name the CPUs, and what every program expects to be there.
_READABLE_FILES = ("/etc/ld.so.cache", "/proc/cpuinfo", "/dev/urandom", "/dev/zero")
_READABLE_TREES = ("/sys/devices/system/cpu",)
_LOADERS = "lib*/ld-*.so*"  # the dynamic loader, which the kernel executes before the interpreter

# Runs inside, with the evaluator's own path as last argument: `-m evaluator` would have to list the directory above it.
# Naming the temporary directory, which PyTorch asks for when it is imported, keeps Python from trying to write to it.
_BOOTSTRAP = f"""
import importlib.util, runpy, sys, tempfile
tempfile.tempdir = {NOWHERE!r}
path = sys.argv.pop()
spec = importlib.util.spec_from_file_location("evaluator", path + "/__init__.py", submodule_search_locations=[path])
sys.modules["evaluator"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["evaluator"])
runpy.run_module("evaluator", run_name="__main__", alter_sys=True)
"""


class LandlockSandbox(PooledSandbox):
    """Implements `Sandbox` with Landlock. See the module."""

    level = "landlock"
    isolated = True

    def __init__(self, *, command: Sequence[str] | None = None, holdings: Holdings | None = None) -> None:
        """`command` replaces the worker; an interpreter in it is this one.

        Raises:
            SandboxUnavailable: the kernel has no Landlock, or too old a one for this user; libseccomp is missing; root
                may not take another user id.
        """
        super().__init__(holdings or Holdings())
        self._abi = require_abi()
        self._as_root = os.geteuid() == 0
        if self._as_root:
            _require_own_uids()
        self._filter = program(self.level, namespaces=False)
        self._cgroups = open_cgroups()
        self._view = View.of_this_interpreter(as_root=self._as_root)
        self._command = None if command is None else tuple(command)

    def provenance(self) -> dict[str, Any]:
        flags = [self._rules(), self._filter.hex(), self._as_root]
        return {
            "level": self.level,
            "isolated": self.isolated,
            "flags_hash": flags_hash(flags),
            "landlock_abi": self._abi,
            "memory_cgroup": self._cgroups.version,
        }

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(command=command, holdings=self._holdings)

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> StartedWorker:
        scope = self._cgroups.scope(memory_bytes=limits.memory_bytes, pids=limits.pids, cpus=limits.cpus)
        settings: dict[str, Any] = {
            "limits": rlimits(limits, lifetime_s),
            "landlock": self._rules(),
            "seccomp": base64.b64encode(self._filter).decode(),
            "watch_stdin": True,
            "lifetime_s": lifetime_s,
        }
        if scope is not None:
            settings["cgroup"] = scope.join_files()
        uid = Uid() if self._as_root else None
        if uid is not None:
            settings["uid"] = uid.number
            settings["directories"] = [str(path) for path in self._view.handed_in]
        else:
            settings["limits"]["NPROC"] += _tasks_of(os.geteuid())
        environment = worker_environment(limits, scratch=NOWHERE) | self._view.environment()
        command = (*launch_outside(settings), *self._view.command(self._command))
        return await _SupervisedWorker.start(command, environment=environment, scope=scope, uid=uid)

    def _rules(self) -> dict[str, Any]:
        rules = [(str(path), _READ_FILE | _READ_DIR) for path in self._view.trees]
        rules += [(path, _READ_FILE | _READ_DIR) for path in _READABLE_TREES]
        rules += [(path, _READ_FILE) for path in _READABLE_FILES]
        rules += [(os.devnull, _READ_FILE | _WRITE_FILE)]
        executed = [self._view.interpreter, *Path("/").glob(_LOADERS)]
        rules += [(str(path), _READ_FILE | _EXECUTE) for path in executed]
        return {"handled": _handled(self._abi), "rules": [rule for rule in rules if Path(rule[0]).exists()]}


class _SupervisedWorker(SubprocessWorker):
    """Its launcher is asked to end what the program started, daemons included, before it is killed itself."""

    async def destroy(self) -> None:
        await self.terminate()
        await super().destroy()


@dataclass(frozen=True)
class View:
    """What a worker sees of this host, and by which names. `handed_in` are those of `trees` that its user id could not
    get to; they reach it as open directories."""

    interpreter: Path
    trees: tuple[Path, ...]
    handed_in: tuple[Path, ...]

    @classmethod
    def of_this_interpreter(cls, *, as_root: bool) -> View:
        trees = (*interpreter_paths(), *library_paths(), Path(evaluator.__file__).parent)
        closed = tuple(path for path in trees if as_root and _closed_to_others(path))
        return cls(Path(sys.executable).resolve(), trees, closed)

    def inside(self, path: Path) -> str:
        for number, directory in enumerate(self.handed_in, FIRST_DIRECTORY):
            if path.is_relative_to(directory):
                return str(Path(f"/proc/self/fd/{number}", path.relative_to(directory)))
        return str(path)

    def command(self, command: Sequence[str] | None) -> tuple[str, ...]:
        # A virtual environment's interpreter is a link by absolute path, which may lead through a closed directory.
        python = self.inside(self.interpreter) if self.handed_in else sys.executable
        if command is None:
            return (python, "-c", _BOOTSTRAP, self.inside(Path(evaluator.__file__).parent))
        return tuple(python if part == sys.executable else part for part in command)

    def environment(self) -> dict[str, str]:
        variables = {
            "PATH": NOWHERE,
            "PYTHONPATH": ":".join(self.inside(path) for path in package_paths()),
            "TORCHINDUCTOR_CACHE_DIR": "/",  # torch.compile's module wants it to exist when imported, and no more
        }
        if self.inside(self.interpreter) != str(self.interpreter):  # its libpython would be looked for by absolute path
            variables["LD_LIBRARY_PATH"] = self.inside(Path(sysconfig.get_config_var("LIBDIR")))
        return variables


def landlock_abi() -> int:
    """The version of Landlock's interface that this kernel offers, 0 if it has none or it is switched off."""
    version: int = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG)
    )
    if version >= 0:
        return version
    if (code := ctypes.get_errno()) in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):  # EPERM: an outer filter's
        return 0
    raise OSError(code, f"Landlock did not say its version: {os.strerror(code)}")


def require_abi() -> int:
    """The ABI, if it is enough for this user.

    Raises:
        SandboxUnavailable: it is not.
    """
    abi = landlock_abi()
    if abi == 0:
        raise SandboxUnavailable(
            "landlock",
            "this kernel offers no Landlock, or a filter around us denies it",
            "Use Linux 5.13 or later with landlock among its security modules (lsm=...,landlock).",
        )
    if os.geteuid() != 0 and abi < SCOPES_SINCE_ABI:
        raise SandboxUnavailable(
            "landlock",
            f"with Landlock ABI {abi} a program could signal every process of this user",
            "Use Linux 6.12 or later (ABI 6), or start Move37 as root: programs then get a user id of their own.",
        )
    return abi


def landlock_gaps() -> tuple[str, ...]:
    """What this sandbox does not keep from a program, on this machine and as this user; one sentence each."""
    return gaps(find_cgroups(), as_root=os.geteuid() == 0)


def gaps(cgroups: Cgroups, *, as_root: bool) -> tuple[str, ...]:
    found = [
        "a program can tell for any path whether it exists, and learn size, owner and times (not the content)",
        "it can tell which process ids exist",
        "it sees the host's name, uptime, load and clock",
        "it can read whatever its user may read below the interpreter's, the packages' and the system's library "
        "directories, and lock those files",
        "it has no scratch directory, so one that needs a temporary file fails here and not under docker",
    ]
    if "cpu" not in cgroups.parents:
        found.append("CPU time is limited per process only")
    if cgroups.version == "none":
        found.append(f"memory is limited per process, not in total ({cgroups.why})")
    if not as_root:
        found.append("the limit on processes counts all of this user's, so that jobs can starve each other")
        if cgroups.version == "none":
            found.append("one that forks faster than it can be ended may leave a process behind, confined as it was")
    return tuple(found)


def _handled(abi: int) -> list[int]:
    """Every right that this kernel can restrict: files, network, scopes. What no rule grants is denied."""
    files = (1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1
    return [files, _TCP if abi >= _NETWORK_SINCE_ABI else 0, _SCOPES if abi >= SCOPES_SINCE_ABI else 0]


def _require_own_uids(proc: Path = Path("/proc/self")) -> None:
    """Raises SandboxUnavailable unless this root may become a user from the range."""
    status = proc.joinpath("status").read_text().splitlines()
    capabilities = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if capabilities >> 6 & 0b11 != 0b11:  # CAP_SETGID, CAP_SETUID
        raise SandboxUnavailable(
            "landlock",
            "root here may not change its user id (no CAP_SETUID and CAP_SETGID)",
            "Give the container these two capabilities, or start Move37 as an ordinary user.",
        )
    for name in ("uid_map", "gid_map"):
        lines = [[int(word) for word in line.split()] for line in proc.joinpath(name).read_text().splitlines()]
        if not any(first <= UID_RANGE.start and UID_RANGE.stop <= first + count for first, _, count in lines):
            raise SandboxUnavailable(
                "landlock",
                f"root here is root of a user namespace that has no ids {UID_RANGE.start}-{UID_RANGE.stop - 1}",
                "Start Move37 as an ordinary user.",
            )


def _closed_to_others(directory: Path) -> bool:
    """Whether a user without any claim to it cannot get to `directory`, or list it."""
    if directory.stat().st_mode & 0o005 != 0o005:
        return True
    return any(parent.stat().st_mode & 0o001 == 0 for parent in directory.resolve().parents)


def _tasks_of(uid: int) -> int:
    """How many threads of this user there are: what the kernel compares NPROC with."""
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == uid:
                found += len(list(entry.joinpath("task").iterdir()))
        except OSError:  # it ended while we looked
            continue
    return found
