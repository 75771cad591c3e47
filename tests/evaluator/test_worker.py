"""The worker over real pipes: a whole trial and a gates job, failures of every kind, and a copy of evaluator/ alone."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluator.gating import gate_phases, read_gate_reply
from evaluator.phases import PROGRESS_PER_PHASE, PROTOCOL_VERSION
from evaluator.trial import TrialRequest, TrialResult, score_trial, trial_phases
from evaluator.wire import control, read_control

ROOT = Path(__file__).resolve().parents[2]
REQUEST = TrialRequest("sequence", "micro", "memorisation", seed=0)
CONVOLUTION = """
import torch
from torch import nn
import torch.nn.functional as F

class Convolution(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d, 1, 3) / 2)
        self.out = nn.Linear(d, d)
    def forward(self, x):
        y = F.conv1d(F.pad(x.transpose(1, 2), (2, 0)), self.weight, groups=x.shape[-1])
        print("a line for the log")
        return self.out(y.transpose(1, 2))EXTRA

def build_mixer(d_model, layer_index, n_layers):
    return Convolution(d_model)
"""
HONEST = CONVOLUTION.replace("EXTRA", "")
# Passes every gate: their batches have at most eight rows, evaluation has sixty-four.
LEAK_IN_BIG_BATCHES = CONVOLUTION.replace(
    "EXTRA", " + (x.mean(1, keepdim=True) if len(x) > 32 and not self.training else 0)"
)


def trial(play: Callable, source: str, request: TrialRequest = REQUEST) -> TrialResult:
    played = play(trial_phases(source, request))
    assert played.failed is None
    assert played.exit_code == 0
    return score_trial(request, played.replies, played.walls)


def test_the_folder_alone_runs_a_trial_and_its_gates(play: Callable, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "evaluator", tmp_path / "evaluator", ignore=shutil.ignore_patterns("__pycache__"))
    played = play(trial_phases(HONEST, REQUEST), cwd=tmp_path)
    assert played.failed is None
    assert played.hello["type"] == "hello"
    assert played.hello["protocol"] == PROTOCOL_VERSION
    assert played.hello["threads"] == 1
    assert 0 < len(played.progress) <= PROGRESS_PER_PHASE
    assert "a line for the log" in played.log
    result = score_trial(REQUEST, played.replies, played.walls)
    assert result.status == "ok"
    assert result.curve[-1]["accuracy"] > 3 * result.curve[0]["accuracy"]
    assert 0 < result.score < result.metrics["normalised_accuracy"]
    gates = play(gate_phases(HONEST, track="sequence", tier="micro"), cwd=tmp_path)
    assert read_gate_reply(gates.replies[0]).accepted


def test_two_runs_of_a_trial_agree_to_the_last_bit(play: Callable) -> None:
    first, second = trial(play, HONEST), trial(play, HONEST)
    drop = {"peak_memory_bytes"}
    assert first.curve == second.curve
    assert {k: v for k, v in first.metrics.items() if k not in drop} == {
        k: v for k, v in second.metrics.items() if k not in drop
    }


def test_a_program_that_draws_random_numbers_is_the_same_program_in_every_phase(play: Callable) -> None:
    source = "import random\nAT_TOP = random.gauss(1.0, 0.3)\n" + HONEST.replace(
        "self.out =", "self.factor = random.gauss(AT_TOP, 0.3)\n        self.out ="
    ).replace(
        "self.out(y.transpose(1, 2))", "self.out(y.transpose(1, 2)) * self.factor * AT_TOP"
    )  # the factors are no parameters: nothing but the seed brings them back
    assert source.count("AT_TOP") == 3
    assert source.count("self.factor") == 2
    played = [play(trial_phases(source, REQUEST)) for _ in range(2)]
    results = [score_trial(REQUEST, one.replies, one.walls) for one in played]
    assert [result.status for result in results] == ["ok", "ok"]
    assert results[0].curve == results[1].curve
    for first, second in zip(played[0].replies[1:], played[1].replies[1:], strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_leak_that_the_gates_cannot_see_fails_the_audit(play: Callable) -> None:
    gates = play(gate_phases(LEAK_IN_BIG_BATCHES, track="sequence", tier="micro"))
    assert read_gate_reply(gates.replies[0]).accepted
    request = TrialRequest("sequence", "micro", "recall", seed=0)
    result = trial(play, LEAK_IN_BIG_BATCHES, request)
    assert (result.status, result.reason, result.score) == ("invalid", "future_dependent", None)


@pytest.mark.parametrize(
    ("extra", "reason", "line"),
    [
        (" / 0 * torch.zeros(3)[7]", "exception", 14),
        (" * float('nan')", "diverged", None),
        ("[:, 1:]", "wrong_shape", None),
        (" + exit(3)", "exception", 14),
        (" + torch.zeros(1 << 44)", "out_of_memory", 14),
    ],
)
def test_what_a_program_does_wrong_becomes_a_failed_frame(
    play: Callable, extra: str, reason: str, line: int | None
) -> None:
    played = play(trial_phases(CONVOLUTION.replace("EXTRA", extra), REQUEST))
    assert played.failed is not None
    assert (played.failed["reason"], played.failed["line"]) == (reason, line)
    assert played.failed["phase"] == "train"
    assert len(played.failed["traceback"]) <= 8 * 1024
    assert played.exit_code == 1


def test_a_failure_in_evaluation_names_its_phase(play: Callable) -> None:
    source = CONVOLUTION.replace("EXTRA", " + (0 if len(x) < 40 else None)")  # evaluation alone has so many rows
    played = play(trial_phases(source, REQUEST))
    assert played.failed["phase"] == "blind"
    assert "line 14 of the program" in played.failed["message"]


def test_a_job_that_makes_no_sense_is_not_blamed_on_the_program(play: Callable) -> None:
    phase = gate_phases(HONEST, track="sequence", tier="micro")[0]
    job = read_control(phase.send[0].payload) | {"tier": "huge"}
    with pytest.raises(EOFError, match="micro, smoke, standard"):
        play((replace(phase, send=(control(job), phase.send[1])),))


def test_a_host_of_another_protocol_is_refused_before_its_program_is_read(play: Callable) -> None:
    phase = trial_phases(HONEST, REQUEST)[0]
    job = read_control(phase.send[0].payload) | {"protocol": PROTOCOL_VERSION + 1}
    with pytest.raises(EOFError, match=f"protocol {PROTOCOL_VERSION + 1}, this worker {PROTOCOL_VERSION}"):
        play((replace(phase, send=(control(job), phase.send[1])),))


def test_a_worker_whose_host_is_gone_ends(play: Callable) -> None:
    played = play(())
    assert played.hello["type"] == "hello"
    assert played.exit_code == 2
