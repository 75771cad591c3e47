"""The dynamic gates against honest programs and planted cheats: every cheat is caught, by the gate and reason meant."""

import pytest

from evaluator import tiers
from evaluator.errors import UnknownTier, WireError
from evaluator.gates.ladder import run_gates
from evaluator.gates.specimen import Specimen
from evaluator.gating import DYNAMIC_GATES, GateReport, gate_phases, read_gate_reply
from evaluator.phases import MESSAGE_CAP
from evaluator.program import load
from evaluator.wire import control, read_control

HEAD = """
import math
import torch
from torch import nn
import torch.nn.functional as F

class Attention(nn.Module):
    def __init__(self, d, causal=True):
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False), causal
    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).squeeze(1))
"""


def mixer(forward: str, init: str = "pass") -> str:
    """A program with one module; `forward` is the body after `a = self.honest(x)`."""
    body = "\n".join("        " + line for line in forward.strip().splitlines())
    setup = "\n".join("        " + line for line in init.strip().splitlines())
    return f"""{HEAD}
class Mixer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.honest = Attention(d)
{setup}
    def forward(self, x):
        a = self.honest(x)
{body}

def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model)
"""


HONEST = {
    "attention": mixer("return a"),
    "fft_convolution": mixer(
        """
L = x.shape[1]
k = torch.exp(-self.rate.abs() * torch.arange(L, dtype=x.dtype)[:, None])
y = torch.fft.irfft(torch.fft.rfft(x, 2 * L, dim=1) * torch.fft.rfft(k, 2 * L, dim=0), 2 * L, dim=1)[:, :L]
return y
""",
        "self.rate = nn.Parameter(torch.ones(d) * 0.3)",
    ),
    "float32_inside": mixer(
        "return torch.fft.irfft(torch.fft.rfft(a.float(), 256, dim=1), 256, dim=1)[:, :x.shape[1]].to(x.dtype)"
    ),
    "complex_parameters": mixer(
        """
s, out = torch.zeros(x.shape[0], x.shape[2], dtype=self.pole.dtype), []
for t in range(x.shape[1]):
    s = s * torch.sigmoid(self.pole.abs()) + x[:, t]
    out.append(s.real)
return torch.stack(out, dim=1)
""",
        "self.pole = nn.Parameter(torch.randn(d, dtype=torch.complex64))",
    ),
    "compiled": mixer("return a").replace("class Mixer", "@torch.compile\ndef f(x):\n    return x\n\nclass Mixer"),
    "data_dependent": mixer("return a if x.abs().max().item() < 1e30 else a * 0"),
    "mask_cached_in_the_module": HEAD
    + """
CACHE = {}
class Mixer(nn.Module):
    def forward(self, x):
        L = x.shape[1]
        if L not in CACHE:
            CACHE[L] = torch.ones(L, L).tril()
        m = CACHE[L].to(x.dtype)
        return (m / m.sum(-1, keepdim=True)) @ x
def build_mixer(d_model, layer_index, n_layers):
    return Mixer()
""",
    "a_whole_block": HEAD
    + """
class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(d), Attention(d)
    def forward(self, x):
        return x + self.attention(self.norm(x))
def build_block(d_model, layer_index, n_layers):
    return Block(d_model)
""",
}

CUMULATIVE = """
import torch
from torch import nn
class Mixer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.out = nn.Linear(d, d)
    def forward(self, x):
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return self.out(x.cumsum(1) / count)
def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model)
"""

