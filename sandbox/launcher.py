"""Confines itself, then becomes the worker: `python launcher.py '{"limits": {...}, ...}' COMMAND...`.

It runs inside the sandbox, before the worker and before any byte of a program arrives, because rlimits, a user id and a
parent-death signal have to be set by the process that carries them. The settings, all optional:

    limits          {"AS": bytes, "NPROC": n, ...}: soft and hard, names as in `resource.RLIMIT_*`
    uid             become this user and group for good (needs to be started as root)
    watch_stdin     stay as a parent of the worker, and kill it once nobody holds the other end of stdin any more,
                    or on SIGTERM. Whatever the worker left running is killed with it: orphans become our children
    lifetime_s      with watch_stdin: kill it after this long, whatever the host says

With watch_stdin the limits and the user id are the worker's alone, so that a worker with another user id cannot touch
its parent.

Whatever they say, it offers itself to the kernel as the first to be killed when memory runs out.

It is a file on its own, standard library only: it is copied into the image and mounted into bubblewrap's root alone.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
REAPING_S = 5.0  # SIGKILL takes milliseconds; a process in uninterruptible sleep may outlast this


def confine(settings: dict[str, Any]) -> None:
    uid = settings.get("uid")
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for name, value in settings.get("limits", {}).items():
        which = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)  # noqa: PLW2901 - an outer limit that is tighter stays
        resource.setrlimit(which, (value, value))


def _volunteer() -> None:
    """Makes this process and its children the first to go when the machine runs out of memory, not the orchestrator."""
    with contextlib.suppress(OSError):  # no /proc, or a read-only one
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)


def watch(worker: int, lifetime_s: float) -> int:
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
            end_descendants()
            return code if code >= 0 else 128 - code
        left = ends_at - time.monotonic()
        events = [fd for fd, _ in poll.poll(min(left, 60.0) * 1000)] if left > 0 else [0]
        signals = os.read(woken, 4096) if woken in events else b""
        if 0 in events or signal.SIGTERM in signals:
            end_descendants()
            return 128 + signal.SIGKILL


def reaped(worker: int) -> int | None:
    """Collects whoever has ended. The wait status of `worker` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                status = ended[1]
    return status


def end_descendants() -> None:
    """Kills and collects every descendant. Those that lose their parent become children of this subreaper, so that
    none is left once there is no child; one that forks while it is looked at is found in the next pass."""
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


def prctl(option: int, value: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def main() -> None:
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    _volunteer()  # before the user id changes: another user's file in /proc cannot be written
    if settings.get("watch_stdin"):
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        watcher = os.getpid()
        worker = os.fork()
        if worker:
            os._exit(watch(worker, settings.get("lifetime_s", 365 * 86400.0)))
        confine(settings)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the user id has changed, which clears it
        if os.getppid() != watcher:  # it died before the call above
            os._exit(1)
    else:
        confine(settings)
    os.execvp(command[0], command)  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main()
