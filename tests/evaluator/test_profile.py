"""The cost profile: what is counted against hand counts, state sizes that are known, and a strict reading of claims."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluator import catalogue, cost, execution, tiers
from evaluator.errors import UnknownTask, UnknownTier, WireError
from evaluator.gates.specimen import Specimen
from evaluator.phases import FAILURE_REASONS, PROTOCOL_VERSION
from evaluator.profile import CostReport, Roofline, profile_phases, read_profile_reply
from evaluator.profiling import Bench, Traffic, numerical_rank, run_profile, state_size, timed, touched
from evaluator.program import CandidateError, load
from evaluator.skeleton import LanguageModel, build_model
from evaluator.wire import read_control

MICRO = tiers.get("sequence", "micro")
D = MICRO.d_model
HEAD = """
import torch
from torch import nn
import torch.nn.functional as F

def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model)

class Mixer(nn.Module):
"""
PLAIN = (
    HEAD
    + """
    def __init__(self, d):
        super().__init__()
    def forward(self, x):
        """
)
EXPERTS = (
    HEAD
    + """
    def __init__(self, d):
        super().__init__()
        self.route = nn.Linear(d, 4, bias=False)
        self.experts = nn.Parameter(torch.randn(4, d, d) / d**0.5)
    def forward(self, x):
        chosen = self.route(x).softmax(-1)
        weight, index = chosen.max(-1, keepdim=True)
        return weight * torch.einsum("bld,blde->ble", x, self.experts[index.squeeze(-1)])
