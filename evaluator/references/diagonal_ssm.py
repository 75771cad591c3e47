"""Diagonal state-space model: a long convolution whose kernel is a sum of damped oscillations.

Linear and time-invariant: what it keeps does not depend on what it reads. That is what input-dependent gates
(`gated_recurrence`) and matrix states (`linear_attention`) were invented to repair.

    h_t = e^(step·A) h_(t-1) + step·B x_t,   y_t = Re(C h_t) + skip·x_t,   A diagonal and complex

Source: Gu, Gupta, Goel & Ré 2022, "On the parameterization and initialization of diagonal state space models"
(S4D), arXiv:2206.11893, sections 3 and 4 (initialisation S4D-Lin: A_n = -1/2 + i·pi·n).

What differs:
- real arithmetic: Re(C e^((-a + i w) t)) is written out as a cosine and a sine, so that no parameter is complex;
- B is folded into C, and the input is discretised by step·B (Euler) and not by zero-order hold;
- time steps are spread evenly over the channels and not drawn at random.

Shapes: B batch, L length, D channels, N states per channel. O(L log L) through the FFT.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DiagonalSSM(nn.Module):
    """`d_state` damped oscillators per channel, the same at every step: a long convolution with a learned kernel."""

    def __init__(self, d_model: int, *, d_state: int = 8) -> None:
        super().__init__()
        # S4D-Lin: A_n = -1/2 + i·pi·n; time steps spread over the channels, so that memories of 2 to 200 steps coexist.
        low, high = math.log(1e-2), math.log(1.0)
        self.log_step = nn.Parameter(torch.linspace(low, high, d_model)[:, None])
        self.log_damping = nn.Parameter(torch.full((d_model, d_state), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(d_state).float().repeat(d_model, 1))
        self.readout = nn.Parameter(torch.randn(2, d_model, d_state) / d_state**0.5)
        self.skip = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model)

    def kernel(self, length: int) -> Tensor:
        """(L, D): k_t = step · sum_n e^(-damping·t) (c_n cos(frequency·t) + s_n sin(frequency·t)), as real numbers."""
        step = self.log_step.exp()
        time = torch.arange(length, device=step.device, dtype=step.dtype)[:, None, None]
        damped = torch.exp(-time * (self.log_damping.exp() * step))  # (L, D, N)
        angle = time * (self.frequency * step)
        cos_readout, sin_readout = self.readout.unbind(0)
        return (damped * (cos_readout * angle.cos() + sin_readout * angle.sin())).sum(dim=-1) * step[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        dtype = torch.promote_types(x.dtype, torch.float32)  # no FFT in half precision
        # Twice the length: the circular convolution of an FFT must not wrap the end onto the beginning.
        spectrum = torch.fft.rfft(x.to(dtype), n=2 * length, dim=1) * torch.fft.rfft(
            self.kernel(length).to(dtype), n=2 * length, dim=0
        )
        y = torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length].to(x.dtype)
        return self.out(F.silu(y + self.skip * x))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return DiagonalSSM(d_model)
