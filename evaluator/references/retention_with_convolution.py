"""Retention behind a short convolution: fixed rates of forgetting, and bigrams to remember.

    S_t = gamma_h S_(t-1) + k_t v_t^T,   y_t = W_o (rms_norm(S_t^T q_t) * silu(W_g x_t)),   gamma_h = 1 - 2^(-5-h)

Source: Sun et al. 2023, "Retentive network: a successor to transformer for large language models" (RetNet),
arXiv:2307.08621, section 2. The convolution before it: Arora et al. 2024 (Based), arXiv:2402.18668.

What differs:
- the published layer has no convolution: this is `retention` behind four taps, to compare with and without;
- rotary positions without the xPos decay, which gamma already provides;
- RMS normalisation per head instead of GroupNorm, which also makes the paper's rescaling of scores unnecessary;
- keys are as wide as values, and values as wide as the input.

Shapes: B batch, L length, H heads, D features of a head (Dk keys, Dv values), N chunks of C steps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def causal_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """Depthwise convolution over time: x (B, L, D), taps (K, D) with the present last -> (B, L, D).

    K shifted products instead of `conv1d`: no transposition to (B, D, L), and 2-4 times faster on a CPU at small D.
    """
    length, kernel_size = x.shape[1], taps.shape[0]
    padded = F.pad(x, (0, 0, kernel_size - 1, 0))
    oldest, *newer = taps.unbind(0)
    y = padded[:, :length] * oldest
    for lag, tap in enumerate(newer, start=1):
        y = torch.addcmul(y, padded[:, lag : lag + length], tap)
    return y


class ShortConvolution(nn.Module):
    """Each channel sees its own last `kernel_size` values: y_t = act(sum_k taps_k * x_(t-k))."""

    def __init__(self, d_model: int, *, kernel_size: int = 4, activation: str = "silu") -> None:
        super().__init__()
        if activation not in ("silu", "none"):
            raise ValueError(f"activation must be 'silu' or 'none', got {activation!r}")
        self.activation = activation
        bound = kernel_size**-0.5
        self.taps = nn.Parameter(torch.empty(kernel_size, d_model).uniform_(-bound, bound))
        with torch.no_grad():
            self.taps[-1] = 1.0  # starts as the present plus a little of the past: what follows still sees its input

    def forward(self, x: Tensor) -> Tensor:
        y = causal_convolution(x, self.taps)
        return F.silu(y) if self.activation == "silu" else y


def rotate(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding of (B, L, H, D): pairs of features turn by an angle proportional to the position.

    Angles are computed in at least float32, whatever the precision of x. An odd last feature is left alone.
    """
    length, half = x.shape[1], x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequency = torch.exp(torch.arange(half, device=x.device, dtype=dtype) * (-math.log(base) / max(half, 1)))
    angle = torch.arange(length, device=x.device, dtype=dtype)[:, None, None] * frequency  # (L, 1, D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos, rest], dim=-1)


def split_chunks(x: Tensor, size: int = 64) -> Tensor:
    """(B, H, L, D) -> (B, H, N, C, D): N chunks of C = min(size, L) steps, the last one filled up with zeros."""
    length = x.shape[2]
    size = min(size, length)
    n_chunks = -(-length // size)
    return F.pad(x, (0, 0, 0, n_chunks * size - length)).unflatten(2, (n_chunks, size))


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, L, D) -> (B, L, H·D)."""
    return x.transpose(1, 2).flatten(2)


def merge_chunks(x: Tensor, length: int) -> Tensor:
    """(B, H, N, C, D) -> (B, H, L, D), without the filling."""
    return x.flatten(2, 3)[:, :, :length]


def states_before_chunks(update: Tensor, decay: Tensor) -> Tensor:
    """State that each chunk starts from: S[0] = 0, S[n+1] = decay[n] * S[n] + update[n]; all (B, H, N, Dk, Dv).

    `unbind`, not indexing: the backward of `x[:, :, n]` fills the whole gradient with zeros once per chunk, which
    makes the loop quadratic in the number of chunks.
    """
    state = torch.zeros_like(update[:, :, 0])
    before = []
    for step_update, step_decay in zip(update.unbind(2), decay.unbind(2), strict=True):
        before.append(state)
        state = step_decay * state + step_update
    return torch.stack(before, dim=2)


class Retention(nn.Module):
    """Linear attention with rotary positions whose heads forget at fixed rates 1 - 2^-5, 1 - 2^-6, ..."""

    def __init__(self, d_model: int, *, n_heads: int = 2) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # (B, L, H, D) each
        q, k = rotate(torch.cat([q, k], dim=2)).chunk(2, dim=2)
        q, k, v = (split_chunks(t.transpose(1, 2)) for t in (q, k, v))  # (B, H, N, C, D)
        q = q * q.shape[-1] ** -0.5
        # Decay from step j to step i of a chunk of C: gamma_h^(i - j), computed from its logarithm. (H, 1, C, C)
        head = torch.arange(self.n_heads, device=x.device, dtype=q.dtype)
        log_gamma = torch.log1p(-torch.exp2(-5 - head))[:, None, None, None]
        step = torch.arange(q.shape[3], device=x.device, dtype=q.dtype)
        lag = step[:, None] - step
        y = (q @ k.mT * (log_gamma * lag).exp().tril()) @ v
        if q.shape[2] > 1:
            size = q.shape[3]
            update = (k * (log_gamma * (size - 1 - step)[:, None]).exp()).mT @ v
            decay = (log_gamma * size).exp().expand(*update.shape[:3], 1, 1)
            y = y + (q * (log_gamma * (step + 1)[:, None]).exp()) @ states_before_chunks(update, decay)
        y = merge_chunks(y, x.shape[1])
        y = merge_heads(F.rms_norm(y, y.shape[-1:], eps=1e-6)) * self.norm
        return self.out(y * F.silu(self.gate(x)))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    return nn.Sequential(
        ShortConvolution(d_model, kernel_size=4, activation="none"), Retention(d_model, n_heads=n_heads)
    )
