"""Probes that reach for other processes: on the network, by signals, by outliving their job."""

from __future__ import annotations

import socket

from tests.sandbox.probes.probe import COMPLETED, Evidence, Probe, failed, refused


def answers_abstract(token: str) -> bool:
    """Whether somebody listens on the host's abstract socket of that name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(f"\0move37-{token}")
        except OSError:
            return False
    return True


def _untouched(evidence: Evidence) -> None:
    assert evidence.found["orchestrator"] == "unreachable"


def _replaced(evidence: Evidence) -> None:
    assert "exited with code 0" in evidence.outcome.message
    assert "another program" in evidence.outcome.log


PROCESSES = (
    Probe(
        "calls home",
        "11",
        "connects to the host's listeners on every address of the host, to the metadata address, by name, by datagram",
        "an empty network namespace, and no socket but AF_UNIX",
        """
        import socket
        def call(address): socket.create_connection(address, 0.3)
        for address in (*asked["addresses"], "127.0.0.1", "172.17.0.1", "10.0.2.2"):
            attempt("tcp " + address, lambda: call((address, asked["tcp"])))
            attempt("udp " + address, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
                b"x", (address, asked["udp"])))
        attempt("metadata", lambda: call(("169.254.169.254", 80)))
        attempt("IPv6", lambda: socket.create_connection(("::1", asked["tcp"]), 0.3))
        attempt("engine", lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"))
        attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + asked["abstract"]))
        attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
        """,
        check=refused("tcp 127.0.0.1", "udp 127.0.0.1", "metadata", "engine", "abstract"),
        fast=True,
    ),
    Probe(
        "asks for names",
        "own",
        "resolves names through the system's resolver",
        "no socket to ask with",
        """
        import socket
        for name in ("example.com", "metadata.google.internal"):
            attempt(name, lambda: socket.getaddrinfo(name, 80))
        """,
        check=refused("example.com"),
        timeout_s=10.0,
    ),
    Probe(
        "listens for the host",
        "own",
        "listens on an abstract socket, for somebody outside to meet it there",
        "an empty network namespace, which abstract names belong to, or Landlock's scope and the filter",
        """
        import socket, time
        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind("\\0move37-" + asked["token"])
            listener.listen(8)
        except OSError as error: note(refused=error.errno)
        time.sleep(0.5)
        """,
        meanwhile=answers_abstract,
    ),
    Probe(
        "kills its keepers",
        "15",
        "sends SIGKILL to everything, the first process, its parent and its group",
        "its own process tree, or another user id, or Landlock's scope; the host's deadline",
        """
        import os, signal
        try:
            os.kill(asked["orchestrator"], 0)
            note(orchestrator="reachable")
        except OSError: note(orchestrator="unreachable")
        for target in (-1, 1, os.getppid()):
            try: os.kill(target, signal.SIGKILL)
            except OSError: pass
        """,
        COMPLETED | failed("exception"),
        _untouched,
        fast=True,
    ),
    Probe(
        "signal storm",
        "own",
        "thousands of signals of every kind to its parent, the first process, its group and everybody",
        "its own process tree, or another user id, or Landlock's scope; the host's deadline",
        """
        import os, signal
        try:
            os.kill(asked["orchestrator"], 0)
            note(orchestrator="reachable")
        except OSError: note(orchestrator="unreachable")
        kinds = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD]
        for kind in kinds: signal.signal(kind, signal.SIG_IGN)
        for _ in range(1000):
            for target in (os.getppid(), 1, 0, -1):
                for kind in kinds:
                    try: os.kill(target, kind)
                    except OSError: pass
        """,
        COMPLETED | failed("exception"),
        _untouched,
    ),
    Probe(
        "daemon",
        "22",
        "forks twice and leaves its session, to go on after the job",
        "the process tree goes with its first process; a control group; a launcher that adopts orphans",
        """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in range(1, 65):
                    try: signal.signal(number, signal.SIG_IGN)
                    except (OSError, ValueError): pass
                while True: time.sleep(1)
            os._exit(0)
        """,
        fast=True,
    ),
    Probe(
        "daemons that breed",
        "own",
        "leaves processes that fork, end and fork again while the job is being ended",
        "a control group or process tree is ended as a whole",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            ends = time.monotonic() + 20
            while time.monotonic() < ends:
                try:
                    if os.fork(): os._exit(0)
                    os.setsid()
                except OSError: time.sleep(0.001)
            os._exit(0)
        time.sleep(0.2)
        """,
    ),
    Probe(
        "another program in its place",
        "own",
        "replaces the worker by another program, which ends well",
        "an exit is never success: only a valid answer is",
        """
        import os, sys
        os.execv(sys.executable, [sys.executable, "-c", "print('another program', flush=True)"])
        """,
        failed("exception"),
        _replaced,
        pure=True,
    ),
)
