"""Hybrid: local attention and linear attention side by side in the even layers, a gated recurrence in the odd ones.

Shows what a program can do beyond one mixer repeated: layers that differ (`layer_index`), and mixers built out of
mixers (`Serial`, `Parallel`, `MultiplicativeGate`, `PreNorm`, each a mixer itself: (B, L, D) -> (B, L, D), causal).

    even layers:  window_attention(u) + linear_attention(rms_norm(u)),   u = conv(x)
    odd layers:   W_o (silu(W_g x) * recurrence(conv(x)))

Source: the recurrent block and its alternation with local attention: De et al. 2024, "Griffin", arXiv:2402.19427,
sections 2.2-2.4. Two kinds of heads side by side in one layer: Dong et al. 2024, "Hymba", arXiv:2411.13676. Linear
attention for far and a window for near: Arora et al. 2024, "Based", arXiv:2402.18668.

What differs: attention comes first, where Griffin starts with two recurrent layers. With the order of two layers turned
around, recall stays unlearnt within the smoke tier's steps (seed 0: accuracy 0.35 instead of 1.00).

Shapes: B batch, L length, H heads, D features of a head, N chunks of C steps, W window, N blocks of W steps. Linear in
L but for the scan's log L.
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


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_(t-1) + b_t for all t, (B, L, D): each round doubles how far back a step has looked.

    ceil(log2 L) rounds of elementwise operations on the whole sequence. Source: Hillis & Steele 1986.
    """
    length, reach = b.shape[1], 1
    while reach < length:
        b = torch.addcmul(b, a, F.pad(b[:, :-reach], (0, 0, reach, 0)))
        a = a * F.pad(a[:, :-reach], (0, 0, reach, 0))
        reach *= 2
    return b


class GatedRecurrence(nn.Module):
    """A diagonal recurrence in which the input decides what each channel keeps and what it takes in."""

    def __init__(self, d_model: int, *, expansion: int = 1) -> None:
        super().__init__()
        width = expansion * d_model
        self.project = nn.Linear(d_model, 3 * width)  # input, recurrence gate, input gate
        # decay^8 is spread over 0.9 ... 0.999, as in Griffin: memories of 10 to 1000 steps.
        decay = torch.linspace(0.9, 0.999, width) ** (1 / 8)
        self.rate = nn.Parameter(torch.log(torch.expm1(-torch.log(decay))))  # softplus(rate) = -log(decay)
        self.out = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, recurrence_gate, input_gate = self.project(x).chunk(3, dim=-1)
        log_decay = -8 * F.softplus(self.rate) * recurrence_gate.sigmoid()
        # sqrt(1 - decay^2) keeps the size of h whatever the decay; the floor keeps the gradient of the root finite.
        intake = torch.sqrt((-torch.expm1(2 * log_decay)).clamp(min=1e-6))
        return self.out(linear_scan(log_decay.exp(), intake * input_gate.sigmoid() * value))


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


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Sliding-window attention of (B, H, L, D) in O(L · window): block n of queries meets key blocks n - 1 and n."""
    length = q.shape[2]
    n_blocks = -(-length // window)
    filling = n_blocks * window - length
    q = F.pad(q, (0, 0, 0, filling)).unflatten(2, (n_blocks, window))  # (B, H, N, W, D)
    k, v = (F.pad(t, (0, 0, window, filling)).unfold(2, 2 * window, window).mT for t in (k, v))  # (B, H, N, 2W, D)
    query = torch.arange(window, device=q.device)[:, None] + window  # positions inside the two key blocks
    key = torch.arange(2 * window, device=q.device)
    near = (key <= query) & (key > query - window)
    not_padding = (key >= window) | (torch.arange(n_blocks, device=q.device)[:, None, None] > 0)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=near & not_padding)
    return y.flatten(2, 3)[:, :, :length]


class SoftmaxAttention(nn.Module):
    """Causal multi-head attention; `window` > 0 lets a position see itself and the `window` - 1 before it."""

    def __init__(
        self, d_model: int, *, n_heads: int = 2, window: int = 0, rotary: bool = True, qk_norm: bool = False
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
        self.n_heads, self.window, self.rotary = n_heads, window, rotary
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        # One learned length per head: normalised queries and keys alone would bound the logits to a flat softmax.
        self.qk_scale = nn.Parameter(torch.full((n_heads, 1), (d_model // n_heads) ** 0.5)) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # (B, L, H, D) each
        if self.qk_scale is not None:
            q, k = F.normalize(q, dim=-1) * self.qk_scale, F.normalize(k, dim=-1) * self.qk_scale
        if self.rotary:
            q, k = rotate(torch.cat([q, k], dim=2)).chunk(2, dim=2)  # both at once: half the operations
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, L, D)
        if 0 < self.window < x.shape[1]:
            y = windowed_attention(q, k, v, self.window)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


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


class Serial(nn.Module):
    """`second` reads what `first` wrote."""

    def __init__(self, d_model: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.d_model, self.first, self.second = d_model, first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Parallel(nn.Module):
    """Both read the input; their outputs are summed, or mixed channel by channel by a gate that the input sets."""

    def __init__(self, d_model: int, first: nn.Module, second: nn.Module, *, mix: str = "sum") -> None:
        super().__init__()
        if mix not in ("sum", "gate"):
            raise ValueError(f"mix must be 'sum' or 'gate', got {mix!r}")
        self.first, self.second = first, second
        self.gate = nn.Linear(d_model, d_model) if mix == "gate" else None

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        if self.gate is None:
            return first + second
        return torch.lerp(first, second, self.gate(x).sigmoid())


class MultiplicativeGate(nn.Module):
    """out(silu(gate(x)) * inner(x)): the branch beside the mixer lets the present position veto what it fetched."""

    def __init__(self, d_model: int, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.inner(x))


class PreNorm(nn.Module):
    """Normalises each position before `inner`: useful for the second of two mixers in series."""

    def __init__(self, d_model: int, inner: nn.Module, *, norm: str = "rms") -> None:
        super().__init__()
        if norm not in ("rms", "layer"):
            raise ValueError(f"norm must be 'rms' or 'layer', got {norm!r}")
        self.norm = nn.RMSNorm(d_model, eps=1e-6) if norm == "rms" else nn.LayerNorm(d_model)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    convolution = ShortConvolution(d_model, kernel_size=4, activation="none")
    if layer_index % 2 == 1:
        return MultiplicativeGate(d_model, Serial(d_model, convolution, GatedRecurrence(d_model)))
    # Two heads of 16 features at the small sizes; heads grow to 64 features before there are more of them.
    n_heads = max(2, d_model // 64)
    near = SoftmaxAttention(d_model, n_heads=n_heads, window=64)
    far = PreNorm(d_model, LinearAttention(d_model, n_heads=n_heads))
    return Serial(d_model, convolution, Parallel(d_model, near, far, mix="sum"))
