"""The reference programs against step-by-step recurrences too plain to be wrong, and against their contract."""

import ast
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from evaluator import catalogue
from evaluator.static_gate import static_gates

LENGTHS = (1, 2, 7, 63, 64, 65, 130)
D = 16
NAMES = catalogue.names()
EXPECTED = {
    "attention_with_convolution",
    "delta_net",
    "diagonal_ssm",
    "gated_delta_net",
    "gated_linear_attention",
    "gated_recurrence",
    "hybrid",
    "linear_attention",
    "linear_attention_with_convolution",
    "mlp",
    "retention",
    "short_convolution",
    "softmax_attention",
}
# Where each class is read from, and every combination of its options worth building.
OPTIONS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "PointwiseMLP": ("mlp", {"expansion": (1, 2)}),
    "ShortConvolution": ("short_convolution", {"kernel_size": (1, 2, 4, 7), "activation": ("silu", "none")}),
    "DiagonalSSM": ("diagonal_ssm", {"d_state": (1, 8)}),
    "GatedRecurrence": ("gated_recurrence", {"expansion": (1, 2)}),
    "LinearAttention": (
        "linear_attention",
        {"n_heads": (1, 2), "feature_map": ("elu", "relu", "exp", "squared_relu"), "normalise": (True, False)},
    ),
    "GatedLinearAttention": ("gated_linear_attention", {"n_heads": (1, 4), "output_gate": (True, False)}),
    "DeltaRule": ("delta_net", {"n_heads": (1, 2), "kernel_size": (1, 4), "gated": (True, False)}),
    "SoftmaxAttention": (
        "softmax_attention",
        {"n_heads": (1, 2), "window": (0, 5), "rotary": (True, False), "qk_norm": (True, False)},
    ),
    "Retention": ("retention", {"n_heads": (1, 4)}),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(catalogue.source(name), f"{name}.py", "exec"), module.__dict__)
    return module


MODULES = {name: load(name) for name in NAMES}


def combinations(class_name: str) -> list[dict[str, Any]]:
    options = OPTIONS[class_name][1]
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def jittered(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with every parameter moved: nothing hides behind a zero or a one that it starts with."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def make(class_name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return jittered(getattr(MODULES[OPTIONS[class_name][0]], class_name)(D, **options))


def inputs(length: int, *, batch: int = 2, width: int = D, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64).to(dtype)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def assert_causal(mixer: nn.Module, length: int) -> None:
    x = inputs(length)
    cut = max(1, 2 * length // 3)
    future = x.clone()
    future[:, cut:] = 2 * inputs(length, seed=9)[:, cut:]
    with torch.no_grad():
        whole = mixer(x)
        assert difference(mixer(future)[:, :cut], whole[:, :cut]) <= 1e-12
        assert difference(mixer(x[:, :cut]), whole[:, :cut]) <= 1e-12


def assert_finite_gradients(mixer: nn.Module, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    mixer(x).square().sum().backward()
    assert x.grad is not None
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
    assert x.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------- the catalogue


def test_the_catalogue_has_every_reference():
    assert set(NAMES) >= EXPECTED
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_program_is_titled_sourced_and_passes_the_static_gates(name):
    assert catalogue.title(name)
    assert not catalogue.title(name).endswith(".")
    docstring = ast.get_docstring(ast.parse(catalogue.source(name)))
    assert docstring is not None
    assert "Source:" in docstring
    assert "arXiv:" in docstring
    assert "iffers" in docstring or name == "mlp"
    assert all(verdict.passed for verdict in static_gates(catalogue.source(name)))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(catalogue.UnknownReference, match=r"'transformer'.*softmax_attention"):
        catalogue.source("transformer")
    with pytest.raises(catalogue.UnknownReference):
        catalogue.source("__init__")


def test_reading_the_catalogue_does_not_import_torch():
    code = "import sys; from evaluator import catalogue as c; [c.title(n) for n in c.names()]"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_has_one_name_has_one_text_in_all_programs():
    texts: dict[str, set[str]] = {}
    for name in NAMES:
        source = catalogue.source(name)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name != "build_mixer":
                texts.setdefault(node.name, set()).add(ast.get_source_segment(source, node) or "")
    assert {name for name, copies in texts.items() if len(copies) > 1} == set()
    assert set(OPTIONS) <= set(texts)


def test_a_class_needs_nothing_but_functions_and_imports_of_its_file():
    """The embedded grammar model takes classes out of these files, with the functions they call."""
    for name in NAMES:
        tree = ast.parse(catalogue.source(name))
        kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
        assert all(isinstance(node, kinds) for node in tree.body[1:]), f"{name} has module-level state"
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                used = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
                assert not used & classes, f"{node.name} of {name} uses {used & classes}"


# ----------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [0, 1])
def test_shapes_and_causality_at_every_length(name, layer):
    torch.manual_seed(0)
    mixer = jittered(MODULES[name].build_mixer(D, layer, 2))
    for length in LENGTHS:
        for training in (True, False):
            assert_causal(mixer.train(training), length)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_see_its_batch_and_calls_leave_no_trace(name):
    torch.manual_seed(0)
    mixer = jittered(nn.Sequential(*(MODULES[name].build_mixer(D, layer, 2) for layer in range(2))))
    for length in (7, 65):
        x = inputs(length, batch=5)
        with torch.no_grad():
            together = mixer(x)
            assert difference(mixer(x[1:2]), together[1:2]) <= 1e-12
            assert difference(mixer(x.flip(0)).flip(0), together) <= 1e-12
            assert difference(mixer(x), together) == 0


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64_and_gradients_are_finite(name):
    for layer in range(2):
        torch.manual_seed(0)
        single = MODULES[name].build_mixer(D, layer, 2)
        double = MODULES[name].build_mixer(D, layer, 2)
        double.load_state_dict(single.state_dict())
        double.double()
        for length in (1, 48, 130):
            x = inputs(length)
            y = single(x.float())
            assert y.dtype == torch.float32
            assert difference(y.double(), double(x)) < 1e-4
        assert_finite_gradients(single, inputs(130, dtype=torch.float32))
        assert_finite_gradients(single, 30 * inputs(400, dtype=torch.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(16, 1, 8), (32, 32, 48), (64, 2, 130)])
def test_programs_build_and_run_on_fake_tensors(name, size):
    d_model, batch, length = size
    with FakeTensorMode():
        for layer in range(2):
            mixer = MODULES[name].build_mixer(d_model, layer, 2)
            y = mixer(torch.randn(batch, length, d_model))
            assert y.shape == (batch, length, d_model)
            y.sum().backward()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"softmax_attention", "attention_with_convolution"}))
