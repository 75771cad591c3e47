"""Gated linear attention without a short convolution: a matrix state that forgets by content.

    S_t = diag(a_t) S_(t-1) + k_t v_t^T,   a_t = sigmoid(W_2 W_1 x_t + b)^(1/16)
    y_t = W_o (rms_norm(S_t^T q_t) * silu(W_g x_t)),   q, k, v = silu(taps * W x)

Source: Yang, Wang, Shen, Panda & Kim 2024, "Gated linear attention transformers with hardware-efficient training",
arXiv:2312.06635, sections 4.1 (recurrence), 4.3 (chunks) and 4.4 (gates, temperature 16). The paper's layer has no
convolution either.

What differs:
- a learned gain per channel and SiLU on q, k and v, so that `gated_linear_attention` differs by its convolution alone;
- keys are as wide as values, not half as wide;
- log decays are floored at -1 per step, which no trained gate comes near: then the two factors e^total and e^-total
  of a chunk of 64 stay finite in float32, and a chunk is one matrix product, without the paper's second level;
- the decay's bias starts spread from 0 to 6 instead of at 0: memories of 20 to 6,000 steps.

Shapes: B batch, L length, H heads, D features of a head (Dk keys, Dv values), N chunks of C steps.
"""

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


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, L, H·D) -> (B, H, L, D)."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, L, D) -> (B, L, H·D)."""
    return x.transpose(1, 2).flatten(2)


def split_chunks(x: Tensor, size: int = 64) -> Tensor:
    """(B, H, L, D) -> (B, H, N, C, D): N chunks of C = min(size, L) steps, the last one filled up with zeros."""
    length = x.shape[2]
    size = min(size, length)
    n_chunks = -(-length // size)
    return F.pad(x, (0, 0, 0, n_chunks * size - length)).unflatten(2, (n_chunks, size))


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


class GatedLinearAttention(nn.Module):
    """Linear attention whose state forgets, each key feature at its own rate, chosen by the input."""

    def __init__(self, d_model: int, *, n_heads: int = 2, kernel_size: int = 4, output_gate: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        bound = kernel_size**-0.5
        self.taps = nn.Parameter(torch.empty(kernel_size, 3 * d_model).uniform_(-bound, bound))
        with torch.no_grad():
            # Starts as the present plus a little of the past: with all taps random, recall is learnt later.
            self.taps[-1] = 1.0
        rank = max(1, min(16, d_model // 2))
        self.decay = nn.Sequential(nn.Linear(d_model, rank, bias=False), nn.Linear(rank, d_model, bias=False))
        self.decay_bias = nn.Parameter(torch.linspace(0.0, 6.0, d_model))
        self.gate = nn.Linear(d_model, d_model, bias=False) if output_gate else None
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        log_decay = F.logsigmoid(self.decay(x) + self.decay_bias) / 16  # the root keeps decays near one: long memories
        log_decay = log_decay.clamp(min=-1.0)  # exp(±64) at most within a chunk: finite in float32
        qkv = F.silu(causal_convolution(self.qkv(x), self.taps))
        parts = (*qkv.chunk(3, dim=-1), log_decay)
        q, k, v, log_decay = (split_chunks(split_heads(t, self.n_heads)) for t in parts)  # (B, H, N, C, D)
        total = log_decay.cumsum(dim=3)  # log of what is left at step t of what the state held before the chunk
        q_decayed = q * (total.exp() * q.shape[-1] ** -0.5)
        y = (q_decayed @ (k * (-total).exp()).mT).tril() @ v
        if q.shape[2] > 1:
            left = total[:, :, :, -1:]  # (B, H, N, 1, Dk)
            update = (k * (left - total).exp()).mT @ v
            y = y + q_decayed @ states_before_chunks(update, left.exp().mT)
        y = merge_chunks(y, x.shape[1])
        y = merge_heads(F.rms_norm(y, y.shape[-1:], eps=1e-6)) * self.norm
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y)


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    return GatedLinearAttention(d_model, n_heads=n_heads, kernel_size=1)
