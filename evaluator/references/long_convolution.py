"""Gated long convolution: a filter as long as the sequence, given by a small network, between two gates (Hyena).

    q, k, v = conv(W x),   y_t = W_o (q_t * sum_s h_s (k v)_(t-s)),   h_s = window_s network(waves(s))

The filter is the same for every input; what is kept depends on what is read through the two gates alone.

Source: Poli et al. 2023, "Hyena hierarchy: towards larger convolutional language models", arXiv:2302.10866, section
3 (the recurrence, at order 2; filters from positional features, under a window; the FFT).

What differs:
- of the two filters of order 2 the first is the short convolution, as in H3 and in the authors' code;
- waves of 2, 4 ... 256 steps, with no feature that depends on L: position t's output does not change with what follows;
- sines without a learned frequency, a window without an offset, and window reaches that are learned.

Shapes: B batch, L length, D features. O(L log L) through the FFT.
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


def fft_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution over the whole sequence, y_t = sum_s kernel_s x_(t-s): x (B, L, D), kernel (L, D)."""
    length = x.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)  # no FFT in half precision
    # Twice the length: the circular convolution of an FFT must not wrap the end onto the beginning.
    spectrum = torch.fft.rfft(x.to(dtype), n=2 * length, dim=1) * torch.fft.rfft(kernel.to(dtype), n=2 * length, dim=0)
    return torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length].to(x.dtype)


class LongConvolution(nn.Module):
    """A filter as long as the sequence between two multiplicative gates; a small network gives the filter's values."""

    def __init__(self, d_model: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.project = nn.Linear(d_model, 3 * d_model, bias=False)
        bound = kernel_size**-0.5
        self.taps = nn.Parameter(torch.empty(kernel_size, 3 * d_model).uniform_(-bound, bound))
        with torch.no_grad():
            # Starts as the present plus a little of the past: with all taps random, recall is learnt later.
            self.taps[-1] = 1.0
        # The filter's network: a cosine and a sine of 8 waves in, one value per channel out.
        self.rise, self.bend, self.values = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, d_model, bias=False)
        # Windows e^(-t / reach) with reaches of 2 to 500 steps.
        self.log_reach = nn.Parameter(torch.linspace(math.log(2.0), math.log(500.0), d_model))
        self.skip = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def kernel(self, length: int) -> Tensor:
        """(L, D). A value depends on its own lag only, not on L: a prefix is convolved as the whole sequence is."""
        reach = self.log_reach.exp()
        lag = torch.arange(length, device=reach.device, dtype=reach.dtype)[:, None]
        wave = 2.0 ** torch.arange(1, 9, device=reach.device, dtype=reach.dtype)  # 2, 4 ... 256 steps
        angle = 2 * math.pi * lag / wave
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        shape = self.values(self.bend(self.rise(features).sin()).sin())
        return shape * torch.exp(-lag / reach) * reach**-0.5  # the root: as large an output, whatever the reach

    def forward(self, x: Tensor) -> Tensor:
        outer, inner, v = causal_convolution(self.project(x), self.taps).chunk(3, dim=-1)
        v = inner * v
        return self.out(outer * (fft_convolution(v, self.kernel(x.shape[1])) + self.skip * v))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return LongConvolution(d_model)
