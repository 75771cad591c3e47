"""The bubblewrap sandbox: namespaces and a root made of read-only mounts, without a daemon or an image.

Covered: the program sees the interpreter, its packages, the system's shared libraries and the evaluator, read-only, and
nothing else of the host; an empty network namespace; its own process tree, gone with its first process; no capability;
a filter on system calls (`seccomp.json`, the same as in the docker sandbox: neither io_uring nor namespaces, sockets of
the AF_UNIX family only), installed by `launcher.py` once the user id has changed; a sized scratch directory; where a
control group can be made (`cgroups.py`), a limit on memory, processes and CPU time as a whole; the orchestrator's
environment stays outside (bwrap itself is started with an empty one: its own `--clearenv` leaves the caller's
readable in /proc/1/environ).
NOT covered: total memory where there is no control group (the limit then holds per process, so many processes together
may exceed it; trials record `memory_cgroup`); the *number* of files in the scratch directory (bwrap 0.8 sizes a tmpfs
but cannot limit its inodes; each takes about a kilobyte of kernel memory, which only the control group counts); bugs
in the kernel.

Two ways to another identity:
- as an ordinary user, a user namespace in which further ones are disabled;
- as root, *no* user namespace. In one, the program would still be the host's uid 0 to the kernel: it could fork
  without limit and open /proc/sys/kernel/core_pattern for writing (both seen). Instead `launcher.py` takes on, with
  the last two capabilities it has, a uid that nobody else uses, for each job another one, since NPROC counts per uid.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import evaluator
from sandbox import launcher
from sandbox.cgroups import CgroupScope, open_cgroups
from sandbox.environment import flags_hash, package_paths, worker_environment
from sandbox.errors import SandboxUnavailable
from sandbox.pool import StartedWorker
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Limits
from sandbox.subprocesses import SubprocessWorker, rlimits
from sandbox.syscalls import program
from sandbox.uids import Uid

HOME = "/opt/move37"  # where the evaluator is, inside
NAMESPACED_UID = 65534
OWN_PROCESSES = 4  # bwrap's and the launcher's, which the limit on a job's processes leaves room for
WORKER = (sys.executable, "-m", "evaluator")


class BubblewrapSandbox(PooledSandbox):
    """Implements `Sandbox` with bwrap. See the module."""

    level = "bubblewrap"
    isolated = True

    def __init__(self, *, command: Sequence[str] = WORKER, holdings: Holdings | None = None) -> None:
        """Whether it works here is for a self-test to say.

        Raises:
            SandboxUnavailable: bwrap or libseccomp is not installed, or this user is root in disguise.
        """
        super().__init__(holdings or Holdings())
        found = shutil.which("bwrap")
        if found is None:
            raise SandboxUnavailable("bubblewrap", "bwrap is not on PATH", "Install it: apt install bubblewrap.")
        self._bwrap = found
        if os.geteuid() != 0 and uid_outside(os.geteuid()) == 0:
            why = "this user is root outside its user namespace, so a program could open /proc/sys for writing"
            raise SandboxUnavailable("bubblewrap", why, "Start Move37 as root itself, or as an ordinary user.")
        self._filter = program(self.level)
        self._cgroups = open_cgroups()
        self._command = tuple(command)

    def provenance(self) -> dict[str, Any]:
        flags = [*self._flags(Limits(), as_root=os.geteuid() == 0), self._filter.hex()]
        return {
            "level": self.level,
            "isolated": self.isolated,
            "flags_hash": flags_hash(flags),
            "memory_cgroup": self._cgroups.version,
        }

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(command=command, holdings=self._holdings)

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> StartedWorker:
        scope = self._cgroups.scope(
            memory_bytes=limits.memory_bytes, pids=limits.pids + OWN_PROCESSES, cpus=limits.cpus
        )
        uid = Uid() if os.geteuid() == 0 else None
        command = self._command_line(limits, lifetime_s, scope, uid)
        return await SubprocessWorker.start(command, environment={}, scope=scope, uid=uid)

    def _command_line(self, limits: Limits, lifetime_s: float, scope: CgroupScope | None, uid: Uid | None) -> list[str]:
        """The launcher twice, if need be: outside to join the control group, which cannot be seen from inside."""
        settings: dict[str, Any] = {
            "limits": rlimits(limits, lifetime_s),
            "seccomp": base64.b64encode(self._filter).decode(),
        }
        if uid is not None:
            settings["uid"] = uid.number
        launch = (sys.executable, "-I", "-S", f"{HOME}/launcher.py", json.dumps(settings))
        join = () if scope is None else launch_outside({"cgroup": scope.join_files()})
        return [*join, self._bwrap, *self._flags(limits, as_root=uid is not None), "--", *launch, *self._command]

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


def uid_outside(uid: int, uid_map: Path = Path("/proc/self/uid_map")) -> int | None:
    """What the parent user namespace calls user `uid` of ours; None if it has no name there."""
    for line in uid_map.read_text().splitlines():
        inside, outside, count = (int(word) for word in line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return None


def launch_outside(settings: dict[str, Any]) -> tuple[str, ...]:
    """The launcher as a command of this host, to go before another command."""
    return (sys.executable, "-I", "-S", str(launcher.__file__), json.dumps(settings))


def _mounts(limits: Limits) -> list[str]:
    """The root: scratch first, since an interpreter may lie under /tmp; read-only last, when all is in place."""
    evaluator_path = Path(evaluator.__file__).parent
    binds = {path: path for path in [*interpreter_paths(), *library_paths()]}
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


def interpreter_paths() -> list[Path]:
    """Where this interpreter, its standard library and its packages are."""
    names = [sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")]
    names += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return _outermost([*(Path(name) for name in names), *package_paths()])


def library_paths() -> list[Path]:
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
