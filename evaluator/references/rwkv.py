"""RWKV time mixing, version 6: a matrix state with decay by content, read just before the present token is written.

    y_t = W_o (layer_norm((S_(t-1) + diag(u) k_t v_t^T)^T r_t) * silu(g_t)),   S_t = diag(a_t) S_(t-1) + k_t v_t^T
    a_t = e^(-e^(W_2 tanh(W_1 x^w_t) + b)),   x^i_t = x_t + m_i (x_(t-1) - x_t) for each of i = r, k, v, w, g

Source: Peng et al. 2024, "Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence", arXiv:2404.05892,
section 4 (version 6 is Finch; its token shift here is that of version 5, Eagle).

What differs:
- the shares m of the token before are learned constants, as in version 5, where version 6 also moves them by content;
- log decays are floored at -1 per step: then the two factors e^total and e^-total of a chunk of 64 stay finite in
  float32, and a chunk is one matrix product;
- shares, decays and the bonus u start on straight lines over the channels, not on the published curves;
- the time mixing alone: the channel mixing is the skeleton's.

Shapes: B batch, L length, H heads, D features of a head (Dk keys, Dv values), N chunks of C steps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class RWKVTimeMix(nn.Module):
    """A matrix state that decays by content, read before it is written; the present token has a weight of its own."""

    def __init__(self, d_model: int, *, n_heads: int = 2) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.read, self.key, self.value = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        self.gate = nn.Linear(d_model, d_model, bias=False)
        rank = max(1, min(16, d_model // 2))
        self.decay = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Tanh(), nn.Linear(rank, d_model, bias=False)
        )
        channel = torch.linspace(0.0, 1.0, d_model)
        # -log decay = e^bias: memories of e^6 = 400 steps in the first channel down to e = 3 steps in the last.
        self.decay_bias = nn.Parameter(-6.0 + 5.0 * channel)
        self.bonus = nn.Parameter(1.0 - channel)
        self.shift = nn.Parameter((1.0 - channel).repeat(5, 1))  # share of the token before in each of the five inputs
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1)) - x
        x_r, x_k, x_v, x_w, x_g = (x + before * share for share in self.shift)
        log_decay = -(self.decay(x_w) + self.decay_bias).clamp(max=0.0).exp()  # in [-1, 0)
        parts = (self.read(x_r), self.key(x_k), self.value(x_v), log_decay)
        q, k, v, log_decay = (split_chunks(split_heads(t, self.n_heads)) for t in parts)  # (B, H, N, C, D)
        total = log_decay.cumsum(dim=3)
        q_decayed = q * (total - log_decay).exp()  # a position reads the state that its own decay has not reached
        y = (q_decayed @ (k * (-total).exp()).mT).tril(-1) @ v
        bonus = self.bonus.view(self.n_heads, 1, 1, -1)
        y = y + (q * bonus * k).sum(dim=-1, keepdim=True) * v
        if q.shape[2] > 1:
            left = total[:, :, :, -1:]  # (B, H, N, 1, Dk)
            update = (k * (left - total).exp()).mT @ v
            y = y + q_decayed @ states_before_chunks(update, left.exp().mT)
        y = merge_chunks(y, x.shape[1])
        y = merge_heads(F.layer_norm(y, y.shape[-1:], eps=1e-5)) * self.norm
        return self.out(y * F.silu(self.gate(x_g)))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    return RWKVTimeMix(d_model, n_heads=n_heads)
