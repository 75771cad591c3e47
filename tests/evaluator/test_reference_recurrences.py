"""The reference programs against step-by-step loops, and against forms published for them that are not loops.

The loops say that a chunked or scanned program computes its recurrence; the closed forms, which share no line with
either, say that it is the right recurrence.
"""

import ast
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from evaluator import catalogue
from tests.evaluator.reference_forms import (
    MODULES,
    NAMES,
    OPTIONS,
    STEPS,
    D,
    combinations,
    difference,
    heads,
    inputs,
    jittered,
    joined,
    make,
    rms,
    turned,
)

TOLERANCE = 1e-10  # in float64; the worst gap seen is 4e-15
COMBINATORS = {"Serial", "Parallel", "MultiplicativeGate", "PreNorm"}
LENGTHS = (1, 7, 64, 65, 130)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def test_every_class_of_the_catalogue_has_a_loop_to_agree_with():
    classes = {
        node.name for name in NAMES for node in ast.parse(catalogue.source(name)).body if isinstance(node, ast.ClassDef)
    }
    assert classes - COMBINATORS == set(STEPS) == set(OPTIONS)


@pytest.mark.parametrize("class_name", STEPS)
def test_the_parallel_form_equals_the_recurrence(class_name):
    for options in combinations(class_name):
        mixer = make(class_name, **options)
        for length in LENGTHS if options == combinations(class_name)[0] else (7, 65):
            x = inputs(length)
            gap = difference(mixer(x), STEPS[class_name](mixer, x))
            assert gap <= TOLERANCE, f"{options}, L={length}: {gap}"


