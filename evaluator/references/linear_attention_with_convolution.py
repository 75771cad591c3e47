"""Linear attention behind a short convolution: the recipe of Based.

Linear attention alone cannot see which token stood beside which; four taps of convolution give it the bigrams that
recall is made of.

    S_t = S_(t-1) + phi(k_t) v_t^T,   z_t = z_(t-1) + phi(k_t)
    y_t = S_t^T phi(q_t) / (z_t · phi(q_t)),   phi(x) = elu(x) + 1

Source: Katharopoulos et al. 2020, "Transformers are RNNs: fast autoregressive transformers with linear attention",
arXiv:2006.16236, sections 3.2-3.3. The convolution before it: Arora et al. 2024,
"Simple linear attention language models balance the recall-throughput tradeoff" (Based), arXiv:2402.18668.

What differs:
- the convolution feeds the attention of the same layer, where Based alternates the two between layers;
- `elu` features, not Based's second-order Taylor expansion of the exponential;
- chunks of 64, as in `linear_attention`.

Shapes: B batch, L length, H heads, D features of a head, N chunks of C steps.
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


def positive_features(x: Tensor, name: str) -> Tensor:
    """The map phi that replaces the exponential of softmax; values are >= 0, so that weights are too."""
    if name == "elu":
        return F.elu(x) + 1
    if name == "relu":
        return F.relu(x)
    if name == "exp":
        return x.softmax(dim=-1)  # an exponential that cannot overflow: normalised over the features
    return F.relu(x).square()


class LinearAttention(nn.Module):
    """Attention with phi(q)·phi(k) for exp(q·k): the past is one matrix per head, whatever its length."""

    def __init__(self, d_model: int, *, n_heads: int = 2, feature_map: str = "elu", normalise: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        if feature_map not in ("elu", "relu", "exp", "squared_relu"):
            raise ValueError(f"unknown feature_map {feature_map!r}: elu, relu, exp or squared_relu")
        self.n_heads, self.feature_map, self.normalise = n_heads, feature_map, normalise
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.n_heads) for t in self.qkv(x).chunk(3, dim=-1))
        q, k = positive_features(q, self.feature_map), positive_features(k, self.feature_map)
        if self.normalise:
            v = F.pad(v, (0, 1), value=1.0)  # a column of ones sums the weights: numerator and denominator in one go
        q, k, v = (split_chunks(t) for t in (q, k, v))  # (B, H, N, C, D)
        y = (q @ k.mT).tril() @ v
        if q.shape[2] > 1:
            state = (k.mT @ v).cumsum(dim=2)[:, :, :-1]  # after each chunk but the last, (B, H, N - 1, Dk, Dv)
            y = y + q @ F.pad(state, (0, 0, 0, 0, 1, 0))  # before each chunk: the first one starts from nothing
        y = merge_chunks(y, x.shape[1])
        y = y[..., :-1] / (y[..., -1:] + 1e-6) if self.normalise else F.rms_norm(y, y.shape[-1:], eps=1e-6)
        return self.out(merge_heads(y))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    return nn.Sequential(
        ShortConvolution(d_model, kernel_size=4, activation="none"), LinearAttention(d_model, n_heads=n_heads)
    )
