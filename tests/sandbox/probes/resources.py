"""Probes that take more than they are given: memory, processes, files, space, time."""

from __future__ import annotations

import errno
from dataclasses import replace

from sandbox.protocol import OutcomeKind
from tests.sandbox.probes.probe import COMPLETED, SMALL, Check, Evidence, Probe, failed

_MIB = 1 << 20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.ENOENT, errno.ENOMEM}
_SCRATCH_INODES = 16384  # of the docker sandbox; bubblewrap cannot limit them


def _at_most(key: str, limit: float, at_least: float = 0) -> Check:
    def check(evidence: Evidence) -> None:
        assert at_least <= evidence.found[key] <= limit, evidence.found

    return check


def _forked(evidence: Evidence) -> None:
    assert 0 < evidence.found["forks"] < SMALL.pids
    assert evidence.found["refused"] in (errno.EAGAIN, errno.ENOMEM)


def _surviving(evidence: Evidence) -> None:
    assert evidence.found["allocated"] == "tried"
    assert evidence.found.get("alive", 0) * 80 * _MIB <= SMALL.memory_bytes


def _wrote_little(evidence: Evidence) -> None:
    assert evidence.found["written"] <= SMALL.tmp_bytes
    assert evidence.found["refused"] in _NO_SPACE


def _sparse(evidence: Evidence) -> None:
    assert evidence.found["size"] <= SMALL.tmp_bytes
    assert set(evidence.found["refused"]) <= _NO_SPACE
    assert evidence.found["refused"]


def _cut(evidence: Evidence) -> None:
    assert "bytes dropped" in evidence.outcome.log
    assert evidence.outcome.log.startswith("flood of output ")


def _no_core(evidence: Evidence) -> None:
    assert evidence.found["limit"] == [0, 0]
    assert evidence.found["dumped"] is False
    assert evidence.found["left"] == []
    assert "SIGABRT" in evidence.outcome.message


def _crashed(evidence: Evidence) -> None:
    assert "SIGSEGV" in evidence.outcome.message


def _quick(evidence: Evidence) -> None:
    assert evidence.wall_s < 5


FILL = """
    import os
    written, refused = 0, None
    piece = bytes(1 << 20)
    scratch = os.environ["TMPDIR"]
    kept = []
    try:
        for number in range(64):
            file = open(f"{scratch}/{asked['token']}-{number}", "wb", buffering=0)
            if UNLINKED: os.unlink(file.name)
            kept.append(file)
            for _ in range(4): written += file.write(piece)
    except OSError as error: refused = error.errno
    found.update(written=written, refused=refused)
"""