CHEATS = {
    "attends_to_everything": (HEAD + "def build_mixer(d, i, n): return Attention(d, causal=False)", "not_causal"),
    "in_the_second_layer_only": (HEAD + "def build_mixer(d, i, n): return Attention(d, causal=i == 0)", "not_causal"),
    "shift_by_one": (mixer("return a + 1e-3 * F.pad(x, (0, 0, 0, 1))[:, 1:]"), "not_causal"),
    "bidirectional_chunk": (
        mixer(
            """
B, L, D = x.shape
p = F.pad(x, (0, 0, 0, -L % 16)).view(B, -1, 16, D)
return p.mean(2, keepdim=True).expand_as(p).reshape(B, -1, D)[:, :L]
"""
        ),
        "not_causal",
    ),
    "behind_a_gate_that_is_zero_at_first": (
        mixer("return a + self.gate * x.mean(1, keepdim=True)", "self.gate = nn.Parameter(torch.zeros(d))"),
        "not_causal",
    ),
    "only_in_long_sequences": (mixer("return a + (x.mean(1, keepdim=True) if x.shape[1] > 40 else 0)"), "not_causal"),
    "only_in_evaluation": (mixer("return a if self.training else a + x.mean(1, keepdim=True)"), "not_causal"),
    "top_k_over_time": (
        mixer(
            """
score = x.mean(-1)
chosen = score >= score.topk(max(1, x.shape[1] // 2), dim=1).values[:, -1:]
return a * chosen[..., None]
"""
        ),
        "not_causal",
    ),
    "normalised_over_time": (mixer("return a / a.abs().amax(dim=1, keepdim=True)"), "not_causal"),
    "fft_that_wraps": (
        mixer("return torch.fft.irfft(torch.fft.rfft(x, dim=1) * 0.9, n=x.shape[1], dim=1).roll(-1, 1)"),
        "not_causal",
    ),
    "batch_norm": (
        mixer("return self.norm(a.transpose(1, 2)).transpose(1, 2)", "self.norm = nn.BatchNorm1d(d)"),
        "forward_failed",  # it cannot even take a batch of one in train mode
    ),
    "batch_mean": (mixer("return a + x.mean(0, keepdim=True)"), "batch_dependent"),
    "batch_mean_in_evaluation": (
        mixer("return a if self.training else a - x.mean(0, keepdim=True)"),
        "batch_dependent",
    ),
    "state_between_calls": (
        mixer("self.seen = self.seen + 1\nreturn a * self.seen", "self.seen = 0"),
        "stateful",
    ),
    "noise": (mixer("return a + 0.1 * torch.randn_like(a)"), "stateful"),
    "dropout": (mixer("return F.dropout(a, 0.1, self.training)"), "stateful"),
    "wrong_width": (mixer("return a[..., :-1]"), "wrong_shape"),
    "a_tuple": (mixer("return a, None"), "wrong_shape"),
    "shorter_when_long": (mixer("return a[:, :60]"), "wrong_shape"),
    "always_float32": (mixer("return a.float()"), "wrong_dtype"),
    "float64_fails": (mixer("return a + x @ torch.eye(x.shape[-1], dtype=torch.float32)"), "forward_failed"),
    "nan": (mixer("return a / (a - a)"), "non_finite"),
    "gradient_of_sqrt_at_zero": (mixer("return a + torch.sqrt(a * 0)"), "non_finite"),
    "too_large": (mixer("return a", "self.more = nn.Parameter(torch.zeros(100_000))"), "over_budget"),
    "does_not_build": (mixer("return a", "raise ValueError('no such size')"), "fake_build_failed"),
    "does_not_load": ("import torch\nraise ValueError(1)\n", "build_failed"),
    "exits": (mixer("raise SystemExit(0)"), "fake_build_failed"),
    "not_a_module": ("def build_mixer(d, i, n): return 3", "build_failed"),
    "unprintable_error": (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\ndef build_mixer(d, i, n): raise E('\\ud800')",
        "fake_build_failed",
    ),
    "fails_on_one_position": (mixer("return a + 0 * x[:, [1]]"), "forward_failed"),
}


def gates(source: str, tier: str = "smoke") -> GateReport:
    # Through the wire format, as the host would read it.
    return read_gate_reply(read_control(control(run_gates(source, "sequence", tier)).payload))


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass_all_gates(name: str) -> None:
    report = gates(HONEST[name])
    assert report.first_failure is None
    assert report.accepted
    assert [verdict.gate for verdict in report.verdicts] == list(DYNAMIC_GATES)
    assert report.cost is not None
    assert report.cost.parameters > report.cost.mixer_parameters


@pytest.mark.parametrize("name", CHEATS)
def test_planted_cheats_are_caught_for_the_right_reason(name: str) -> None:
    source, reason = CHEATS[name]
    report = gates(source)
    assert not report.accepted
    assert report.cost is None
    assert report.first_failure is not None
    assert report.first_failure.reason == reason
    assert report.first_failure.message.endswith(".")


def test_a_failure_names_the_line_of_the_program() -> None:
    source = mixer("b = 1\nreturn a @ x")
    failure = gates(source).first_failure
    assert source.splitlines()[failure.line - 1].strip() == "return a @ x"


def test_a_leak_is_described_with_position_and_size() -> None:
    failure = gates(CHEATS["only_in_evaluation"][0]).first_failure
    assert failure.gate == "causality"
    assert "eval mode" in failure.message
    assert "position" in failure.message


