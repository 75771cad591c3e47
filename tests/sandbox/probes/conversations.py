"""How probes are run: the light worker, and the phases of a job for each kind of conversation.

The light worker is a few lines that speak the protocol without importing PyTorch, started by the same backend under the
same confinement as the evaluator's worker. The program is executed inside it, with these names in scope:

    asked               where the host's things are (see `bench.py`), and the replies that later phases expect
    found, note, attempt    how to say what it found
    protocol, listening     file descriptors to and from the host
    put, frame, message, tensors, send, receive     the wire
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.trial import TrialRequest, trial_phases
from evaluator.wire import ArraySpec, Frame, FrameKind, arrays, control
from sandbox.protocol import Job, Limits
from tests.sandbox.light import RECEIVE
from tests.sandbox.probes.probe import NOTE, Probe

REQUEST = TrialRequest("sequence", "micro", "recall", 0)
LOGITS = ArraySpec("logits", "float32", (4, 8))
EVALUATOR_START_S = 60.0
LIGHT_START_S = 10.0
DEAF_START_S = 3.0  # nobody reads: what ends the job is its own deadline

LIGHT_WORKER = f"""
import json, os, struct
protocol, listening = os.dup(1), os.dup(0)
os.dup2(2, 1)
def put(data):
    while data: data = data[os.write(protocol, data):]
def frame(kind, payload): return struct.pack("<IQ", kind, len(payload)) + payload
def message(content): return frame(1, json.dumps(content).encode())
def send(content): put(message(content))
def tensors(entries):
    header, body = {{}}, b""
    for name, (dtype, shape, data) in entries.items():
        header[name] = {{"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
{RECEIVE}
def note(**facts): os.write(2, b"\\n{NOTE}" + json.dumps(facts).encode() + b"\\n")
found = {{}}
def attempt(name, action):
    try: found.setdefault("reached", {{}})[name] = repr(action())[:200]
    except Exception as error: found.setdefault("refused", {{}})[name] = repr(error)[:200]
    found.setdefault("reached", {{}})
send({{"type": "hello", "protocol": {PROTOCOL_VERSION}}})
asked = json.loads(receive())["asked"]
exec(receive().decode(), globals())
send({{"type": "done", "phase": asked["phase"], "found": found}})
os._exit(0)
"""


def job(probe: Probe, asked: dict[str, Any]) -> Job:
    """The job of `probe`; `asked` is what its program is told."""
    return Job("probe", phases(probe, asked), probe.limits)


def start_s(probe: Probe) -> float:
    """How long a worker may take to start, on a busy machine: what a job's deadline allows beside its phases."""
    return {"evaluator": EVALUATOR_START_S, "deaf": DEAF_START_S}.get(probe.conversation, LIGHT_START_S)


def harmless() -> Probe:
    """Shows that a sandbox still works."""
    program = "found['sum'] = sum(range(10))"
    return Probe("harmless", "own", "nothing", "nothing", program, limits=Limits(start_timeout_s=30.0))


def phases(probe: Probe, asked: dict[str, Any]) -> tuple[Phase, ...]:
    program = textwrap.dedent(probe.program)
    if probe.conversation == "evaluator":
        return trial_phases(program, REQUEST)
    later = _later(probe)
    first = "train" if probe.conversation == "trial" else "only"
    replies = [[phase.name, {spec.name: list(spec.shape) for spec in phase.reply or ()}] for phase in later]
    told = control({"type": "job", "asked": {**asked, "phase": first, "replies": replies}})
    sent = (told, Frame(FrameKind.PROGRAM, program.encode()))
    reply = (LOGITS,) if probe.conversation == "arrays" else None
    return (Phase(first, sent, reply, probe.timeout_s), *later)


def _later(probe: Probe) -> tuple[Phase, ...]:
    match probe.conversation:
        case "two":
            return (Phase("second", (control({"type": "secret"}),), None, probe.timeout_s),)
        case "deaf":
            return (Phase("second", (arrays({"tokens": np.zeros(8 << 20, np.uint8)}),), None, probe.timeout_s),)
        case "trial":
            return trial_phases("", REQUEST)[1:]
    return ()
