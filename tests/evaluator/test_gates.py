"""The dynamic gates against honest programs and planted ones: each is stopped by the gate and for the reason meant."""

import pytest

from benchmarks.honest import grammar_programs, references
from benchmarks.planted import at
from benchmarks.planted_program import HEAD, Planted, mixer
from evaluator import tiers
from evaluator.cost import growth
from evaluator.errors import UnknownTier, WireError
from evaluator.gates import limits
from evaluator.gates.ladder import run_gates
from evaluator.gates.specimen import Specimen
from evaluator.gating import DYNAMIC_GATES, MAX_WARNINGS, WARNING_CAP, GateReport, gate_phases, read_gate_reply
from evaluator.phases import MESSAGE_CAP
from evaluator.program import load
from evaluator.static_gate import static_gates
from evaluator.wire import control, read_control

HONEST = {
    "attention": mixer("return a"),
    "fft_convolution": mixer(
        """
L = x.shape[1]
k = torch.exp(-self.rate.abs() * torch.arange(L, dtype=x.dtype)[:, None])
y = torch.fft.irfft(torch.fft.rfft(x, 2 * L, dim=1) * torch.fft.rfft(k, 2 * L, dim=0), 2 * L, dim=1)[:, :L]
return a + y
""",
        "self.rate = nn.Parameter(torch.ones(d) * 0.3)",
    ),
    "float32_inside": mixer(
        "return torch.fft.irfft(torch.fft.rfft(a.float(), 2048, dim=1), 2048, dim=1)[:, :x.shape[1]].to(x.dtype)"
    ),
    "complex_parameters": mixer(
        """
s, out = torch.zeros(x.shape[0], x.shape[2], dtype=self.pole.dtype), []
for t in range(x.shape[1]):
    s = s * torch.sigmoid(self.pole.abs()) + x[:, t]
    out.append(s.real)
return a + torch.stack(out, dim=1)
""",
        "self.pole = nn.Parameter(torch.randn(d, dtype=torch.complex64))",
    ),
    "compiled": mixer("return a").replace("class Mixer", "@torch.compile\ndef f(x):\n    return x\n\nclass Mixer"),
    "data_dependent": mixer("return a if x.abs().max().item() < 1e30 else a * 0"),
    "float32_convolution_inside": mixer(
        """
n = 2 * x.shape[1]
decay = torch.exp(-0.2 * torch.arange(x.shape[1]))[:, None]
y = torch.fft.irfft(torch.fft.rfft(x.float(), n, dim=1) * torch.fft.rfft(decay, n, dim=0), n, dim=1)
return a + y[:, :x.shape[1]].to(x.dtype)
"""
    ),
    "half_precision_inside": mixer(
        "return a + (x.bfloat16() @ self.weight.bfloat16()).to(x.dtype)",
        "self.weight = nn.Parameter(torch.randn(d, d) / d ** 0.5)",
    ),
    "last_length_remembered": mixer("self.length = x.shape[1]\nreturn a", "self.length = 0"),
    "a_parameter_in_reserve": mixer("return a", "self.spare = nn.Parameter(torch.zeros(d))"),
    "no_parameters": mixer("return x", "self.honest = nn.Identity()"),
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

SHORT_LIMIT_S = 4.0


def gates(source: str, tier: str = "smoke", max_exponent: float | None = None) -> GateReport:
    # Through the wire format, as the host would read it.
    return read_gate_reply(read_control(control(run_gates(source, "sequence", tier, max_exponent)).payload))


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass_all_gates(name: str) -> None:
    report = gates(HONEST[name])
    assert report.first_failure is None
    assert report.accepted
    assert [verdict.gate for verdict in report.verdicts] == list(DYNAMIC_GATES)
    assert all(verdict.message for verdict in report.verdicts)
    assert report.cost is not None
    assert report.cost.parameters > report.cost.mixer_parameters


@pytest.mark.parametrize(("name", "source"), [*references(), *grammar_programs(20, seed=1)])
def test_no_honest_program_is_accused(name: str, source: str) -> None:
    del name
    report = gates(source)
    assert report.first_failure is None
    assert report.warnings == ()


@pytest.mark.parametrize("planted", at("gates"), ids=lambda planted: planted.name)
def test_planted_programs_are_stopped_where_and_why_they_should_be(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted.reason == "too_slow":
        monkeypatch.setattr(limits, "STEP_LIMIT_S", SHORT_LIMIT_S)
    report = gates(planted.source)
    assert report.first_failure is not None
    assert (report.first_failure.gate, report.first_failure.reason) == (planted.gate, planted.reason)
    assert report.cost is None
    assert ". Cure: " in report.first_failure.message
    assert report.first_failure.message.endswith(".")


@pytest.mark.parametrize("planted", at("static"), ids=lambda planted: planted.name)
def test_planted_programs_that_need_not_run_are_stopped_on_the_host(planted: Planted) -> None:
    verdict = static_gates(planted.source)[-1]
    assert (verdict.gate, verdict.reason) == (planted.gate, planted.reason)


@pytest.mark.parametrize("planted", at("trained", "audit"), ids=lambda planted: planted.name)
def test_planted_programs_that_wait_pass_the_gates(planted: Planted) -> None:
    assert static_gates(planted.source)[-1].passed
    assert gates(planted.source).accepted


def test_every_planted_program_of_the_gates_passes_the_static_ones() -> None:
    assert [planted.name for planted in at("gates") if not static_gates(planted.source)[-1].passed] == []


def test_a_failure_names_the_line_of_the_program() -> None:
    source = mixer("b = 1\nreturn a @ x")
    failure = gates(source).first_failure
    assert source.splitlines()[failure.line - 1].strip() == "return a @ x"


def test_a_sleeper_is_told_on_which_line_it_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEP_LIMIT_S", 0.5)
    source = mixer("b = 1\nwhile True: pass\nreturn a")
    failure = gates(source).first_failure
    assert failure.reason == "too_slow"
    assert source.splitlines()[failure.line - 1].strip() == "while True: pass"


def test_a_leak_is_described_with_position_and_size() -> None:
    source = next(planted.source for planted in at("gates") if planted.name == "only_in_evaluation")
    failure = gates(source).first_failure
    assert failure.gate == "causality"
    assert "eval mode" in failure.message
    assert "position" in failure.message


def test_a_message_is_bounded_and_keeps_its_cure() -> None:
    failure = gates(mixer("raise ValueError('x' * 5000)")).first_failure
    assert len(failure.message) <= MESSAGE_CAP
    assert failure.message.endswith("hard-code no size.")


def test_quadratic_and_linear_programs_are_told_apart() -> None:
    assert gates(HONEST["attention"]).cost.length_exponent == pytest.approx(2.0, abs=0.1)
    assert gates(CUMULATIVE).cost.length_exponent == pytest.approx(1.0, abs=0.1)


def test_growth_is_always_reported_and_limited_on_request_only() -> None:
    refused = gates(HONEST["attention"], max_exponent=1.3).first_failure
    assert (refused.gate, refused.reason) == ("complexity", "too_complex")
    assert "the limit is 1.3" in refused.message
    assert gates(CUMULATIVE, max_exponent=1.3).accepted
    allowed = next(verdict for verdict in gates(HONEST["attention"]).verdicts if verdict.gate == "complexity")
    assert "L^2.00" in allowed.message


def test_a_little_quadratic_work_among_much_linear_work_shows() -> None:
    wide = "for _ in range(4): a = self.mlp(a)\nreturn a"
    mlp = "self.mlp = nn.Sequential(nn.Linear(d, 64 * d), nn.Linear(64 * d, d))"
    specimen = Specimen(*load(mixer(wide, mlp)), tiers.get("sequence", "smoke"))
    counted = growth(specimen)
    assert counted.exponent == pytest.approx(2.0, abs=0.1)


def test_a_limit_travels_with_the_job() -> None:
    def job(max_exponent: float | None) -> dict[str, object]:
        phase = gate_phases(CUMULATIVE, track="sequence", tier="micro", max_exponent=max_exponent)[0]
        return read_control(phase.send[0].payload)

    assert job(1.25)["max_exponent"] == 1.25
    assert "max_exponent" not in job(None)


def test_parameters_that_are_never_reached_are_a_warning() -> None:
    report = gates(HONEST["a_parameter_in_reserve"])
    assert "spare of layer 0" in report.warnings[0]


def test_shapes_that_depend_on_data_are_a_warning() -> None:
    source = mixer("kept = (x.abs() > 1e9).nonzero()\nreturn a + kept.sum()")
    report = gates(source)
    assert report.accepted
    assert "shapes are known only when it runs" in report.warnings[0]


def test_the_seconds_of_each_gate_are_told() -> None:
    seconds: dict[str, float] = {}
    run_gates(CUMULATIVE, "sequence", "micro", seconds=seconds)
    assert list(seconds) == list(DYNAMIC_GATES)
    assert min(seconds.values()) >= 0.0


def test_the_job_for_an_unknown_tier_is_a_typed_error() -> None:
    with pytest.raises(UnknownTier, match="micro, smoke, standard"):
        gate_phases("", track="sequence", tier="huge")


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
        good | {"warnings": "none"},
        good | {"warnings": [1]},
        good | {"warnings": ["much"] * (MAX_WARNINGS + 1)},
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


def test_what_a_container_warns_of_is_bounded_and_harmless() -> None:
    warnings = read_gate_reply(refusal() | {"warnings": ["\x1b[2J" + "x" * 10_000]}).warnings
    assert len(warnings[0]) == WARNING_CAP
    assert "\x1b" not in warnings[0]


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


def test_a_leak_at_the_length_of_a_resized_task_only_is_caught_there() -> None:
    source = mixer("return a + (x.mean(1, keepdim=True) if x.shape[1] == 200 else 0)")
    assert run_gates(source, "sequence", "micro")["verdicts"][-1]["passed"]
    job = gate_phases(source, track="sequence", tier="micro", lengths=[200])[0].send[0].payload
    assert read_control(job)["lengths"] == [200]
    found = run_gates(source, "sequence", "micro", lengths=[200])["verdicts"][-1]
    assert (found["gate"], found["reason"]) == ("causality", "not_causal")
