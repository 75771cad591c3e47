"""Gated DeltaNet without its short convolution: the delta rule and a decay per head.

    S_t = a_t S_(t-1) + beta_t (v_t - a_t S_(t-1) k_t) k_t^T,   y_t = S_t q_t
    log a_t = -rate_h softplus(w_a · x_t),   out_t = W_o (rms_norm(y_t) * silu(W_g x_t))

Source: Yang, Kautz & Hatamizadeh 2025, "Gated delta networks: improving Mamba2 with delta rule", arXiv:2412.06464,
sections 3.1 (rule), 3.3 (chunks) and 3.4 (layer). The decay's form is Mamba-2's (Dao & Gu 2024, arXiv:2405.21060).

What differs:
- no convolution: of its taps the present one is left, a learned gain per channel;
- decay rates are spread over the heads and not drawn at random;
- the chunk's triangular system goes to `solve_triangular`.

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


def solve_unit_lower(system: Tensor, right: Tensor) -> Tensor:
    """x with (I + system) x = right, system strictly lower triangular; in float32 at least."""
    dtype = torch.promote_types(right.dtype, torch.float32)
    solution = torch.linalg.solve_triangular(system.to(dtype), right.to(dtype), upper=False, unitriangular=True)
    return solution.to(right.dtype)


def chunked_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None) -> Tensor:
    """The recurrence in chunks: q, k, v (B, H, N, C, D), beta and log_decay (B, H, N, C, 1) -> (B, H, N, C, D).

    Within a chunk the written values u solve (I + A) u = beta (v - k S), A the strictly lower part of beta k k^T:
    one triangular solve instead of C dependent steps.
    Source: arXiv:2406.06484, section 3; with decays: arXiv:2412.06464, section 3.3.
    """
    n_chunks, width = q.shape[2], v.shape[-1]
    overlap, scores, k_beta = k @ k.mT, q @ k.mT, k * beta
    q_state, k_state, k_end, end = q, k_beta, k, None  # how queries and keys meet the state before and after the chunk
    if log_decay is not None:
        total = log_decay.cumsum(dim=3)  # <= 0, falling
        between = (total - total.mT).clamp(max=0.0).exp()  # decay from step j to step i; i < j is masked below
        overlap, scores = overlap * between, scores * between
        q_state, k_state, end = q * total.exp(), k_beta * total.exp(), total[:, :, :, -1:]
        k_end, end = k * (end - total).exp(), end.exp()
    scores = scores.tril()
    system = (overlap * beta).tril(-1)  # the unit diagonal is implied
    if n_chunks == 1:
        return scores @ solve_unit_lower(system, v * beta)
    solved = solve_unit_lower(system, torch.cat([v * beta, k_state], dim=-1))
    written, read = solved.split([width, k.shape[-1]], dim=-1)
    state = torch.zeros_like(k[:, :, 0].mT @ v[:, :, 0])  # (B, H, Dk, Dv)
    ends = (None,) * n_chunks if end is None else end.unbind(2)
    outputs = []
    # `unbind`, not indexing: the backward of `x[:, :, n]` would fill the whole gradient with zeros once per chunk.
    for q_n, k_n, scores_n, written_n, read_n, end_n in zip(
        q_state.unbind(2), k_end.unbind(2), scores.unbind(2), written.unbind(2), read.unbind(2), ends, strict=True
    ):
        update = written_n - read_n @ state
        outputs.append(q_n @ state + scores_n @ update)
        state = (state if end_n is None else state * end_n) + k_n.mT @ update
    return torch.stack(outputs, dim=2)


class DeltaRule(nn.Module):
    """A state matrix that is corrected: S += beta (v - S k) k^T. `gated` adds a decay before, and a gate behind."""

    def __init__(self, d_model: int, *, n_heads: int = 2, kernel_size: int = 4, gated: bool = False) -> None:
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
        self.beta = nn.Linear(d_model, n_heads)
        self.decay = nn.Linear(d_model, n_heads, bias=False) if gated else None
        # Log decay = -rate * softplus(decay(x)), and softplus(0) = ln 2: heads start with memories of 16 to 1000 steps.
        self.log_rate = nn.Parameter(-torch.linspace(2.4, 6.6, n_heads)) if gated else None
        self.gate = nn.Linear(d_model, d_model, bias=False) if gated else None
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.silu(causal_convolution(self.qkv(x), self.taps))
        q, k, v = (split_chunks(split_heads(t, self.n_heads)) for t in qkv.chunk(3, dim=-1))  # (B, H, N, C, D)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        beta = split_chunks(split_heads(self.beta(x).sigmoid(), self.n_heads))  # (B, H, N, C, 1)
        log_decay = None
        if self.decay is not None:
            rate = F.softplus(self.decay(x)) * self.log_rate.exp()
            log_decay = split_chunks(split_heads(-rate, self.n_heads))
        y = merge_chunks(chunked_delta_rule(q, k, v, beta, log_decay), x.shape[1])
        y = merge_heads(F.rms_norm(y, y.shape[-1:], eps=1e-6)) * self.norm
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return self.out(y)


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    return DeltaRule(d_model, n_heads=n_heads, kernel_size=1, gated=True)
