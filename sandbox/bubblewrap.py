"""The bubblewrap sandbox: namespaces and a root made of read-only mounts, without a daemon or an image.

Covered: the program sees the interpreter, its packages, the system's shared libraries and the evaluator, read-only, and
nothing else of the host; an empty network namespace; its own process tree, gone with its first process; no capability;
a sized scratch directory; the orchestrator's environment stays outside (bwrap itself is started with an empty one: its
own `--clearenv` leaves the caller's readable in /proc/1/environ).
NOT covered: total memory (no cgroup: the limit holds per process, so many processes together may exceed it); system
calls are not filtered, so the kernel's whole surface is open, and started by root, so is making a user namespace.

Two ways to another identity:
- as an ordinary user, a user namespace in which further ones are disabled;
- as root, *no* user namespace. In one, the program would still be the host's uid 0 to the kernel: it could fork
  without limit and open /proc/sys/kernel/core_pattern for writing (both seen). Instead `launcher.py` takes on, with
  the last two capabilities it has, a uid that nobody else uses, for each job another one, since NPROC counts per uid.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import evaluator
from sandbox import launcher
from sandbox.conversation import converse
from sandbox.environment import flags_hash, package_paths, worker_environment
from sandbox.errors import SandboxUnavailable
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Progress
from sandbox.subprocesses import SubprocessWorker, rlimits

HOME = "/opt/move37"  # where the evaluator is, inside
UID_RANGE = range(0x64370000, 0x64380000)  # far above login and subordinate ids
NAMESPACED_UID = 65534
WORKER = (sys.executable, "-m", "evaluator")


class BubblewrapSandbox:
    """Implements `Sandbox` with bwrap. See the module."""

    level = "bubblewrap"
    isolated = True

    def __init__(self, *, command: Sequence[str] = WORKER) -> None:
        """Raises SandboxUnavailable when bwrap is not installed; whether it works here is for a self-test to say."""
        found = shutil.which("bwrap")
        if found is None:
            raise SandboxUnavailable("bubblewrap", "bwrap is not on PATH", "Install it: apt install bubblewrap.")
        self._bwrap = found
        self._command = tuple(command)

    def provenance(self) -> dict[str, Any]:
        flags = self._flags(Limits(), as_root=os.geteuid() == 0)
        return {"level": self.level, "isolated": self.isolated, "flags_hash": flags_hash(flags)}

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        worker: SubprocessWorker | None = None
        provenance = self.provenance()
        try:
            worker = await SubprocessWorker.start(self._command_line(job), environment={})
            return await converse(worker, job, deadline_s=deadline_s, on_progress=on_progress, provenance=provenance)
        except OSError as error:
            message = f"bwrap could not be started: {error}"
            return JobOutcome(OutcomeKind.INFRASTRUCTURE_FAILED, "start", message, provenance=provenance)
        finally:
            if worker is not None:
                await asyncio.shield(worker.destroy())

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(command=command)

    async def close(self) -> None:
        """Nothing is held between jobs."""

    def _command_line(self, job: Job) -> list[str]:
        as_root = os.geteuid() == 0
        lifetime_s = sum(phase.timeout_s for phase in job.phases)
        settings: dict[str, Any] = {"limits": rlimits(job.limits, lifetime_s)}
        if as_root:
            settings["uid"] = UID_RANGE.start + secrets.randbelow(len(UID_RANGE))
        launch = (sys.executable, "-I", "-S", f"{HOME}/launcher.py", json.dumps(settings))
        return [self._bwrap, *self._flags(job.limits, as_root=as_root), "--", *launch, *self._command]

    def _flags(self, limits: Limits, *, as_root: bool) -> list[str]:
        identity = (
            "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try "
            "--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID"
            if as_root
            else f"--unshare-all --unshare-user --disable-userns --uid {NAMESPACED_UID} --gid {NAMESPACED_UID} "
            "--cap-drop ALL"
        ).split()
        life = ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
        variables = worker_environment(limits, scratch="/tmp")  # noqa: S108 - the sandbox's own, not the host's
        variables |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, [HOME, *package_paths()]))}
        environment = [part for name, value in variables.items() for part in ("--setenv", name, value)]
        return [*identity, *life, *environment, *_mounts(limits), "--chdir", HOME]


def _mounts(limits: Limits) -> list[str]:
    """The root: scratch first, since an interpreter may lie under /tmp; read-only last, when all is in place."""
    evaluator_path = Path(evaluator.__file__).parent
    binds = {path: path for path in [*_interpreter_paths(), *_library_paths()]}
    binds |= {evaluator_path: Path(HOME, "evaluator"), Path(launcher.__file__): Path(HOME, "launcher.py")}
    flags = ["--perms", "1777", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp"]  # noqa: S108
    flags += [part for directory in _parents(binds.values()) for part in ("--dir", str(directory))]
    for outside, inside in binds.items():
        flags += ["--ro-bind", str(outside), str(inside)]
    for link in (Path("/lib"), Path("/lib64")):
        if link.is_symlink():
            flags += ["--symlink", str(link.readlink()), str(link)]
    flags += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    flags += ["--ro-bind-try", "/sys/devices/system/cpu", "/sys/devices/system/cpu"]  # PyTorch asks it about the CPU
    return [*flags, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/"]


def _interpreter_paths() -> list[Path]:
    """Where this interpreter, its standard library and its packages are."""
    names = [sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")]
    names += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return _outermost([*(Path(name) for name in names), *package_paths()])


def _library_paths() -> list[Path]:
    """The system's shared libraries. A link such as /lib is made again inside, not mounted."""
    paths = [Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64")]
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    existing = sorted({path.absolute() for path in paths if path.is_dir()})
    return [path for path in existing if not any(other in path.parents for other in existing)]


def _parents(paths: Iterable[Path]) -> list[Path]:
    """Every directory above a mount point, outermost first. bwrap would make them for root alone."""
    found = {parent for path in paths for parent in path.parents}
    return sorted(found - {Path("/"), Path("/tmp")})  # noqa: S108
