"""Confines itself, then becomes the worker: `python launcher.py '{"limits": {...}, ...}' COMMAND...`.

It runs inside the sandbox, before the worker and before any byte of a program arrives, because rlimits, a user id and a
parent-death signal have to be set by the process that carries them. The settings, all optional:

    cgroup          [file, ...]: write the pid to each, before anything else
    limits          {"AS": bytes, "NPROC": n, ...}: soft and hard, names as in `resource.RLIMIT_*`
    uid             become this user and group for good (needs to be started as root), without a way back
    directories     [path, ...]: open them while still root, as file descriptors from FIRST_DIRECTORY on. A worker of
                    another user gets through /proc/self/fd/N where the path itself leads through a closed directory
    landlock        {"handled": [file rights, network rights, scopes], "rules": [[path, file rights], ...]}; the
                    worker's own directory in /proc is added, readable
    seccomp         a BPF program, base64: the filter on system calls, set last
    watch_stdin     stay as a parent of the worker, and kill it once nobody holds the other end of stdin any more,
                    or on SIGTERM. Whatever the worker left running is killed with it: orphans become our children
    lifetime_s      with watch_stdin: kill it after this long, whatever the host says
    scratch         with watch_stdin: a directory to remove in the end, since the host may be gone by then

With watch_stdin all of the above is the worker's alone, so that it cannot touch its parent.

Whatever they say, it offers itself to the kernel as the first to be killed when memory runs out.

It is a file on its own, standard library only: it is copied into the image and mounted into bubblewrap's root alone.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38
SECCOMP_MODE_FILTER = 2  # linux/seccomp.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's calls, the same on every architecture
RULE_PATH_BENEATH, MAY_READ = 1, 0b1100  # linux/landlock.h: the type of a rule; read a file, list a directory
FIRST_DIRECTORY = 100
REAPING_S = 5.0  # SIGKILL takes milliseconds; a process in uninterruptible sleep may outlast this


def confine(settings: dict[str, Any]) -> None:
    join(settings.get("cgroup", ()))
    for number, path in enumerate(settings.get("directories", ()), FIRST_DIRECTORY):
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        os.dup2(fd, number)  # inheritable
        os.close(fd)
    ruleset = landlock_ruleset(settings["landlock"]) if "landlock" in settings else None  # while every path opens
    if settings.get("uid") is not None:
        become(settings["uid"])
    for name, value in settings.get("limits", {}).items():
        which = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)  # noqa: PLW2901 - an outer limit that is tighter stays
        resource.setrlimit(which, (value, value))
    if ruleset is not None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        system_call(RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def join(files: Sequence[str]) -> None:
    for file in files:
        fd = os.open(file, os.O_WRONLY)
        try:
            os.write(fd, str(os.getpid()).encode())
        finally:
            os.close(fd)


def become(uid: int) -> None:
    """Leaves root for good. Every capability goes with the user id; what an executable could give back goes first,
    where we may, and with no_new_privs in any case."""
    with contextlib.suppress(OSError):  # EINVAL beyond the last capability, EPERM without CAP_SETPCAP
        for capability in range(64):
            prctl(PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def landlock_ruleset(settings: dict[str, Any]) -> int:
    """What `settings` allow, as a ruleset that is not in force yet: an error of the kernel's stops the start."""
    handled = struct.pack("=QQQ", *settings["handled"])  # struct landlock_ruleset_attr; older kernels take zeros
    ruleset = system_call(CREATE_RULESET, handled, len(handled), 0)
    os.set_inheritable(ruleset, False)
    for path, rights in [*settings["rules"], [f"/proc/{os.getpid()}", MAY_READ]]:
        fd = os.open(path, os.O_PATH)
        try:
            system_call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        finally:
            os.close(fd)
    return ruleset