def test_cost_is_linear_in_length(name):
    mixer = nn.Sequential(*(MODULES[name].build_mixer(D, layer, 2) for layer in range(2)))

    def flops(length: int) -> int:
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            mixer(inputs(length, batch=1, dtype=torch.float32))
        return counter.get_total_flops()

    assert flops(1024) <= 2.05 * flops(512)


# -------------------------------------------------------------------------- chunked forms against obvious recurrences


def heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, L, H·D) -> (B, H, L, D)"""
    return x.reshape(*x.shape[:2], n_heads, -1).permute(0, 2, 1, 3)


def joined(x: Tensor) -> Tensor:
    return x.permute(0, 2, 1, 3).flatten(2)


def convolved(x: Tensor, taps: Tensor) -> Tensor:
    steps = []
    for t in range(x.shape[1]):
        steps.append(sum(taps[-1 - lag] * x[:, t - lag] for lag in range(min(len(taps), t + 1))))
    return torch.stack(steps, 1)


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def turned(x: Tensor) -> Tensor:
    """Rotary positions of (B, H, L, D) as rotations of complex numbers."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * frequency
    z = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([z.real, z.imag], -1)


def read_states(q: Tensor, k: Tensor, v: Tensor, step: Callable[[Tensor, int], Tensor]) -> Tensor:
    """y_t = q_t S_t for S_t = step(S_(t-1), t), S (B, H, Dk, Dv)."""
    state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    outputs = []
    for t in range(q.shape[2]):
        state = step(state, t)
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2)


def outer(k: Tensor, v: Tensor, t: int) -> Tensor:
    return k[:, :, t, :, None] * v[:, :, t, None, :]


def step_short_convolution(m: Any, x: Tensor) -> Tensor:
    y = convolved(x, m.taps)
    return F.silu(y) if m.activation == "silu" else y


def step_pointwise(m: Any, x: Tensor) -> Tensor:
    return torch.stack([m.down(F.silu(m.up(x[:, t]))) for t in range(x.shape[1])], 1)


