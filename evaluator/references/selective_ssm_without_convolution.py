"""Selective state-space model without its short convolution: decay by content and nothing else.

    S_t = a_t S_(t-1) + B_t (step_t u_t)^T,   a_t = e^(-rate_h step_t),   step_t = softplus(w_h · x_t + b_h)
    y_t = W_o rms_norm((S_t^T C_t + skip_h u_t) * silu(W_z x_t)),   u, B, C = silu(taps * W x)

Source: Dao & Gu 2024, "Transformers are SSMs: generalized models and efficient algorithms through structured state
space duality" (Mamba-2), arXiv:2405.21060, sections 5 (the dual forms), 6 (chunks) and 7.1 (the block, whose B and C
all heads share); selection: Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 3.2.

What differs:
- 16 state features per head, where the published models take 64 to 256, to fit the small sizes;
- steps and rates start spread over their published ranges (0.001 to 0.1, and 1 to 16), not drawn at random;
- the convolution has no bias.
- no convolution: of its taps the present one is left, a learned gain per channel.

Shapes: B batch, L length, H heads, P features of a head, S state features, N chunks of C steps.
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


def scalar_decay_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """S_t = a_t S_(t-1) + k_t v_t^T, y_t = S_t^T q_t in chunks: log_decay (B, H, N, C, 1), the others (B, H, N, C, D).

    Only differences of accumulated log decays are exponentiated, and none is positive: nothing overflows at any rate.
    Source: the block decomposition of arXiv:2405.21060, section 6.
    """
    total = log_decay.cumsum(dim=3)  # log of what is left at step t of what the state held before the chunk
    between = (total - total.mT).clamp(max=0.0).exp()  # decay from step j to step i; i < j is masked below
    y = (q @ k.mT * between).tril() @ v
    if v.shape[2] > 1:
        end = total[:, :, :, -1:]
        update = (k * (end - total).exp()).mT @ v  # (B, H, N, Dk, Dv)
        y = y + (q * total.exp()) @ states_before_chunks(update, end.exp())
    return y


class SelectiveSSM(nn.Module):
    """One scalar decay per head and step, chosen by the input; write and read directions are shared by all heads."""

    def __init__(
        self, d_model: int, *, n_heads: int = 4, expansion: int = 2, d_state: int = 16, kernel_size: int = 4
    ) -> None:
        super().__init__()
        width = expansion * d_model
        if width % n_heads:
            raise ValueError(f"{expansion} x d_model {d_model} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.sizes = (width, d_state, d_state)
        self.project = nn.Linear(d_model, width + sum(self.sizes) + n_heads, bias=False)  # gate; x, B, C; step
        bound = kernel_size**-0.5
        self.taps = nn.Parameter(torch.empty(kernel_size, sum(self.sizes)).uniform_(-bound, bound))
        with torch.no_grad():
            # Starts as the present plus a little of the past: with all taps random, recall is learnt later.
            self.taps[-1] = 1.0
        step = torch.logspace(-3, -1, n_heads)
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(step_bias) = step
        self.log_rate = nn.Parameter(torch.linspace(1.0, 16.0, n_heads).log())
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.norm = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        length, inner = x.shape[1], sum(self.sizes)
        gate, mixed, step = self.project(x).split([self.sizes[0], inner, self.n_heads], dim=-1)
        mixed = F.silu(causal_convolution(mixed, self.taps))
        u, write, read = mixed.split(self.sizes, dim=-1)
        u = split_heads(u, self.n_heads)  # (B, H, L, P)
        step = F.softplus(step + self.step_bias)  # (B, L, H)
        log_decay = split_heads(-step * self.log_rate.exp(), self.n_heads)  # (B, H, L, 1)
        v, log_decay = split_chunks(u * split_heads(step, self.n_heads)), split_chunks(log_decay)
        write, read = split_chunks(write[:, None]), split_chunks(read[:, None])  # (B, 1, N, C, S)
        y = merge_chunks(scalar_decay_attention(read, write, v, log_decay), length)
        y = merge_heads(y + self.skip[:, None, None] * u) * F.silu(gate)
        return self.out(F.rms_norm(y, y.shape[-1:], eps=1e-5) * self.norm)


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Heads of 16 features at the small sizes; they grow to 64 features before there are more of them.
    n_heads = max(4, 2 * d_model // 64)
    return SelectiveSSM(d_model, n_heads=n_heads, kernel_size=1)
