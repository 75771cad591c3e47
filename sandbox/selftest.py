"""What a sandbox must show before it is used: that it holds, and that the worker starts in it.

A flag that was accepted is not a limit that works (a rootless engine takes a memory limit and ignores it), so each
promise that a start-up can afford is tried: the network, a file of the host, the orchestrator's environment, writing
to the root, the identity, the memory limit. A second in all. Not a penetration test: a sandbox that passes holds
against these.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from evaluator.phases import PROTOCOL_VERSION
from sandbox.errors import SandboxUnavailable
from sandbox.protocol import Job, JobOutcome, Limits, Sandbox

_CANARY = "MOVE37_SELF_TEST"
_MEMORY_LIMIT = 192 << 20

# Runs inside in place of the worker, without any of our modules: one greeting that carries what it could do.
_PROBE = """
import glob, json, os, socket, struct, sys
asked = json.loads(sys.argv[1])
broken = []
def attempt(what, action):
    try:
        if action() is not False: broken.append(what)
    except OSError: pass
def environments():
    texts = [repr(dict(os.environ)).encode()]
    for name in glob.glob("/proc/[0-9]*/environ"):
        try: texts.append(open(name, "rb").read())
        except OSError: pass
    return any(asked["canary"].encode() in text for text in texts)
def allocate():
    try: return len(bytearray(os.urandom(1)) * asked["memory"]) > 0
    except MemoryError: return False
if asked["memory"]:
    attempt("memory beyond the limit can be had", allocate)
else:
    attempt("the network is reachable", lambda: socket.create_connection(("127.0.0.1", asked["port"]), 2))
    attempt("a file of the host is readable", lambda: open(asked["file"]))
    attempt("the orchestrator's environment is readable", environments)
    attempt("the root file system is writable", lambda: open("/self-test", "w"))
    attempt("the program is root", lambda: os.getuid() == 0)
text = json.dumps({"type": "hello", "protocol": asked["protocol"], "broken": broken}).encode()
os.write(1, struct.pack("<IQ", 1, len(text)) + text)
"""


class Testable(Sandbox, Protocol):
    """A sandbox that can run another command in place of the worker, under the same confinement."""

    def with_command(self, command: Sequence[str]) -> Self:
        """The same sandbox with another command; shares whatever the original holds."""


async def self_test(sandbox: Testable, *, python: str) -> None:
    """Tries `sandbox`. `python` is the interpreter's name inside.

    Raises:
        SandboxUnavailable: a promise is broken, or the worker does not start. Says which.
        ProtocolMismatch: the worker is of another version.
    """
    tests = [sandbox.run(Job("self-test", ()))]
    with _within_reach() as (port, file, canary):
        if sandbox.isolated:
            asked: dict[str, Any] = {"port": port, "file": file, "canary": canary, "protocol": PROTOCOL_VERSION}
            for memory in (0, 2 * _MEMORY_LIMIT):
                command = (python, "-I", "-c", _PROBE, json.dumps({**asked, "memory": memory}))
                limits = Limits(memory_bytes=_MEMORY_LIMIT, start_timeout_s=30.0)
                tests.append(sandbox.with_command(command).run(Job("self-test", (), limits)))
        # All are waited for, whatever one of them raises: the caller may then close the sandbox.
        found = await asyncio.gather(*tests, return_exceptions=True)
    outcomes: list[JobOutcome] = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        outcomes.append(each)
    greeting, *probes = outcomes
    if not greeting.completed:
        raise _unusable(sandbox, f"the worker does not start in it: {greeting.message}")
    for number, probe in enumerate(probes):
        _judge(sandbox, probe, may_be_killed=number == 1)


def _judge(sandbox: Sandbox, probe: JobOutcome, *, may_be_killed: bool) -> None:
    if probe.completed:
        broken = probe.provenance["hello"].get("broken")
        if broken != []:
            raise _unusable(sandbox, f"it does not hold: {broken}")
    elif not (may_be_killed and probe.exit_code in (-9, 137)):
        raise _unusable(sandbox, f"its self-test did not finish: {probe.message}")


def _unusable(sandbox: Sandbox, why: str) -> SandboxUnavailable:
    return SandboxUnavailable(sandbox.level, why, "`move37 doctor` shows what this machine offers.")


@contextmanager
def _within_reach() -> Iterator[tuple[int, str, str]]:
    """A port, a file and a variable that any process of this user could reach without a sandbox."""
    canary = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        Path(directory).chmod(0o755)
        file = Path(directory, "canary")
        file.write_text(canary)
        file.chmod(0o644)
        os.environ[_CANARY] = canary
        try:
            yield listener.getsockname()[1], str(file), canary
        finally:
            del os.environ[_CANARY]
