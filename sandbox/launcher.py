"""Confines itself, then becomes the worker: `python launcher.py '{"limits": {...}, ...}' COMMAND...`.

It runs inside the sandbox, before the worker and before any byte of a program arrives, because rlimits, a user id and a
parent-death signal have to be set by the process that carries them. The settings, all optional:

    limits          {"AS": bytes, "NPROC": n, ...}: soft and hard, names as in `resource.RLIMIT_*`
    uid             become this user and group for good (needs to be started as root)
    die_with_parent SIGKILL when the thread that started us ends
    watch_stdin     stay as a parent of the worker, and kill it once nobody holds the other end of stdin any more
    lifetime_s      with watch_stdin: kill it after this long, whatever the host says

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
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def confine(settings: dict[str, Any]) -> None:
    _volunteer()  # first: another user's file in /proc cannot be written
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
    parent = settings.get("die_with_parent")
    if parent is not None:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)


def _volunteer() -> None:
    """Makes this process and its children the first to go when the machine runs out of memory, not the orchestrator."""
    with contextlib.suppress(OSError):  # no /proc, or a read-only one
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)


def watch(worker: int, lifetime_s: float) -> int:
    """Waits for the worker; kills it when stdin hangs up or its time is over. Returns a shell-style exit code."""
    ends_at = time.monotonic() + lifetime_s
    woken, wake = os.pipe()  # a signal handler alone would not end the poll below
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: only POLLHUP is reported, and nothing of the stream is consumed
    poll.register(woken, select.POLLIN)
    while True:
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        left = ends_at - time.monotonic()
        events = [fd for fd, _ in poll.poll(min(left, 60.0) * 1000)] if left > 0 else [0]
        if woken in events:
            os.read(woken, 4096)
        if 0 in events:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            return 128 + signal.SIGKILL


def main() -> None:
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    confine(settings)
    if settings.get("watch_stdin"):
        worker = os.fork()
        if worker:
            os._exit(watch(worker, settings.get("lifetime_s", 365 * 86400.0)))
    os.execvp(command[0], command)  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main()