def step_diagonal_ssm(m: Any, x: Tensor) -> Tensor:
    step = m.log_step.exp()
    a = torch.exp(step * torch.complex(-m.log_damping.exp(), m.frequency))  # (D, N)
    c = torch.complex(m.readout[0], -m.readout[1])
    h = torch.zeros(x.shape[0], *a.shape, dtype=a.dtype)
    outputs = []
    for t in range(x.shape[1]):
        h = a * h + (step * x[:, t, :, None])
        outputs.append((c * h).real.sum(-1) + m.skip * x[:, t])
    return m.out(F.silu(torch.stack(outputs, 1)))


def step_gated_recurrence(m: Any, x: Tensor) -> Tensor:
    value, recurrence, intake = m.project(x).chunk(3, -1)
    h, outputs = torch.zeros_like(value[:, 0]), []
    for t in range(x.shape[1]):
        a = torch.exp(-8 * F.softplus(m.rate) * torch.sigmoid(recurrence[:, t]))
        h = a * h + (1 - a**2).clamp(min=1e-6).sqrt() * torch.sigmoid(intake[:, t]) * value[:, t]
        outputs.append(h)
    return m.out(torch.stack(outputs, 1))


def step_linear_attention(m: Any, x: Tensor) -> Tensor:
    phi = {
        "elu": lambda z: torch.where(z > 0, z + 1, z.exp()),
        "relu": lambda z: z.clamp(min=0),
        "exp": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
        "squared_relu": lambda z: z.clamp(min=0) ** 2,
    }[m.feature_map]
    q, k, v = (heads(t, m.n_heads) for t in m.qkv(x).chunk(3, -1))
    q, k = phi(q), phi(k)
    y = read_states(q, k, v, lambda s, t: s + outer(k, v, t))
    y = y / ((q * k.cumsum(2)).sum(-1, keepdim=True) + 1e-6) if m.normalise else rms(y)
    return m.out(joined(y))


def step_gated_linear_attention(m: Any, x: Tensor) -> Tensor:
    decay = heads(torch.sigmoid(m.decay(x) + m.decay_bias) ** (1 / 16), m.n_heads)
    q, k, v = (heads(t, m.n_heads) for t in m.qkv(x).chunk(3, -1))
    y = read_states(q / math.sqrt(q.shape[-1]), k, v, lambda s, t: decay[:, :, t, :, None] * s + outer(k, v, t))
    y = joined(rms(y)) * m.norm
    return m.out(y * F.silu(m.gate(x)) if m.gate is not None else y)


def step_delta_rule(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t, m.n_heads) for t in F.silu(convolved(m.qkv(x), m.taps)).chunk(3, -1))
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    beta = heads(torch.sigmoid(m.beta(x)), m.n_heads)
    decay = torch.ones_like(beta)
    if m.decay is not None:
        decay = heads(torch.exp(-F.softplus(m.decay(x)) * m.log_rate.exp()), m.n_heads)

    def step(state: Tensor, t: int) -> Tensor:
        state = decay[:, :, t, :, None] * state
        stored = (k[:, :, t, None] @ state)[:, :, 0]
        return state + k[:, :, t, :, None] * (beta[:, :, t] * (v[:, :, t] - stored))[:, :, None]

    return m.out(joined(rms(read_states(q, k, v, step))) * m.norm)


def step_retention(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t, m.n_heads) for t in m.qkv(x).chunk(3, -1))
    q, k = turned(q), turned(k)
    gamma = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(m.n_heads)], dtype=x.dtype)[:, None, None]
    y = read_states(q / math.sqrt(q.shape[-1]), k, v, lambda s, t: gamma * s + outer(k, v, t))
    return m.out(joined(rms(y)) * m.norm * F.silu(m.gate(x)))


def step_softmax_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(t, m.n_heads) for t in m.qkv(x).chunk(3, -1))
    if m.qk_scale is not None:
        q, k = (z / z.norm(dim=-1, keepdim=True) * m.qk_scale[:, None] for z in (q, k))
    if m.rotary:
        q, k = turned(q), turned(k)
    outputs = []
    for t in range(x.shape[1]):
        first = max(0, t - m.window + 1) if m.window else 0
        scores = (q[:, :, t, None] @ k[:, :, first : t + 1].mT) / math.sqrt(q.shape[-1])
        outputs.append((scores.softmax(-1) @ v[:, :, first : t + 1])[:, :, 0])
    return m.out(joined(torch.stack(outputs, 2)))


STEPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "PointwiseMLP": step_pointwise,
    "ShortConvolution": step_short_convolution,
    "DiagonalSSM": step_diagonal_ssm,
    "GatedRecurrence": step_gated_recurrence,
    "LinearAttention": step_linear_attention,
    "GatedLinearAttention": step_gated_linear_attention,
    "DeltaRule": step_delta_rule,
    "SoftmaxAttention": step_softmax_attention,
    "Retention": step_retention,
}


@pytest.mark.parametrize("class_name", STEPS)
def test_the_parallel_form_equals_the_recurrence(class_name):
    for options in combinations(class_name):
        mixer = make(class_name, **options)
        for length in (1, 7, 64, 65, 130) if options == combinations(class_name)[0] else (7, 65):
            x = inputs(length)
            with torch.no_grad():
                gap = difference(mixer(x), STEPS[class_name](mixer, x))
            assert gap <= 1e-10, f"{options}, L={length}: {gap}"


# ---------------------------------------------------------------------------------------- options and combinators


@pytest.mark.parametrize("class_name", OPTIONS)
def test_every_option_keeps_the_contract(class_name):
    for options in combinations(class_name):
        mixer = make(class_name, **options)
        assert_causal(mixer, 13)
        assert_finite_gradients(mixer, inputs(13))


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("ShortConvolution", {"activation": "tanh"}),
        ("LinearAttention", {"feature_map": "softmax"}),
        ("LinearAttention", {"n_heads": 3}),
        ("GatedLinearAttention", {"n_heads": 3}),
        ("DeltaRule", {"n_heads": 3}),
        ("SoftmaxAttention", {"n_heads": 3}),
        ("Retention", {"n_heads": 3}),
    ],
)
def test_impossible_options_are_refused(class_name, options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        make(class_name, **options)


def combined(inner: Callable[[], nn.Module]) -> list[nn.Module]:
    hybrid = MODULES["hybrid"]
    return [
        hybrid.Serial(D, hybrid.ShortConvolution(D, kernel_size=4), inner()),
        hybrid.Serial(D, inner(), hybrid.PreNorm(D, inner(), norm="layer")),
        hybrid.Parallel(D, inner(), hybrid.PreNorm(D, inner(), norm="rms"), mix="sum"),
        hybrid.Parallel(D, inner(), inner(), mix="gate"),
        hybrid.MultiplicativeGate(D, inner()),
    ]


@pytest.mark.parametrize("class_name", OPTIONS)
def test_every_class_works_inside_every_combinator(class_name):
    torch.manual_seed(0)
    for mixer in combined(lambda: getattr(MODULES[OPTIONS[class_name][0]], class_name)(D)):
        jittered(mixer)
        assert_causal(mixer, 13)
        assert_finite_gradients(mixer, inputs(13))


def test_combinators_compute_what_they_say():
    hybrid = MODULES["hybrid"]
    first, second = make("ShortConvolution"), make("PointwiseMLP")
    x = inputs(9)
    with torch.no_grad():
        assert difference(hybrid.Serial(D, first, second)(x), second(first(x))) == 0
        assert difference(hybrid.Parallel(D, first, second, mix="sum")(x), first(x) + second(x)) == 0
        gated = hybrid.Parallel(D, first, second, mix="gate").double()
        weight = torch.sigmoid(gated.gate(x))
        assert difference(gated(x), (1 - weight) * first(x) + weight * second(x)) <= 1e-12
        times = hybrid.MultiplicativeGate(D, first).double()
        assert difference(times(x), times.out(F.silu(times.gate(x)) * first(x))) <= 1e-12
        assert difference(hybrid.PreNorm(D, first, norm="rms").double()(x), first(rms(x))) <= 1e-12


def test_combinators_refuse_unknown_options():
    hybrid = MODULES["hybrid"]
    with pytest.raises(ValueError, match="'product'"):
        hybrid.Parallel(D, nn.Identity(), nn.Identity(), mix="product")
    with pytest.raises(ValueError, match="'batch'"):
        hybrid.PreNorm(D, nn.Identity(), norm="batch")


def test_the_hybrid_differs_by_layer():
    build = MODULES["hybrid"].build_mixer
    kinds = [{type(part).__name__ for part in build(D, layer, 4).modules()} for layer in range(4)]
    assert kinds[0] == kinds[2] != kinds[1] == kinds[3]
    assert "SoftmaxAttention" in kinds[0]
    assert "GatedRecurrence" in kinds[1]