def test_quadratic_and_linear_programs_are_told_apart() -> None:
    assert gates(HONEST["attention"]).cost.length_exponent > 1.6
    assert gates(CUMULATIVE).cost.length_exponent == pytest.approx(1.0, abs=0.1)


def test_the_job_for_an_unknown_tier_is_a_typed_error() -> None:
    with pytest.raises(UnknownTier, match="micro, smoke, standard"):
        gate_phases("", track="sequence", tier="full")


def test_replies_that_are_not_gate_reports_break_the_wire() -> None:
    good = run_gates(HONEST["attention"], "sequence", "micro")
    verdicts = good["verdicts"]
    for wrong in (
        {},
        good | {"verdicts": []},
        good | {"verdicts": verdicts[:-1]},
        good | {"verdicts": [*verdicts[1:], verdicts[0]]},
        good | {"verdicts": [verdicts[0] | {"reason": "made_up", "passed": False}]},
        good | {"verdicts": [verdicts[0] | {"passed": False}]},
        good | {"verdicts": [verdicts[0] | {"passed": False, "reason": "stateful"}, *verdicts[1:]]},
        good | {"cost": None},
        good | {"cost": good["cost"] | {"parameters": 1.5}},
        good | {"cost": good["cost"] | {"flops_per_token": "0"}},
    ):
        with pytest.raises(WireError):
            read_gate_reply(wrong)


def refusal(**fields: object) -> dict[str, object]:
    """The reply of a container that says what it likes."""
    honest = {"gate": DYNAMIC_GATES[0], "passed": False, "reason": "build_failed", "message": "No.", "line": 3}
    return {"verdicts": [honest | {"detail": {}} | fields], "cost": None}


def test_what_a_container_says_of_a_gate_is_bounded_and_harmless() -> None:
    said = "\x1b[2J\x00\x9b1m\u202e\u2066 \ud800 fine\n" + "x" * 10_000
    verdict = read_gate_reply(refusal(message=said, detail={"outcome": "accepted", "reason": "ok"})).verdicts[0]
    assert len(verdict.message) == MESSAGE_CAP
    assert not set(verdict.message) & set("\x1b\x00\x9b\u202e\u2066\ud800")
    assert "fine\nxxx" in verdict.message
    assert verdict.detail == {}


@pytest.mark.parametrize(("line", "kept"), [(1, 1), (65536, 65536), (65537, None), (0, None), (-1, None), (None, None)])
def test_a_line_that_no_program_has_is_dropped(line: int | None, kept: int | None) -> None:
    assert read_gate_reply(refusal(line=line)).verdicts[0].line == kept


@pytest.mark.parametrize("wrong", [{"reason": "\x1b" * 50_000}, {"gate": "\x1b" * 50_000}, {"\x1b" * 50_000: 1}])
def test_a_refused_gate_reply_is_not_quoted_at_length(wrong: dict[str, object]) -> None:
    with pytest.raises(WireError) as caught:
        read_gate_reply(refusal(**wrong))
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"parameters": -1}, {"flops_per_token": float("nan")}, {"length_exponent": 10**400}])
def test_a_cost_is_made_of_finite_numbers(wrong: dict[str, float]) -> None:
    cost = {"parameters": 1, "mixer_parameters": 1, "mlp_hidden": 1, "flops_per_token": 1.0, "length_exponent": 1.0}
    honest = refusal(passed=True, reason="ok")["verdicts"][0]  # type: ignore[index]
    reply = {"verdicts": [honest | {"gate": gate} for gate in DYNAMIC_GATES], "cost": cost}
    assert read_gate_reply(reply).accepted
    with pytest.raises(WireError):
        read_gate_reply(reply | {"cost": cost | wrong})


DRAWS = """
import random
import torch
from torch import nn
AT_TOP = random.gauss(1.0, 0.5) + float(torch.rand(()))
class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = random.gauss(1.0, 0.5) + AT_TOP
    def forward(self, x):
        return x * self.factor
def build_mixer(d_model, layer_index, n_layers):
    return Drawn()
"""


def test_a_program_that_draws_random_numbers_is_built_the_same_at_every_call() -> None:
    factors = []
    for _ in range(2):
        specimen = Specimen(*load(DRAWS), tiers.get("sequence", "micro"))
        factors += [specimen.layer(0).factor, specimen.layer(0).factor]
    assert len(set(factors)) == 1
    assert specimen.layer(1).factor != factors[0]
