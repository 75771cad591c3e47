"""Probes that ask the kernel for more than a program should have: identity, namespaces, devices, clocks, odd calls."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.probes.probe import Evidence, Probe, refused

# `syscall(number, ...)` and the numbers that the two architectures do not share.
CALLS = """
    import ctypes, os, platform
    libc = ctypes.CDLL(None, use_errno=True)
    def checked(result):
        if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
    def syscall(number, *arguments):
        if isinstance(number, str): number = NUMBERS[number][platform.machine() == "aarch64"]
        whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
        return checked(libc.syscall(ctypes.c_long(number), *whole))
    NUMBERS = {
        "pivot_root": (155, 41), "init_module": (175, 105), "kexec_load": (246, 104), "add_key": (248, 217),
        "keyctl": (250, 219), "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282),
        "open_by_handle_at": (304, 265), "kcmp": (312, 272), "acct": (163, 89), "swapon": (167, 224),
        "reboot": (169, 142), "sethostname": (170, 161), "quotactl": (179, 60), "settimeofday": (164, 170),
        "clock_adjtime": (305, 266), "personality": (135, 92), "clone": (56, 220), "fanotify_init": (300, 262),
    }
    open_tree, move_mount, fsopen, io_uring_setup = 428, 429, 430, 425
    NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
    scratch = os.environ["TMPDIR"].encode()
"""


def _identity(evidence: Evidence) -> None:
    refused("setuid", "setgid", "setgroups", "setresuid", "ambient capability")(evidence)
    assert int(evidence.found["CapEff"], 16) == int(evidence.found["CapPrm"], 16) == 0
    assert evidence.found["NoNewPrivs"] == "1"
    assert "0" not in evidence.found["Uid"].split()


def _untraced(evidence: Evidence) -> None:
    refused("ptrace 1", "read 1")(evidence)
    assert evidence.found["seen"] is False


def _same_confinement(evidence: Evidence) -> None:
    parent, child = evidence.found["parent"], evidence.found["child"]
    assert parent["NoNewPrivs"] == "1"
    assert int(parent["CapEff"], 16) == 0
    assert parent["Seccomp"] == "2"
    assert child is None or child == parent


def _clock(evidence: Evidence) -> None:
    refused("clock_settime", "settimeofday")(evidence)
    assert evidence.outcome.phase_wall_s[0] >= 0.3


def _own_names_only(evidence: Evidence) -> None:
    assert evidence.found["tried"] >= 4


def _not_behind_us(evidence: Evidence) -> None:
    """The value itself may fall: without CAP_SYS_RESOURCE here or in the engine, to what it was before the sandbox
    raised it. It must not fall below the orchestrator's."""
    assert evidence.found["raised"] > 0
    assert evidence.found["lowered"] >= int(Path("/proc/self/oom_score_adj").read_text())


CONFINEMENT = """
    import os, sys, sysconfig
    KEYS = ("Uid", "Gid", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp")
    SHOW = "print(open('/proc/self/status').read())"
    def status(text):
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {key: " ".join(value.split()) for key, value in pairs if key in KEYS}
    def outcome_of(start):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(theirs, 1)
                start()
            finally: os._exit(1)
        os.close(theirs)
        text = b""
        while piece := os.read(ours, 65536): text += piece
        os.waitpid(child, 0)
        return status(text.decode()) or None
    library = sysconfig.get_config_var("LIBDIR") or ""
    variables = {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH") or library}
    found["parent"] = status(open("/proc/self/status").read())
"""

