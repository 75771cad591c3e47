"""What the tests of the reference programs share: building their classes, and each mixer once more as a plain loop.

The loops are the definitions, one position after the other and too plain to be wrong; nothing in them is shared with
the programs but the parameters.
"""

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluator import catalogue

D = 16
NAMES = catalogue.names()
# Where each class is read from, and every combination of its options worth building.
OPTIONS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "PointwiseMLP": ("mlp", {"expansion": (1, 2)}),
    "ShortConvolution": ("short_convolution", {"kernel_size": (1, 2, 4, 7), "activation": ("silu", "none")}),
    "LongConvolution": ("long_convolution", {"kernel_size": (1, 3)}),
    "DiagonalSSM": ("diagonal_ssm", {"d_state": (1, 8)}),
    "SelectiveSSM": (
        "selective_ssm",
        {"n_heads": (1, 4), "expansion": (2, 1), "d_state": (1, 16), "kernel_size": (1, 4)},
    ),
    "GatedRecurrence": ("gated_recurrence", {"expansion": (1, 2)}),
    "LinearAttention": (
        "linear_attention",
        {"n_heads": (1, 2), "feature_map": ("elu", "relu", "exp", "squared_relu"), "normalise": (True, False)},
    ),
    "GatedLinearAttention": (
        "gated_linear_attention",
        {"n_heads": (1, 4), "kernel_size": (1, 4), "output_gate": (True, False)},
    ),
    "DeltaRule": ("delta_net", {"n_heads": (1, 2), "kernel_size": (1, 4), "gated": (True, False)}),
    "RWKVTimeMix": ("rwkv", {"n_heads": (1, 4)}),
    "SoftmaxAttention": (
        "softmax_attention",
        {"n_heads": (1, 2), "window": (0, 5), "rotary": (True, False), "qk_norm": (True, False)},
    ),
    "Retention": ("retention", {"n_heads": (1, 4)}),
}


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
    q, k, v = (heads(t, m.n_heads) for t in F.silu(convolved(m.qkv(x), m.taps)).chunk(3, -1))
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

    y = joined(rms(read_states(q, k, v, step))) * m.norm
    return m.out(y * F.silu(m.gate(x)) if m.gate is not None else y)


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


def step_selective_ssm(m: Any, x: Tensor) -> Tensor:
    width, n_state, _ = m.sizes
    gate, mixed, step = m.project(x).split([width, width + 2 * n_state, m.n_heads], -1)
    u, write, read = F.silu(convolved(mixed, m.taps)).split([width, n_state, n_state], -1)
    step = torch.log1p(torch.exp(step + m.step_bias))
    decay = torch.exp(-m.log_rate.exp() * step)  # (B, L, H)
    u = u.reshape(*u.shape[:2], m.n_heads, -1)  # (B, L, H, P)
    state = torch.zeros(x.shape[0], m.n_heads, n_state, u.shape[-1], dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        taken = write[:, t, None, :, None] * (step[:, t, :, None] * u[:, t])[:, :, None, :]
        state = decay[:, t, :, None, None] * state + taken
        outputs.append(torch.einsum("bs,bhsp->bhp", read[:, t], state) + m.skip[:, None] * u[:, t])
    y = torch.stack(outputs, 1).flatten(2) * F.silu(gate)
    return m.out(y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * m.norm)


def step_rwkv(m: Any, x: Tensor) -> Tensor:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    r, k, v, w, g = ((1 - share) * x + share * before for share in m.shift)
    decay = heads(torch.exp(-torch.exp(m.decay(w) + m.decay_bias).clamp(max=1.0)), m.n_heads)
    r, k, v = heads(m.read(r), m.n_heads), heads(m.key(k), m.n_heads), heads(m.value(v), m.n_heads)
    bonus = m.bonus.reshape(m.n_heads, -1)
    state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, :, t], state + bonus[..., None] * outer(k, v, t)))
        state = decay[:, :, t, :, None] * state + outer(k, v, t)
    y = torch.stack(outputs, 2)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return m.out(joined(y) * m.norm * F.silu(m.gate(g)))


def step_long_convolution(m: Any, x: Tensor) -> Tensor:
    outer_gate, inner_gate, v = convolved(m.project(x), m.taps).chunk(3, -1)
    v = inner_gate * v
    lag = torch.arange(x.shape[1], dtype=x.dtype)
    waves = [lag * 2 * math.pi / 2**power for power in range(1, 9)]
    features = torch.stack([wave.cos() for wave in waves] + [wave.sin() for wave in waves], -1)
    filters = m.values(torch.sin(m.bend(torch.sin(m.rise(features)))))
    filters = filters * torch.exp(-lag[:, None] / m.log_reach.exp()) / m.log_reach.exp().sqrt()
    mixed = torch.stack([sum(filters[t - s] * v[:, s] for s in range(t + 1)) for t in range(x.shape[1])], 1)
    return m.out(outer_gate * (mixed + m.skip * v))


STEPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "PointwiseMLP": step_pointwise,
    "ShortConvolution": step_short_convolution,
    "LongConvolution": step_long_convolution,
    "DiagonalSSM": step_diagonal_ssm,
    "SelectiveSSM": step_selective_ssm,
    "GatedRecurrence": step_gated_recurrence,
    "LinearAttention": step_linear_attention,
    "GatedLinearAttention": step_gated_linear_attention,
    "DeltaRule": step_delta_rule,
    "SoftmaxAttention": step_softmax_attention,
    "Retention": step_retention,
    "RWKVTimeMix": step_rwkv,
}
