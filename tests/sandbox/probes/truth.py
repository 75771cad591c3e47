"""Probes that lie about how good they are: forged measurements, a tampered runner, a false clock, empty answers.

The last four run under the evaluator's own worker. Its static gate, which would refuse most of these programs, is left
out on purpose: it is there to give quick advice, and nothing rests on it.
"""

from __future__ import annotations

import textwrap

from evaluator import catalogue
from evaluator.trial import TrialResult, score_trial, trial_phases
from sandbox.protocol import Limits
from tests.sandbox.probes.conversations import REQUEST
from tests.sandbox.probes.probe import COMPLETED, Evidence, Probe, failed

TRAINED = {
    **{"type": "done", "phase": "train", "parameters": 1, "mixer_parameters": 1, "mlp_hidden": 1, "learning_rate": 1},
    **{"runs": 1, "peak_memory_bytes": 1, "execution": {"device": "fast"}},
    **{"score": 1.0, "accuracy": 1.0, "curve_score": 1.0, "final_score": 1.0, "loss": 0.0, "train_tokens_per_s": 1e15},
}
ANSWERS = f"""
    import math, time
    sleep = time.sleep
    for name in ("time", "monotonic", "perf_counter"): setattr(time, name, lambda: 0.0)
    sleep(0.3)
    send({TRAINED!r})
    for phase, shapes in asked["replies"]:
        receive()
        put(frame(3, tensors({{name: ("F32", shape, VALUE * math.prod(shape)) for name, shape in shapes.items()}})))
    os._exit(0)
"""


def _scored(evidence: Evidence) -> TrialResult:
    return score_trial(REQUEST, evidence.outcome.replies, evidence.outcome.phase_wall_s)


def _worth_nothing(evidence: Evidence) -> None:
    result = _scored(evidence)
    assert (result.score or 0.0) < 0.1
    assert result.metrics["accuracy"] < 0.5
    assert result.metrics["loss"] > 1.0


def _own_clock(evidence: Evidence) -> None:
    _worth_nothing(evidence)
    assert evidence.outcome.phase_wall_s[0] >= 0.3
    assert _scored(evidence).metrics["train_tokens_per_s"] < 1e9


def _not_finite(evidence: Evidence) -> None:
    result = _scored(evidence)
    assert (result.status, result.reason, result.score) == ("invalid", "non_finite", None)


def _honest(evidence: Evidence) -> None:
    """It completed, and what it is worth was computed from its answers."""
    result = _scored(evidence)
    assert result.score is None or result.score < 0.9
    assert result.metrics["accuracy"] < 0.95
    assert result.metrics["train_tokens_per_s"] < 1e9
    assert result.metrics["parameters"] == 1  # a claim, stored as one


_BUILD = "\ndef build_mixer(d_model, layer_index, n_layers):\n"

TAMPERING = """
import json, math, sys, time
import numpy, torch
from evaluator import channel, trainer, worker
send = channel.Channel.send_control
def boast(self, message):
    extra = {"score": 1.0, "accuracy": 1.0, "train_tokens_per_s": 1e15, "parameters": 1}
    return send(self, {**message, **(extra if message["type"] == "done" else {})})
channel.Channel.send_control = boast
trainer.LossWatch.close = lambda self: None
trainer._LEAST_GAIN = -1.0
numpy.isfinite = lambda values: numpy.ones_like(values, dtype=bool)
torch.isfinite = lambda values: torch.ones_like(values, dtype=torch.bool)
math.isfinite = lambda value: True
for name in ("time", "monotonic", "perf_counter"): setattr(time, name, lambda: 0.0)
"""

_LOGITS = next(spec.shape for spec in trial_phases("", REQUEST)[1].reply or ())
IN_ITS_PLACE = f"""
import gc, os
import numpy
from evaluator import channel, wire
line = next(one for one in gc.get_objects() if isinstance(one, channel.Channel))
line.send_control({TRAINED!r})
from safetensors.numpy import load
for phase in ("blind", "predict", "audit"):
    inputs = load(line.receive(wire.FrameKind.ARRAYS))
    if phase == "audit":
        shapes = {{name.replace("prefix", "logits"): (each.shape[0], {_LOGITS[-1]}) for name, each in inputs.items()}}
    else:
        shapes = {{"logits": ({_LOGITS[0]}, inputs["tokens"].shape[0], inputs["columns"].size, {_LOGITS[-1]})}}
    zeros = {{name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}}
    line.send(wire.arrays(zeros))
os._exit(0)
"""

TRUTH = (
    Probe(
        "forged measurements",
        "21",
        "claims a perfect score, no loss and no parameters, and answers with zeros",
        "metrics are computed on the host, against labels that never entered",
        ANSWERS.replace("VALUE", "bytes(4)"),
        check=_worth_nothing,
        conversation="trial",
        pure=True,
        fast=True,
    ),
    Probe(
        "claims to be fast",
        "own",
        "stops its own clocks and reports a speed",
        "times are the host's, between frames",
        ANSWERS.replace("VALUE", "bytes(4)"),
        check=_own_clock,
        conversation="trial",
        pure=True,
    ),
    Probe(
        "flood of NaN",
        "own",
        "answers with nothing but NaN",
        "a value that is not finite is a status, never a number",
        ANSWERS.replace("VALUE", r"b'\x00\x00\xc0\x7f'"),
        check=_not_finite,
        conversation="trial",
        pure=True,
    ),
    Probe(
        "tampers with its runner",
        "own",
        "replaces parts of the evaluator, json, NumPy, PyTorch and the clock in its own process",
        "nothing in the worker's process is trusted; the host computes from predictions",
        TAMPERING
        + textwrap.dedent(catalogue.source("short_convolution")).replace("from __future__", "# from __future__"),
        check=_honest,
        conversation="evaluator",
        limits=Limits(),
    ),
    Probe(
        "GPU memory hog",
        "own",
        "takes all of a GPU's memory when it is built",
        "a job that asked for no GPU sees none; without one it is an ordinary failure",
        "import torch" + _BUILD + "    return torch.empty(1 << 40, dtype=torch.uint8, device='cuda')\n",
        failed("exception", "out_of_memory", "build_failed"),
        conversation="evaluator",
        limits=Limits(),
    ),
    Probe(
        "memory bomb of tensors",
        "own",
        "keeps 2 GiB of tensors where 1 is allowed",
        "the memory control group, or RLIMIT_AS",
        "import torch\nhoard = [torch.ones(16 << 20) for _ in range(32)]\n" + _BUILD + "    return None\n",
        failed("out_of_memory"),
        conversation="evaluator",
        limits=Limits(memory_bytes=1 << 30),
    ),
    Probe(
        "answers in the runner's place",
        "own",
        "finds the runner's channel, says that it has trained, and answers every question with zeros",
        "no label is inside: an answer that was not learnt is worth what guessing is",
        IN_ITS_PLACE,
        COMPLETED,
        _worth_nothing,
        conversation="evaluator",
        limits=Limits(),
    ),
)
