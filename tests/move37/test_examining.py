"""`gates`, `evaluate`, `tasks`: any file, as a user would try it; real gates and trainings in the process sandbox."""

import json
from pathlib import Path

import pytest

from evaluator import catalogue
from evaluator.objective import objective_hash
from tests.move37.conftest import Cli

UNSAFE = ("--sandbox", "process", "--accept-unsafe")

# A published mixer that is not among the references: minGRU (Feng et al. 2024, arXiv 2410.01201), as a loop.
MIN_GRU = '''
"""minGRU: a gated recurrence whose gate and candidate do not read the state."""
import torch
from torch import nn


class MinGRU(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_model)
        self.candidate = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        z, h = torch.sigmoid(self.gate(x)), self.candidate(x)
        state, states = torch.zeros_like(x[:, 0]), []
        for z_t, h_t in zip(z.unbind(1), h.unbind(1)):
            state = (1 - z_t) * state + z_t * h_t
            states.append(state)
        return self.out(torch.stack(states, dim=1))


def build_mixer(d_model, layer_index, n_layers):
    return MinGRU(d_model)
'''


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "it's mine & new.py"
    path.write_text(MIN_GRU)
    return path


def test_a_program_that_is_fine_is_accepted(cli: Cli, program: Path) -> None:
    answer = cli.json("gates", str(program), *UNSAFE, "--tier", "micro")
    assert answer["accepted"] is True
    assert (answer["reason"], answer["line"]) == ("ok", None)
    assert [v["gate"] for v in answer["verdicts"]][:5] == ["text", "syntax", "contract", "imports", "identity"]
    assert all(v["passed"] for v in answer["verdicts"])
    assert answer["cost"]["length_exponent"] == pytest.approx(1.0, abs=0.1)
    assert isinstance(answer["warnings"], list)