RESOURCES = (
    Probe(
        "fork bomb",
        "1",
        "forks as often as it can, then goes on trying in every child",
        "a limit on processes: the container's control group, or NPROC for a user id of its own",
        """
        import os, time
        forks = 0
        try:
            while forks < 500:
                if os.fork() == 0:
                    time.sleep(20)
                    os._exit(0)
                forks += 1
        except OSError as error:
            note(forks=forks, refused=error.errno)
        else: os._exit(1)  # there is no limit: do not try what would follow
        while True:
            try: os.fork()
            except OSError: time.sleep(0.01)
        """,
        failed("timeout"),
        _forked,
        timeout_s=0.7,
        fast=True,
    ),
    Probe(
        "memory bomb",
        "2",
        "allocates 576 MiB where 192 are allowed",
        "the memory control group, or RLIMIT_AS",
        """
        hoard = []
        for number in range(1, 10):
            hoard.append(b"x" * (64 << 20))
            note(mib=64 * number)
        """,
        failed("out_of_memory", "exception"),
        _at_most("mib", 192),
        elsewhere={"docker": failed("out_of_memory")},
        fast=True,
    ),
    Probe(
        "memory shared out",
        "2b",
        "six children take 80 MiB each, all of them within the limit of one process",
        "the memory control group, which counts the job as a whole",
        """
        import os, time
        pipes, children = [], []
        for _ in range(6):
            ours, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    hoard = b"x" * (80 << 20)
                    os.write(theirs, b"1")
                    time.sleep(20)
                finally: os._exit(1)
            os.close(theirs)
            pipes.append(ours)
            children.append(child)
        note(allocated="tried")
        for pipe in pipes: os.read(pipe, 1)
        time.sleep(0.1)
        found["alive"] = [os.waitpid(child, os.WNOHANG) for child in children].count((0, 0))
        """,
        COMPLETED | failed("out_of_memory", "exception"),
        _surviving,
    ),
    Probe(
        "fills the scratch directory",
        "3",
        "writes 256 MiB to it, in files of 4 MiB",
        "a sized tmpfs; landlock gives no scratch directory",
        FILL.replace("UNLINKED", "False"),
        check=_wrote_little,
        fast=True,
    ),
    Probe(
        "endless loop",
        "5",
        "never answers",
        "the host's deadline and SIGKILL",
        "while True: pass",
        failed("timeout"),
        _quick,
        timeout_s=0.4,
        fast=True,
    ),
    Probe(
        "deaf to signals",
        "6",
        "ignores and blocks every signal it can, then loops",
        "SIGKILL first: nobody is asked to stop",
        """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: pass
        """,
        failed("timeout"),
        _quick,
        timeout_s=0.4,
    ),
    Probe(
        "a gigabyte of prints",
        "7",
        "prints without end to fill the host's memory or disk, or to wedge who reads it",
        "a bounded log that is always drained; no log driver",
        """
        import os
        piece = b"flood of output " * (1 << 16)
        for _ in range(1024): os.write(1, piece)
        """,
        COMPLETED | failed("timeout"),
        _cut,
        timeout_s=1.0,
    ),
    Probe(
        "sparse file",
        "9",
        "makes a file of 10 GiB that takes no space",
        "RLIMIT_FSIZE",
        """
        import os
        found.update(size=0, refused=[])
        try:
            file = os.open(os.environ["TMPDIR"] + "/" + asked["token"], os.O_CREAT | os.O_RDWR)
        except OSError as error: found["refused"].append(error.errno)
        else:
            for act in (
                lambda: os.ftruncate(file, 10 << 30),
                lambda: os.pwrite(file, b"x", 10 << 30),
                lambda: os.posix_fallocate(file, 0, 10 << 30),
            ):
                try: act()
                except OSError as error: found["refused"].append(error.errno)
            found["size"] = os.fstat(file).st_size
        """,
        check=_sparse,
    ),
    Probe(
        "core dump",
        "31",
        "aborts with 100 MiB in memory, where it may write and where it began",
        "RLIMIT_CORE 0 (a kernel that pipes dumps to a program needs that program to respect it)",
        """
        import os, resource
        hoard = b"x" * (100 << 20)
        places = [os.getcwd(), os.environ["TMPDIR"]]
        dumped = False
        for place in places:
            child = os.fork()
            if child == 0:
                try: os.chdir(place)
                except OSError: pass
                os.abort()
            dumped |= os.WCOREDUMP(os.waitpid(child, 0)[1])
        left = []
        for place in places:
            try: left += [name for name in os.listdir(place) if "core" in name]
            except OSError: pass
        note(limit=resource.getrlimit(resource.RLIMIT_CORE), dumped=dumped, left=left)
        os.abort()
        """,
        failed("exception"),
        _no_core,
    ),
    Probe(
        "never exits",
        "35",
        "answers, and then stays for ever",
        "the job ends with its last reply; the worker is killed",
        """
        import time
        send({"type": "done", "phase": "only"})
        while True: time.sleep(1)
        """,
        check=_quick,
    ),
    Probe(
        "thread bomb",
        "own",
        "starts 500 threads",
        "threads count as processes; their stacks count as memory",
        """
        import threading, time
        started = 0
        try:
            while started < 500:
                threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
                started += 1
        except (RuntimeError, MemoryError): pass
        found["started"] = started
        """,
        check=_at_most("started", SMALL.pids, at_least=1),
    ),
    Probe(
        "recursion without end",
        "own",
        "calls itself with the recursion limit lifted",
        "the memory limit: frames of Python code lie on the heap",
        """
        import sys
        sys.setrecursionlimit(2**31 - 1)
        def again(n): return again(n + 1)
        again(0)
        """,
        failed("out_of_memory", "exception"),
        timeout_s=10.0,
    ),
    Probe(
        "C stack overflow",
        "own",
        "calls itself through C code until the stack is full",
        "the process dies of it and nothing else does",
        """
        import ctypes, sys
        sys.setrecursionlimit(2**31 - 1)
        callback = ctypes.CFUNCTYPE(None)(lambda: callback())
        callback()
        """,
        failed("exception"),
        _crashed,
    ),
    Probe(
        "regular expression that never ends",
        "own",
        "loops within one call of C code, where no signal handler of Python runs",
        "the host's deadline and SIGKILL",
        """
        import re
        re.match(r"(a+)+$", "a" * 64 + "b")
        """,
        failed("timeout"),
        _quick,
        timeout_s=0.4,
    ),
    Probe(
        "file descriptors exhausted",
        "own",
        "opens files until it is refused",
        "RLIMIT_NOFILE",
        """
        import os
        files = []
        try:
            while len(files) < 20_000: files.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error: found["refused"] = error.errno
        found["opened"] = len(files)
        for file in files: os.close(file)
        """,
        check=_at_most("opened", 1024, at_least=900),
    ),
    Probe(
        "inode flood",
        "own",
        "makes 20,000 empty files and directories in the scratch directory",
        "a limit on the tmpfs's inodes; landlock gives no scratch directory",
        """
        import os
        made, scratch = 0, os.environ["TMPDIR"]
        try:
            for number in range(10_000):
                os.close(os.open(f"{scratch}/{number}", os.O_CREAT | os.O_WRONLY))
                os.mkdir(f"{scratch}/d{number}")
                made += 2
        except OSError: pass
        found["made"] = made
        """,
        check=_at_most("made", _SCRATCH_INODES),
        limits=replace(SMALL, tmp_bytes=64 * _MIB),
    ),
    Probe(
        "huge file without a name",
        "own",
        "writes 256 MiB into files that it has deleted",
        "a sized tmpfs counts blocks, not names",
        FILL.replace("UNLINKED", "True"),
        check=_wrote_little,
    ),
    Probe(
        "hoard in memory files",
        "own",
        "keeps 400 MiB in memfds and pipes, which are in no process's address space",
        "the memory control group; landlock's filter denies memfd_create",
        """
        import os
        hoard, files = 0, []
        piece = bytes(1 << 20)
        try:
            while hoard < 400:
                files.append(os.memfd_create(asked["token"]))
                for _ in range(8): hoard += os.write(files[-1], piece) >> 20
                note(mib=hoard)
        except OSError as error: note(mib=hoard, refused=error.errno)
        """,
        COMPLETED | failed("out_of_memory", "exception"),
        _at_most("mib", SMALL.memory_bytes >> 20),
    ),
    Probe(
        "more CPU than its share",
        "own",
        "keeps two processes busy where half a CPU is allowed",
        "the CPU quota of the container or control group",
        """
        import os, time
        ends = time.monotonic() + 1.0
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                while time.monotonic() < ends: pass
                os._exit(0)
            children.append(child)
        for child in children: os.waitpid(child, 0)
        used = os.times()
        found["seconds"] = used.children_user + used.children_system
        """,
        check=_at_most("seconds", 0.75, at_least=0.1),
        limits=replace(SMALL, cpus=0.5),
    ),
    Probe(
        "stops itself",
        "own",
        "stops every process it can reach, its launcher and itself",
        "the deadline does not depend on anybody inside; SIGKILL reaches the stopped",
        """
        import os, signal
        for target in (-1, 1, os.getppid(), os.getpid()):
            try: os.kill(target, signal.SIGSTOP)
            except OSError: pass
        """,
        failed("timeout"),
        _quick,
        timeout_s=0.4,
    ),
    Probe(
        "dies like a victim",
        "own",
        "ends with the exit code of an out-of-memory kill, to look like our failure and be tried again",
        "the verdict is made from what the host and the kernel saw, never from the number",
        """
        import os
        os._exit(137)
        """,
        frozenset({(OutcomeKind.CANDIDATE_FAILED, "exception")}),
        pure=True,
    ),
)
