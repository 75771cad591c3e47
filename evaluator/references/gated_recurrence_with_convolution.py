"""Gated linear recurrence behind a short convolution: neighbours first, then what each channel keeps.

    r_t = sigmoid(W_r x_t + b_r),   i_t = sigmoid(W_i x_t + b_i)
    a_t = e^(-8 softplus(rate) r_t)
    h_t = a_t * h_(t-1) + sqrt(1 - a_t^2) * (i_t * (W x_t + b))

Source: the RG-LRU of De et al. 2024, "Griffin: mixing gated linear recurrences with local attention for efficient
language models", arXiv:2402.19427, section 2.4, equations 1-4, behind the convolution of section 2.3. The gates read
the input and not the state, as in minGRU (Feng et al. 2024, arXiv:2410.01201): this is what makes the recurrence
linear, and a parallel scan possible.

What differs:
- without the multiplicative branch of Griffin's block (`hybrid` has it): the convolution is the only change from
  `gated_recurrence`;
- full gate matrices, not block-diagonal ones;
- a doubling scan over whole sequences where a GPU kernel would step through time.

Shapes: B batch, L length, D features. O(L log L) elementwise operations.
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


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return nn.Sequential(ShortConvolution(d_model, kernel_size=4, activation="none"), GatedRecurrence(d_model))