@pytest.mark.parametrize(
    ("text", "gate", "reason", "line"),
    [
        ("def build_mixer(d_model, layer_index, n_layers:\n", "syntax", "does_not_parse", 1),
        ("import os\n" + MIN_GRU, "imports", "import_not_allowed", 1),
        (MIN_GRU.replace("build_mixer", "build"), "contract", "contract_missing", None),
        (
            MIN_GRU.replace("self.out(torch.stack(states, dim=1))", "self.out(x.flip(1))"),
            "causality",
            "not_causal",
            None,
        ),
        ("\x00", "text", "nul_byte", 1),
    ],
)
def test_a_bad_program_is_rejected_with_reason_line_and_exit_code_one(
    cli: Cli, tmp_path: Path, text: str, gate: str, reason: str, line: int | None
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    answer = json.loads(cli("gates", str(path), *UNSAFE, "--tier", "micro", "--json", expect=1).stdout)
    assert (answer["accepted"], answer["reason"], answer["verdicts"][-1]["gate"]) == (False, reason, gate)
    assert answer["message"].endswith(".")
    if line is not None:
        assert answer["line"] == line


@pytest.mark.thorough
def test_a_limit_on_complexity_refuses_attention_and_not_a_recurrence(cli: Cli, tmp_path: Path, program: Path) -> None:
    attention = tmp_path / "attention.py"
    attention.write_text(catalogue.source("softmax_attention"))
    arguments = (*UNSAFE, "--tier", "micro", "--max-exponent", "1.3")
    refused = json.loads(cli("gates", str(attention), *arguments, "--json", expect=1).stdout)
    assert refused["reason"] == "too_complex"
    assert cli("gates", str(program), *arguments).returncode == 0


def test_a_copy_of_a_reference_is_called_one(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a copy.py"
    path.write_text("# mine\n" + catalogue.source("mlp"))
    shown = cli("gates", str(path), *UNSAFE, "--tier", "micro").stdout
    assert "reference mlp" in shown
    assert "accepted" in shown


def test_evaluate_prints_ladder_cost_scores_and_references(cli: Cli, program: Path) -> None:
    shown = cli(
        "evaluate", str(program), *UNSAFE, "--tier", "micro", "--tasks", "recall,memorisation", "--seeds", "0",
        "--against", "mlp",
    ).stdout  # fmt: skip
    for word in ("causality", "accepted", "cost", "recall", "all ranking tasks", "mlp", "not a claim"):
        assert word in shown


@pytest.mark.thorough
def test_evaluate_json_holds_every_number_behind_the_table(cli: Cli, program: Path) -> None:
    data = cli.json(
        "evaluate", str(program), *UNSAFE, "--tier", "micro", "--tasks", "recall:length=20,byte_lm", "--seeds", "0,1",
        "--no-cost",
    )  # fmt: skip
    assert data["ok"] is True
    assert data["tasks"] == ["recall:length=20", "byte_lm"]
    assert data["ranking_tasks"] == ["recall:length=20"]
    assert data["objective_hash"] == objective_hash("sequence", "micro", data["tasks"], [0, 1])
    assert len(data["trials"]) == 4
    scores = data["scores"]["recall:length=20"]
    assert scores["n"] == 2
    assert set(scores["per_seed"]) == {"0", "1"}
    assert scores["low"] <= scores["mean"] <= scores["high"]
    assert data["composite"]["mean"] == pytest.approx(scores["mean"])
    assert all(0 < t["metrics"]["bits_per_byte"] < 8.5 for t in data["trials"] if t["task"] == "byte_lm")
    assert data["cost"] is None


@pytest.mark.thorough
def test_a_sweep_counts_all_its_runs_and_scores_the_best_of_them(cli: Cli, program: Path) -> None:
    data = cli.json(
        "evaluate", str(program), *UNSAFE, "--tier", "micro", "--tasks", "memorisation", "--seeds", "0",
        "--learning-rates", "1e-4,1e-2", "--no-cost",
    )  # fmt: skip
    metrics = data["trials"][0]["metrics"]
    assert (metrics["runs"], metrics["learning_rate"]) == (2, 1e-2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tasks", "sorting"), "selective_copying"),
        (("--tasks", "mqar:length=3"), "length"),
        (("--tasks", "mqar:colour=3"), "pairs"),
        (("--seeds", "one"), "--seeds takes numbers"),
        (("--seeds", "0,0"), "twice"),
        (("--tier", "huge"), "standard"),
        (("--against", "nobody"), "softmax_attention"),
        (("--learning-rates", "-1"), "--learning-rates"),
        (("--sandbox", "cardboard"), "bubblewrap"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(cli: Cli, program: Path, arguments: tuple[str, ...], said: str) -> None:
    done = cli("evaluate", str(program), "--accept-unsafe", *arguments, expect=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_a_usage_error(cli: Cli) -> None:
    assert "cannot read the program" in cli("gates", "nowhere.py", expect=2).stderr


def test_a_tier_that_needs_a_gpu_says_so_where_there_is_none(cli: Cli, program: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    for command in (("evaluate", str(program), *UNSAFE), ("run", "--sandbox", "process")):
        said = cli(*command, "--tier", "full", expect=4).stderr
        assert "needs a GPU" in said
        assert "smoke" in said


def test_tasks_lists_sizes_and_axes(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli.json("tasks")}
    assert {
        "recall", "noisy_recall", "fuzzy_recall", "selective_copying", "compression", "memorisation", "mqar",
        "state_tracking", "byte_lm", "token_lm",
    } <= set(rows)  # fmt: skip
    assert rows["mqar"]["tiers"][0].keys() >= {"tier", "steps", "ranks", "sizes"}
    assert "pairs" in rows["mqar"]["axes"]
    assert rows["byte_lm"]["measure"] == "bits_per_byte"
    shown = cli("tasks").stdout
    assert "mqar" in shown
    assert "AXIS=VALUE" in shown
