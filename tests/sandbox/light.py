"""A worker of a few lines that speaks the protocol without importing PyTorch, for programs that try a sandbox.

It is started by the backend itself, with the same confinement as the evaluator's worker.
"""

import asyncio
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.wire import Frame, FrameKind, control
from sandbox.bubblewrap import BubblewrapSandbox
from sandbox.containers import open_docker
from sandbox.errors import SandboxUnavailable
from sandbox.landlock import LandlockSandbox
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, Limits

RECEIVE = """\
def read(count):
    data = b""
    while len(data) < count:
        piece = os.read(listening, count - len(data))
        if not piece: os._exit(2)
        data += piece
    return data
def receive():
    _, length = struct.unpack("<IQ", read(12))
    return read(length)
"""

LIGHT_WORKER = f"""
import json, os, struct
protocol, listening = os.dup(1), os.dup(0)
os.dup2(2, 1)
def send(message):
    text = json.dumps(message).encode()
    os.write(protocol, struct.pack("<IQ", 1, len(text)) + text)
{RECEIVE}
send({{"type": "hello", "protocol": {PROTOCOL_VERSION}}})
receive()
scope = {{"found": {{}}, "protocol": protocol, "send": send}}
exec(receive().decode(), scope)
send({{"type": "done", "phase": "only", "found": scope["found"]}})
os._exit(0)
"""

BACKENDS = [
    "process",
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param("landlock", marks=pytest.mark.landlock),
    pytest.param("docker", marks=pytest.mark.docker),
]
ISOLATED = BACKENDS[1:]


def opened(level):
    """The backend, or a skip that says why not."""
    try:
        openers = {"process": ProcessSandbox, "bubblewrap": BubblewrapSandbox, "landlock": LandlockSandbox}
        return {**openers, "docker": open_docker}[level]()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))


def python_in(sandbox):
    return "python3" if sandbox.level == "docker" else sys.executable


def light(sandbox, token="light"):
    """`sandbox` with the light worker; `token` in its command line makes it visible from the host."""
    return sandbox.with_command((python_in(sandbox), "-c", LIGHT_WORKER, token))


def job(program, *, timeout_s=20.0, **limits):
    frames = (control({"type": "job"}), Frame(FrameKind.PROGRAM, textwrap.dedent(program).encode()))
    return Job("contract", (Phase("only", frames, None, timeout_s),), Limits(**limits))


def running(token):
    """Processes of the host, those inside sandboxes included, whose command line holds `token`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and token.encode() in entry.joinpath("cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


async def gone(token, within_s=5.0):
    ends = time.monotonic() + within_s
    while running(token) and time.monotonic() < ends:
        await asyncio.sleep(0.02)
    return not running(token)