KERNEL = (
    Probe(
        "traces others",
        "16",
        "attaches to every other process with ptrace, opens their memory, reads it for the host's secret",
        "the filter denies ptrace and process_vm_readv; other user ids; its own process tree; Landlock's scope",
        CALLS
        + """
    try: listed = os.listdir("/proc")
    except OSError: listed = []
    others = {int(name) for name in listed if name.isdecimal()} | {1, os.getppid(), asked["orchestrator"]}
    others = sorted(others - {os.getpid()})
    canary = asked["yranac"][::-1].encode()
    seen = False
    class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    for pid in others[:60]:
        attempt(f"ptrace {pid}", lambda: checked(libc.ptrace(16, pid, None, None)))
        local, remote = Vector(ctypes.addressof(ctypes.create_string_buffer(8)), 8), Vector(0x400000, 8)
        attempt(f"read {pid}", lambda: checked(
            libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)))
        try:
            areas = [line.split() for line in open(f"/proc/{pid}/maps")]
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for area in areas:
                    if area[-1] not in ("[heap]", "[stack]"): continue
                    low, high = (int(end, 16) for end in area[0].split("-"))
                    memory.seek(low)
                    seen |= canary in memory.read(min(high - low, 8 << 20))
        except (OSError, ValueError): pass
    found["seen"] = seen
    """,
        check=_untraced,
        fast=True,
    ),
    Probe(
        "mounts and namespaces",
        "17",
        "mount, umount, unshare, setns, chroot, pivot_root, open_tree, fsopen, and a user namespace to do them in",
        "no capability, and the filter on system calls",
        CALLS
        + """
    for name, flag in {"mounts": NEWNS, "processes": NEWPID, "network": NEWNET, "users": NEWUSER}.items():
        attempt("unshare " + name, lambda: checked(libc.unshare(flag)))
    attempt("users and network", lambda: checked(libc.unshare(NEWUSER | NEWNET)))
    attempt("clone", lambda: syscall("clone", NEWUSER | 17, 0, 0, 0, 0) or os._exit(0))
    attempt("mount", lambda: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
    attempt("bind", lambda: checked(libc.mount(b"/", scratch, None, 4096, None)))
    attempt("remount", lambda: checked(libc.mount(None, b"/", None, 32 | 4096, None)))
    attempt("umount", lambda: checked(libc.umount2(b"/proc", 2)))
    attempt("chroot", lambda: os.chroot("/"))
    attempt("pivot_root", lambda: syscall("pivot_root", b"/", b"/"))
    attempt("setns", lambda: checked(libc.setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)))
    attempt("setns 1", lambda: checked(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)))
    attempt("open_tree", lambda: syscall(open_tree, -100, b"/", 1))
    attempt("fsopen", lambda: syscall(fsopen, b"tmpfs", 0))
    """,
        check=refused("unshare mounts", "unshare users", "clone", "mount", "chroot", "setns", "open_tree", "fsopen"),
        fast=True,
    ),
    Probe(
        "becomes root",
        "18",
        "setuid, setgid, setgroups, ambient capabilities",
        "no capability left, none to be had (no_new_privs), a user id that is nobody's",
        CALLS
        + """
    attempt("setuid", lambda: os.setuid(0))
    attempt("setgid", lambda: os.setgid(0))
    attempt("setresuid", lambda: os.setresuid(0, 0, 0))
    attempt("setgroups", lambda: os.setgroups([0]))
    attempt("ambient capability", lambda: checked(libc.prctl(47, 2, 21, 0, 0)))
    for line in open("/proc/self/status"):
        key, _, value = line.partition(":")
        if key in ("CapEff", "CapPrm", "NoNewPrivs", "Uid"): found[key] = value.strip()
    """,
        check=_identity,
    ),
    Probe(
        "sets the clock",
        "19",
        "sets the machine's clock, then replaces every clock of its own process",
        "no capability; times are the host's, between frames",
        CALLS
        + """
    import time
    sleep, now = time.sleep, time.time()
    attempt("clock_settime", lambda: time.clock_settime(time.CLOCK_REALTIME, now))
    attempt("settimeofday", lambda: syscall("settimeofday", (ctypes.c_long * 2)(int(now), 0), None))
    for name in ("time", "monotonic", "perf_counter", "process_time"): setattr(time, name, lambda: 0.0)
    sleep(0.3)
    """,
        check=_clock,
    ),
    Probe(
        "odd system calls",
        "27",
        "kernel log, keyrings, BPF, perf, userfaultfd, io_uring, kexec, modules, handles, kcmp, odd socket families",
        "the filter on system calls: an allow-list",
        CALLS
        + """
    import socket
    buffer = ctypes.create_string_buffer(256)
    attempt("kernel log", lambda: checked(libc.klogctl(3, buffer, 256)))
    attempt("keyctl", lambda: syscall("keyctl", 0, -3, 1))
    attempt("add_key", lambda: syscall("add_key", b"user", b"x", b"y", 1, -3))
    attempt("bpf", lambda: syscall("bpf", 0, buffer, 72))
    attempt("perf", lambda: syscall("perf_event_open", buffer, 0, -1, -1, 0))
    attempt("userfaultfd", lambda: syscall("userfaultfd", 1))
    attempt("io_uring", lambda: syscall(io_uring_setup, 4, buffer))
    attempt("kexec", lambda: syscall("kexec_load", 0, 0, None, 0))
    attempt("module", lambda: syscall("init_module", buffer, 0, b""))
    attempt("handle", lambda: syscall("open_by_handle_at", 0, buffer, 0))
    attempt("kcmp", lambda: syscall("kcmp", os.getpid(), 1, 0, 0, 0))
    attempt("acct", lambda: syscall("acct", b"/"))
    attempt("swap", lambda: syscall("swapon", b"/", 0))
    attempt("host name", lambda: syscall("sethostname", b"x", 1))
    attempt("personality", lambda: syscall("personality", 0x0040000))
    attempt("fanotify", lambda: syscall("fanotify_init", 0, 0))
    for family in ("INET", "INET6", "NETLINK", "PACKET", "VSOCK", "ALG", "BLUETOOTH", "CAN", "TIPC", "XDP"):
        number = getattr(socket, "AF_" + family, 44 if family == "XDP" else None)
        if number is None: continue
        kind = socket.SOCK_RAW if family in ("NETLINK", "PACKET", "CAN", "XDP") else socket.SOCK_STREAM
        attempt("AF_" + family, lambda: socket.socket(number, socket.SOCK_SEQPACKET if family == "ALG" else kind))
    """,
        check=refused("kernel log", "keyctl", "bpf", "perf", "userfaultfd", "io_uring", "AF_INET", "AF_NETLINK"),
        fast=True,
    ),
    Probe(
        "precedence",
        "29",
        "real-time scheduling, a better priority, locked memory",
        "no capability, rlimits",
        CALLS
        + """
    attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
    attempt("nice", lambda: os.nice(-5))
    attempt("priority of 1", lambda: os.setpriority(os.PRIO_PROCESS, 1, -20))
    attempt("locked memory", lambda: checked(libc.mlock(ctypes.create_string_buffer(64 << 20), 64 << 20)))
    attempt("locked for ever", lambda: checked(libc.mlockall(2)))
    """,
        check=refused("real time", "nice", "locked memory"),
    ),
    Probe(
        "shared memory left behind",
        "30",
        "makes System V segments, semaphores and queues, POSIX shared memory, and leaves them",
        "an ipc namespace, or the filter on system calls; no /dev/shm",
        CALLS
        + """
    key = int(asked["token"][:7], 16)
    attempt("segment", lambda: checked(libc.shmget(key, 1 << 20, 0o1666)))
    attempt("semaphore", lambda: checked(libc.semget(key, 1, 0o1666)))
    attempt("queue", lambda: checked(libc.msgget(key, 0o1666)))
    attempt("posix", lambda: os.open("/dev/shm/" + asked["token"], os.O_CREAT | os.O_RDWR))
    found["tried"] = 4
    """,
        check=_own_names_only,
    ),
    Probe(
        "executes what it wrote",
        "32",
        "writes a program to its scratch directory and executes it",
        "noexec or Landlock; and where it runs, it is as confined as its parent",
        CONFINEMENT
        + """
    def start():
        path = os.environ["TMPDIR"] + "/" + asked["token"]
        with open(path, "w") as file: file.write(f"#!{sys.executable} -IS\\n{SHOW}\\n")
        os.chmod(path, 0o700)
        os.execve(path, [path], variables)
    found["child"] = outcome_of(start)
    """,
        check=_same_confinement,
    ),
    Probe(
        "executes from memory",
        "own",
        "copies the interpreter into a memfd and executes that, past every noexec mount",
        "it is as confined as its parent: noexec is no boundary",
        CONFINEMENT
        + """
    def start():
        program = os.memfd_create("x", 0)
        with open(sys.executable, "rb") as file: os.write(program, file.read())
        os.execve(program, [sys.executable, "-S", "-c", SHOW], variables)
    found["child"] = outcome_of(start)
    """,
        check=_same_confinement,
    ),
    Probe(
        "types into the terminal",
        "34",
        "opens /dev/tty and pushes characters into every terminal it holds (TIOCSTI)",
        "no terminal, a session of its own",
        """
        import fcntl, os, termios
        attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR))
        attempt("console", lambda: os.open("/dev/console", os.O_RDWR))
        for number in range(16):
            attempt(f"push {number}", lambda: fcntl.ioctl(number, termios.TIOCSTI, b"x"))
            attempt(f"take {number}", lambda: fcntl.ioctl(number, termios.TIOCSCTTY, 1))
        """,
        check=refused("tty", "push 0", "push 2", "take 0"),
    ),
    Probe(
        "last to be killed",
        "own",
        "lowers its score with the kernel's out-of-memory killer below the orchestrator's",
        "the kernel: not below what it was before the sandbox raised it; and another user's cannot be opened",
        """
        import os
        score = "/proc/self/oom_score_adj"
        found["raised"] = int(open(score).read())
        for value in ("1", "0", "-500", "-1000"):
            for path in (score, "/proc/1/oom_score_adj", f"/proc/{os.getppid()}/oom_score_adj"):
                try:
                    with open(path, "w") as file: file.write(value)
                except OSError: pass
        found["lowered"] = int(open(score).read())
        """,
        check=_not_behind_us,
    ),
)