"""
)
# The identity, by way of a spectrum: rounding alone reaches other positions.
SPECTRUM = PLAIN + "return torch.fft.irfft(torch.fft.rfft(x, dim=1), x.shape[1], dim=1)"
NARROW_INSIDE = PLAIN + "return x.float().cumsum(1).to(x.dtype)"


@pytest.fixture(scope="module")
def reply(play: Callable) -> dict[str, Any]:
    """An honest reply of a real worker."""
    played = play(profile_phases(catalogue.source("linear_attention"), track="sequence", tier="micro"))
    assert played.failed is None
    answer: dict[str, Any] = played.replies[0]
    return answer


@pytest.fixture(scope="module")
def report(reply: dict[str, Any]) -> CostReport:
    return read_profile_reply(reply)


def ranks(source: str) -> tuple[tuple[int, int], ...]:
    return state_size(Specimen(*load(source), MICRO)).ranks


# ---- the whole job


def test_a_worker_measures_the_tiers_model(report: CostReport) -> None:
    assert (report.device, report.threads, report.batch, report.length) == ("cpu", 1, MICRO.batch, max(MICRO.lengths))
    assert report.state.ranks == ((2 * (8 * 8 + 8),) * 2,) * 2


def test_a_report_agrees_with_the_gates_count_and_with_itself(report: CostReport) -> None:
    specimen = Specimen(*load(catalogue.source("linear_attention")), MICRO)
    counted = cost.profile(specimen, vocabulary=16)
    assert report.inference.flops_per_token == counted["flops_per_token"]
    assert report.length_exponent == counted["length_exponent"]
    assert report.parameters == counted["parameters"]
    assert report.parameter_bytes == 4 * report.parameters
    assert report.reached_parameters == report.active_parameters == report.parameters
    # A product's backward pass takes two more of its size.
    assert report.training.flops_per_token == pytest.approx(3 * report.inference.flops_per_token, rel=0.02)
    assert report.training.bytes_per_token > 2 * report.inference.bytes_per_token
    assert 0 < report.saved_bytes_per_token < report.training.bytes_per_token
    assert report.training.seconds > report.inference.seconds


def test_a_profile_goes_out_as_json_with_what_is_derived(report: CostReport) -> None:
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    training = data["training"]
    assert training["tokens_per_s"] == pytest.approx(report.tokens / report.training.seconds)
    assert training["intensity"] == pytest.approx(training["flops_per_token"] / training["bytes_per_token"])
    assert training["measured_over_predicted"] * training["predicted_s"] == pytest.approx(training["seconds"])
    assert data["state"]["floats"] == sum(late for _, late in report.state.ranks)


def test_a_task_brings_its_own_sizes() -> None:
    memorisation = MICRO.plan("memorisation").task
    answer = run_profile(catalogue.source("mlp"), "sequence", "micro", "memorisation")["profile"]
    assert (answer["vocabulary"], answer["length"]) == (memorisation.vocabulary, memorisation.length)
    compression = run_profile(catalogue.source("mlp"), "sequence", "micro", "compression")["profile"]
    assert compression["length"] == MICRO.plan("compression").task.length


@pytest.mark.parametrize(
    ("forward", "reason", "message"),
    [
        ("return x[:, 1:]", "wrong_shape", "mapped shape"),
        ("return x if x.shape[1] < 256 else x + torch.zeros(1, device='cuda')", "device_mismatch", "L=256"),
        ("return x * float('nan') if x.dtype == torch.float64 else x", "non_finite", "float64"),
    ],
)
def test_a_program_that_fails_is_blamed_with_a_reason_a_worker_may_give(
    forward: str, reason: str, message: str
) -> None:
    with pytest.raises(CandidateError, match=message) as caught:
        run_profile(PLAIN + forward, "sequence", "micro")
    assert caught.value.reason == reason
    assert caught.value.reason in FAILURE_REASONS


# ---- counting


def traffic_of(run: Callable[[], object]) -> Traffic:
    traffic = Traffic(Roofline(1e9, 1e9))
    with traffic:
        run()
    return traffic


def test_bytes_are_those_of_operands_and_results() -> None:
    a, b, column = torch.ones(8, 16), torch.ones(8, 16), torch.ones(8, 1)
    size, left, right = a.nbytes, torch.ones(8, 4), torch.ones(4, 16)
    expected = {
        3 * size: [lambda: a + b, lambda: a.add_(b)],
        2 * size: [a.exp, lambda: a.t().contiguous(), lambda: a.copy_(b)],
        2 * size + column.nbytes: [lambda: a + column, lambda: a + column.expand(8, 16)],
        size: [lambda: torch.zeros(8, 16), a.zero_],
        0: [a.t, lambda: a.reshape(-1), lambda: torch.empty(8, 16), lambda: torch.ops.aten._unsafe_view(a, [128])],
        left.nbytes + right.nbytes + size: [lambda: left @ right],
    }
    for moved, runs in expected.items():
        assert [traffic_of(run).bytes for run in runs] == [moved] * len(runs)


def test_the_predicted_time_is_the_roofline_of_each_operation() -> None:
    a = torch.ones(64, 64)
    traffic = traffic_of(lambda: torch.exp(a @ a))
    product = max(2 * 64**3, 3 * a.nbytes) / 1e9
    assert traffic.operations == 2
    assert traffic.predicted_s == pytest.approx(product + 2 * a.nbytes / 1e9)


@given(st.floats(1e3, 1e15), st.floats(1e3, 1e13), st.floats(0, 1e18), st.floats(1, 1e18))
def test_a_roofline_is_never_faster_than_either_limit(
    peak: float, bandwidth: float, flops: float, moved: float
) -> None:
    roofline = Roofline(peak, bandwidth)
    attainable = roofline.attainable(flops / moved)
    assert attainable <= peak
    assert attainable <= flops / moved * bandwidth * (1 + 1e-9)
    assert roofline.seconds(flops, moved) * attainable == pytest.approx(flops, rel=1e-6, abs=1e-300)
    assert roofline.attainable(roofline.ridge) == pytest.approx(peak)


class Squares(LanguageModel):
    """A model whose forward pass keeps one tensor of its hidden size twice."""

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) * 2.0
        return x * x


def test_memory_kept_for_the_backward_pass_is_counted_once_and_without_parameters() -> None:
    bench = Bench.of(Squares(16, 8, []), execution.choose(MICRO.recipe), 16, 4, 32)
    tokens, hidden, logits = 4 * 32 * 8, 4 * 32 * 8 * 4, 4 * 32 * 16 * 4
    # Indices of the embedding, x, its square (input of the head), log-probabilities, targets, and their total weight.
    assert bench.saved_bytes() == tokens + 2 * hidden + logits + tokens + 4


def test_routed_parameters_are_reached_but_not_all_active() -> None:
    model, sizes = build_model(*load(EXPERTS), MICRO, 16, seed=0)
    reached, active = touched(model, torch.arange(4 * 48).reshape(4, 48) * 7 % 16)
    idle = 3 * D * D * MICRO.n_layers  # three of four experts in each layer
    assert reached == sizes.total
    assert active == pytest.approx(sizes.total - idle, abs=0.02 * idle)


def test_timing_gives_median_and_spread() -> None:
    timing = timed(lambda: torch.ones(64, 64).exp(), execution.choose(MICRO.recipe))
    assert 0 < timing.seconds < 1
    assert timing.spread >= 0
    assert timing.repeats == 15


# ---- state


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", 0),
        ("short_convolution", 3 * D),  # its last three inputs
        ("gated_recurrence", D),  # one number per channel
        ("linear_attention", 2 * (8 * 8 + 8)),  # two heads of 8 x 8, and the normaliser's 8
        ("delta_net_without_convolution", 2 * 8 * 8),
    ],
)
def test_a_constant_state_is_measured_exactly(name: str, expected: int) -> None:
    size = state_size(Specimen(*load(catalogue.source(name)), MICRO))
    assert size.ranks[0] == (expected, expected)
    assert not size.at_least
    assert size.growth == 1.0


def test_a_cache_grows_as_far_as_one_can_see() -> None:
    size = state_size(Specimen(*load(catalogue.source("softmax_attention")), MICRO))
    assert size.at_least
    assert size.ranks == size.limits == ((20 * D, 27 * D), (20 * D, 27 * D))
    assert size.growth == pytest.approx(1.35)
    assert size.floats == 2 * 27 * D


def test_a_slow_linear_system_is_no_larger_than_its_modes() -> None:
    size = state_size(Specimen(*load(catalogue.source("diagonal_ssm")), MICRO))
    modes = 2 * 8 * D
    for early, late in size.ranks:
        assert modes / 2 < early <= late < modes
    assert size.growth < 1.2
    assert not size.at_least


def test_layers_of_a_hybrid_are_measured_apart() -> None:
    assert [late > early for early, late in ranks(catalogue.source("hybrid"))] == [True, False]


def test_rounding_is_no_state() -> None:
    assert ranks(SPECTRUM) == ((0, 0), (0, 0))
    layer = Specimen(*load(NARROW_INSIDE), MICRO).layer(0, torch.float64)
    rank, tolerance = numerical_rank(layer, D, cut=20, probes=20 * D)
    assert rank == D
    assert 1e-9 < tolerance < 1e-4


@given(rank=st.integers(0, 6), seed=st.integers(0, 99))
def test_the_rank_of_a_linear_system_is_found(rank: int, seed: int) -> None:
    class System(nn.Module):
        """h_t = A h_(t-1) + B x_t, y_t = C h_(t-1): a state of `rank` numbers."""

        def forward(self, x: Tensor) -> Tensor:
            state, y = torch.zeros(len(x), rank, dtype=x.dtype), []
            for step in x.unbind(1):
                y.append(state @ c)
                state = state @ a + step @ b
            return torch.stack(y, dim=1)

    generator = torch.Generator().manual_seed(seed)
    a = 0.9 * torch.linalg.qr(torch.randn(rank, rank, generator=generator).double())[0]
    b, c = (torch.randn(4, rank, generator=generator).double() for _ in range(2))
    c = c.t()
    assert numerical_rank(System(), 4, cut=6, probes=16)[0] == rank


# ---- the host's side


def test_the_phase_asks_for_a_profile() -> None:
    (phase,) = profile_phases("x = 1", track="sequence", tier="smoke", task="mqar:length=64")
    job = read_control(phase.send[0].payload)
    assert job == {
        "type": "job", "kind": "profile", "protocol": PROTOCOL_VERSION, "track": "sequence", "tier": "smoke",
        "task": "mqar:length=64",
    }  # fmt: skip
    assert phase.send[1].payload == b"x = 1"
    assert phase.reply is None
    assert phase.timeout_s == 2 * tiers.get("sequence", "smoke").gates_timeout_s
    assert "task" not in read_control(profile_phases("", track="sequence", tier="smoke")[0].send[0].payload)
    with pytest.raises(UnknownTier):
        profile_phases("", track="sequence", tier="huge")
    with pytest.raises(UnknownTask):
        profile_phases("", track="sequence", tier="smoke", task="nothing")


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all numbers."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in items for found in numbers_in(inner, (*path, key))]
    return [] if isinstance(value, str) else [path]


def changed(reply: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """A copy with another value at `path`; without it, if the value is Ellipsis."""
    twin = copy.deepcopy(reply)
    place: Any = twin
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return twin


def test_no_number_may_be_anything_else(reply: dict[str, Any]) -> None:
    paths = numbers_in(reply["profile"], ("profile",))
    assert len(paths) > 35
    for path in paths:
        for wrong in (-1, math.nan, math.inf, 1e40, 10**40, "1", None, True, [1], ...):
            with pytest.raises(WireError):
                read_profile_reply(changed(reply, path, wrong))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("profile",), None, "no cost profile"),
        (("profile", "extra"), 1, "exactly the fields"),
        (("profile", "training", "extra"), 1, "exactly the fields"),
        (("profile", "state", "extra"), 1, "exactly the fields"),
        (("profile", "state"), [], "no state"),
        (("profile", "device"), "\x1b[31m", "device"),
        (("profile", "device"), ["cpu"], "device"),
        (("profile", "training", "seconds"), 0.0, "above zero"),
        (("profile", "training", "repeats"), 2.5, "right kind"),
        (("profile", "active_parameters"), 2**40, "more active_parameters"),
        (("profile", "inference", "predicted_s"), 1e-12, "less time"),
        (("profile", "state", "ranks"), [[1, 100_000]] * 2, "above what its probe"),
        (("profile", "state", "ranks"), [[1, 1]], "same layers"),
        (("profile", "state", "limits"), [[9, 9]] * 1000, "at most"),
    ],
)
def test_a_claim_at_odds_with_the_format_or_itself_is_refused(
    reply: dict[str, Any], path: tuple[str, ...], value: object, match: str
) -> None:
    with pytest.raises(WireError, match=match):
        read_profile_reply(changed(reply, path, value))