def loop(module: nn.Module, x: Tensor) -> Tensor:
    """A program made of one class, or of several in a row."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = loop(part, x)
        return x
    return STEPS[type(module).__name__](module, x)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "hybrid"])
def test_a_whole_program_equals_its_loops(name):
    torch.manual_seed(3)
    mixer = jittered(MODULES[name].build_mixer(D, 0, 2), seed=3)
    for length in (1, 65, 97):
        x = inputs(length, seed=4)
        assert difference(mixer(x), loop(mixer, x)) <= TOLERANCE


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(STEPS)), st.integers(1, 200), st.integers(0, 2**31))
def test_any_length_and_any_parameters_agree(class_name: str, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    mixer = jittered(getattr(MODULES[OPTIONS[class_name][0]], class_name)(D), seed=seed)
    x = inputs(length, batch=1, seed=seed)
    assert difference(mixer(x), STEPS[class_name](mixer, x)) <= TOLERANCE


# ---------------------------------------------------------------------------------------------------- closed forms


def same(mixer: Any, x: Tensor, expected: Tensor) -> None:
    assert difference(mixer(x), expected) <= TOLERANCE


def constant(module: nn.Linear) -> None:
    """Make a gate the same for every input: only its bias speaks."""
    module.weight.zero_()


def decay_mask(log_decay: Tensor) -> Tensor:
    """(..., L) log decays -> (..., L, L): the product of the decays after step j up to step i, zero for j > i."""
    length = log_decay.shape[-1]
    rows = [
        [
            log_decay[..., j + 1 : i + 1].sum(-1).exp() if j <= i else torch.zeros_like(log_decay[..., 0])
            for j in range(length)
        ]
        for i in range(length)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@pytest.mark.parametrize("length", [1, 9, 70])
class TestClosedForms:
    def test_short_convolution_is_conv1d(self, length):
        mixer, x = make("ShortConvolution", kernel_size=4), inputs(length)
        weight = mixer.taps.T[:, None]  # conv1d correlates: the last tap meets the present
        same(mixer, x, F.silu(F.conv1d(F.pad(x.mT, (3, 0)), weight, groups=D).mT))

    def test_long_convolutions_are_toeplitz_matrices(self, length):
        lag = torch.arange(length)[:, None] - torch.arange(length)
        for class_name in ("LongConvolution", "DiagonalSSM"):
            mixer, x = make(class_name), inputs(length)
            matrix = torch.where((lag >= 0)[..., None], mixer.kernel(length)[lag.clamp(min=0)], 0.0)  # (L, L, D)
            if class_name == "DiagonalSSM":
                same(mixer, x, mixer.out(F.silu(torch.einsum("tsd,bsd->btd", matrix, x) + mixer.skip * x)))
                continue
            projected = F.conv1d(F.pad(mixer.project(x).mT, (2, 0)), mixer.taps.T[:, None], groups=3 * D).mT
            q, k, v = projected.chunk(3, -1)
            same(mixer, x, mixer.out(q * (torch.einsum("tsd,bsd->btd", matrix, k * v) + mixer.skip * k * v)))

    def test_gated_recurrence_with_constant_gates_is_an_exponential_average(self, length):
        mixer, x = make("GatedRecurrence"), inputs(length)
        mixer.project.weight[D:] = 0.0
        value = mixer.project(x)[..., :D]
        recurrence, intake = mixer.project.bias[D:].sigmoid().chunk(2)
        decay = torch.exp(-8 * F.softplus(mixer.rate) * recurrence)
        powers = decay ** torch.arange(length, dtype=x.dtype)[:, None]  # (L, D)
        sums = [(powers[: t + 1].flip(0) * value[:, : t + 1]).sum(1) for t in range(length)]
        same(mixer, x, mixer.out((1 - decay**2).sqrt() * intake * torch.stack(sums, 1)))

    def test_linear_attention_is_attention_with_another_kernel(self, length):
        """Katharopoulos et al. 2020, equation 4: weights phi(q)·phi(k), normalised over the past."""
        mixer, x = make("LinearAttention"), inputs(length)
        q, k, v = (heads(t, 2) for t in mixer.qkv(x).chunk(3, -1))
        weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
        same(mixer, x, mixer.out(joined(weights @ v / (weights.sum(-1, keepdim=True) + 1e-6))))

    def test_softmax_attention_is_one_masked_softmax(self, length):
        mixer, x = make("SoftmaxAttention"), inputs(length)
        q, k, v = (heads(t, 2) for t in mixer.qkv(x).chunk(3, -1))
        scores = turned(q) @ turned(k).mT / math.sqrt(q.shape[-1])
        future = torch.ones(length, length).triu(1).bool()
        same(mixer, x, mixer.out(joined(scores.masked_fill(future, -math.inf).softmax(-1) @ v)))

    def test_gated_linear_attention_with_one_decay_is_retention(self, length):
        """Both compute (Q K^T * D) V with D_ij = gamma^(i - j) (Sun et al. 2023, equation 5)."""
        gamma = torch.tensor([1 - 2.0**-5, 1 - 2.0**-6], dtype=torch.float64)
        lag = torch.arange(length, dtype=torch.float64)[:, None] - torch.arange(length)
        mask = (gamma[:, None, None] ** lag).tril()

        mixer, x = make("GatedLinearAttention", kernel_size=1), inputs(length)
        constant(mixer.decay[1])
        mixer.decay_bias.copy_(torch.logit(gamma**16).repeat_interleave(D // 2))
        q, k, v = (heads(t, 2) for t in F.silu(mixer.qkv(x) * mixer.taps[0]).chunk(3, -1))
        y = rms((q @ k.mT * mask) @ v / math.sqrt(D // 2))
        same(mixer, x, mixer.out(joined(y) * mixer.norm * F.silu(mixer.gate(x))))

        mixer = make("Retention")
        q, k, v = (heads(t, 2) for t in mixer.qkv(x).chunk(3, -1))
        y = rms((turned(q) @ turned(k).mT * mask) @ v / math.sqrt(D // 2))
        same(mixer, x, mixer.out(joined(y) * mixer.norm * F.silu(mixer.gate(x))))

    def test_selective_ssm_is_masked_attention(self, length):
        """The quadratic dual: Y = (L * C B^T) X, L the 1-semiseparable matrix of decays (Dao & Gu 2024, section 5)."""
        mixer, x = make("SelectiveSSM", kernel_size=1), inputs(length)
        gate, mixed, step = mixer.project(x).split([2 * D, 2 * D + 32, 4], -1)
        u, write, read = F.silu(mixed * mixer.taps[0]).split([2 * D, 16, 16], -1)
        step = F.softplus(step + mixer.step_bias).mT  # (B, H, L)
        mask = decay_mask(-step * mixer.log_rate.exp()[:, None])
        u = heads(u, 4)
        y = (mask * (read @ write.mT)[:, None]) @ (u * step[..., None]) + mixer.skip[:, None, None] * u
        y = joined(y) * F.silu(gate)
        same(mixer, x, mixer.out(F.rms_norm(y, (2 * D,), eps=1e-5) * mixer.norm))

    @pytest.mark.parametrize("gated", [False, True])
    def test_the_delta_rule_solves_one_triangular_system(self, length, gated):
        """What is written, U, solves (I + strict_tril(beta K K^T * D)) U = beta V over the whole sequence.

        Yang et al. 2024 (arXiv:2406.06484), section 3.2; with decays: arXiv:2412.06464, section 3.3.
        """
        mixer, x = make("DeltaRule", kernel_size=1, gated=gated), inputs(length)
        q, k, v = (heads(t, 2) for t in F.silu(mixer.qkv(x) * mixer.taps[0]).chunk(3, -1))
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        beta = torch.sigmoid(mixer.beta(x)).mT[..., None]
        rate = F.softplus(mixer.decay(x)) * mixer.log_rate.exp() if gated else torch.zeros(*x.shape[:2], 2).double()
        mask = decay_mask(-rate.mT)
        system = torch.eye(length).double() + (beta * (k @ k.mT) * mask).tril(-1)
        y = (q @ k.mT * mask) @ torch.linalg.inv(system) @ (beta * v)
        y = joined(rms(y)) * mixer.norm
        same(mixer, x, mixer.out(y * F.silu(mixer.gate(x)) if gated else y))

    def test_rwkv_that_forgets_nothing_is_linear_attention(self, length):
        """With decays and bonuses of one, what is read is the causal sum of (r·k) v."""
        mixer, x = make("RWKVTimeMix"), inputs(length)
        constant(mixer.decay[2])
        mixer.decay_bias.fill_(-200.0)
        mixer.bonus.fill_(1.0)
        mixer.shift.zero_()
        r, k, v = heads(mixer.read(x), 2), heads(mixer.key(x), 2), heads(mixer.value(x), 2)
        y = F.layer_norm((r @ k.mT).tril() @ v, (D // 2,), eps=1e-5)
        same(mixer, x, mixer.out(joined(y) * mixer.norm * F.silu(mixer.gate(x))))

    def test_rwkv_reads_before_it_decays(self, length):
        """The token s < t reaches t through the decays strictly between them (Peng et al. 2024, section 4)."""
        mixer, x = make("RWKVTimeMix", n_heads=1), inputs(length)
        constant(mixer.decay[2])
        mixer.decay_bias.fill_(-1.0)
        mixer.shift.zero_()
        r, k, v = mixer.read(x), mixer.key(x), mixer.value(x)
        lag = torch.arange(length, dtype=torch.float64)[:, None] - torch.arange(length)
        weights = torch.exp(-math.exp(-1.0) * (lag - 1)).tril(-1) * (r @ k.mT)
        weights = weights + torch.diag_embed((r * mixer.bonus * k).sum(-1))
        y = F.layer_norm(weights @ v, (D,), eps=1e-5)
        same(mixer, x, mixer.out(y * mixer.norm * F.silu(mixer.gate(x))))


def test_a_kernel_does_not_know_how_long_the_sequence_is():
    for class_name in ("LongConvolution", "DiagonalSSM"):
        mixer = make(class_name)
        # Bit for bit on most processors; a BLAS may sum a taller product in another order, which is one last place.
        assert difference(mixer.kernel(200)[:31], mixer.kernel(31)) <= 2**-52


@pytest.mark.parametrize("class_name", ["GatedLinearAttention", "RWKVTimeMix"])
def test_decays_that_hit_the_floor_stay_finite_in_float32(class_name):
    """e^total and e^-total of a chunk are separate factors there; the floor of -1 per step keeps both in range."""
    mixer = make(class_name).float()
    mixer.decay_bias.fill_(-100.0 if class_name == "GatedLinearAttention" else 100.0)
    x = 30 * inputs(130, dtype=torch.float32)
    y = mixer(x)
    assert y.isfinite().all()
    if class_name == "RWKVTimeMix":  # its loop has the floor; that of the other has none
        expected = STEPS[class_name](mixer.double(), x.double())
        assert difference(y.double(), expected) <= 1e-4 * float(expected.abs().max())