def filter_system_calls(program: bytes) -> None:
    """Installs `program`, an array of `struct sock_filter`, for this process and all it starts."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog, padded as in C
    where = ctypes.create_string_buffer(head, len(head))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(where))


def _volunteer() -> None:
    """Makes this process and its children the first to go when the machine runs out of memory, not the orchestrator.
    A program may take that back as far as to the orchestrator's own value, never below it."""
    with contextlib.suppress(OSError):  # no /proc, or a read-only one
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)


def watch(worker: int, lifetime_s: float, uid: int | None = None) -> int:
    """Waits for the worker; kills it on SIGTERM, when stdin hangs up, or when its time is over, and with it whatever it
    started. Returns a shell-style exit code."""
    ends_at = time.monotonic() + lifetime_s
    woken, wake = os.pipe()  # a signal handler alone would not end the poll below
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: only POLLHUP is reported, and nothing of the stream is consumed
    poll.register(woken, select.POLLIN)
    while True:
        status = reaped(worker)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            end_descendants(uid)
            return code if code >= 0 else 128 - code
        left = ends_at - time.monotonic()
        events = [fd for fd, _ in poll.poll(min(left, 60.0) * 1000)] if left > 0 else [0]
        signals = os.read(woken, 4096) if woken in events else b""
        if 0 in events or signal.SIGTERM in signals:
            end_descendants(uid)
            return 128 + signal.SIGKILL


def reaped(worker: int) -> int | None:
    """Collects whoever has ended. The wait status of `worker` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                status = ended[1]
    return status


def end_descendants(uid: int | None = None) -> None:
    """Kills and collects every descendant. Those that lose their parent become children of this subreaper, so that
    none is left once there is no child; one that forks while it is looked at is found in the next pass. With a `uid`
    of their own they are first killed all at once, so that not even one that forks without end is quicker."""
    if uid is not None:
        end_user(uid)
    gives_up_at = time.monotonic() + REAPING_S
    while time.monotonic() < gives_up_at:
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def end_user(uid: int) -> None:
    """Kills every process of `uid`. The kernel holds its list of processes meanwhile, so that nothing is added."""
    child = os.fork()
    if not child:
        try:
            os.setresuid(uid, uid, uid)
            with contextlib.suppress(ProcessLookupError):  # there was none left
                os.kill(-1, signal.SIGKILL)  # whom this user may signal, except ourselves
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def descendants() -> list[int]:
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        parent = pending.pop()
        with contextlib.suppress(OSError):  # it ended while we looked
            for file in Path(f"/proc/{parent}/task").glob("*/children"):
                children = [int(child) for child in file.read_text().split()]
                pending += children
                found += children
    return found


def prctl(option: int, value: int, more: int = 0) -> None:
    whole = [ctypes.c_ulong(each) for each in (value, more, 0, 0)]  # variadic: an int would pass the lower half only
    if ctypes.CDLL(None, use_errno=True).prctl(option, *whole) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def system_call(number: int, *arguments: int | bytes | None) -> int:
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *whole)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number} failed: {os.strerror(code)}")
    return result


def main() -> None:
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    _volunteer()  # before the user id changes: another user's file in /proc cannot be written
    if settings.get("watch_stdin"):
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        watcher = os.getpid()
        worker = os.fork()
        if worker:
            # Held open, its directory in /proc stays the one that the Landlock rule names, even when memory is short.
            if "landlock" in settings:
                os.open(f"/proc/{worker}", os.O_PATH)
            code = watch(worker, settings.get("lifetime_s", 365 * 86400.0), settings.get("uid"))
            if "scratch" in settings:
                shutil.rmtree(settings["scratch"], ignore_errors=True)
            os._exit(code)
        confine(settings)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the user id has changed, which clears it
        if os.getppid() != watcher:  # it died before the call above
            os._exit(1)
    else:
        confine(settings)
    if "seccomp" in settings:
        filter_system_calls(base64.b64decode(settings["seccomp"]))
    os.execvp(command[0], command)  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main()
