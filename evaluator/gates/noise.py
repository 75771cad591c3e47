"""How far a program's outputs move by rounding alone, and so how large a change must be to mean something.

A fixed tolerance is wrong twice: a float64 program moves by 1e-16 and may hide a leak of 1e-6 under it; one that
computes in float32 inside moves by 1e-7 and would be accused. So the noise of each program is measured, per channel, in
the very batch in which it is judged: three rows differ by relative steps of 0, 1.2e-7 and 2.5e-7, and what is left of
their second difference is no smooth function of the input, hence noise.
Source: Moré and Wild 2011, "Estimating computational noise", SIAM J. Sci. Comput. 33(3), section 3: the k-th difference
of a noisy function has variance sigma² (2k)! / (k!)², which is 6 sigma² for k = 2.

A program might be noisy on purpose, to hide a leak under its noise. Hence two bounds: relative noise and scale are
quantiles over the positions (a few wild ones buy nothing but themselves), and a tolerance never exceeds `CAP` of the
scale; what is noisier cannot be judged and is refused as `unstable`.
B batch, L length, D d_model.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluator.gates.specimen import normal
from evaluator.program import CandidateError

# Some units of float32's rounding, so that nearly every element steps in it. Over such a step a smooth float64 function
# is curved by 1e-14, far below the floor.
STEP = 2.5e-7
ROWS = 3
# A change counts from this many standard deviations of the noise. Honest float32 convolutions by FFT moved by 39 at
# most: the future comes at twice the scale, and the largest of thousands of elements is seen.
MARGIN = 100.0
FLOOR = 1e-10  # honest float64 programs moved by at most 4e-16; the smallest planted leak moved outputs by 3e-4
CAP = 1e-4
_QUANTILE = 0.75
_WEAK_CHANNEL = 1e-2  # a channel that is nearly silent is measured against the others


@dataclass(frozen=True)
class Tolerance:
    """Per position and channel (L, D): the largest change not held against a program, and the scale to tell it by."""

    limit: Tensor
    scale: Tensor

    def exceeded(self, moved: Tensor) -> tuple[float, tuple[int, ...]] | None:
        """The largest offence in |change| (..., at most L, D): relative to the scale there, and its index without D."""
        require_finite(moved, "an output")
        length = moved.shape[-2]
        excess = moved / self.limit[:length]
        worst = excess.amax(dim=-1)  # (..., L)
        where = int(worst.argmax())
        if not float(worst.flatten()[where]) > 1.0:
            return None
        relative = (moved / self.scale[:length]).amax(dim=-1).flatten()[where]
        return float(relative), tuple(int(i) for i in torch.unravel_index(torch.tensor(where), worst.shape))


def steps(x: Tensor) -> Tensor:
    """(1, L, D) -> (3, L, D): the row itself and two steps away from it, for `tolerance`."""
    signs = torch.where(normal(tuple(x.shape), seed=31) > 0, 1.0, -1.0).to(x.dtype)
    return torch.cat((x, x + (STEP / 2) * x * signs, x + STEP * x * signs))


def tolerance(y: Tensor, what: str) -> Tolerance:
    """From the outputs (3, L, D) of `steps`.

    Raises:
        CandidateError: `non_finite`; `unstable`: beyond `CAP`.
    """
    require_finite(y, "an output")
    scale = scale_of(y[0])
    noise = ((y[0] - 2 * y[1] + y[2]).abs() / math.sqrt(6) / scale).quantile(_QUANTILE, dim=0)  # (D,)
    # Rounding is coarse: a channel may happen to show none at these three points while the others do.
    relative = MARGIN * noise.maximum(noise.median())
    worst = float(relative.max())
    if worst > CAP:
        raise CandidateError(
            "unstable",
            f"{what} is too noisy to be judged: an input changed by {STEP:.0e} of itself moves outputs by "
            f"{worst / MARGIN:.1e} of their scale in a way that no smooth function does (at most {CAP / MARGIN:.1e})",
        )
    return Tolerance(relative.clamp_min(FLOOR) * scale, scale)


def floor(y: Tensor) -> Tolerance:
    """For the output (L, D) of a program that computes in float64 throughout."""
    require_finite(y, "an output")
    scale = scale_of(y)
    return Tolerance(FLOOR * scale, scale)


def scale_of(y: Tensor) -> Tensor:
    """(L, D) -> (L, D): the usual size of each channel where it is not zero, or the element's own if that is larger."""
    usual = _median_size(y, dim=0)
    overall = _median_size(y.flatten(), dim=0)
    return usual.maximum(_WEAK_CHANNEL * overall).maximum(y.abs()).clamp_min(1e-30)


def _median_size(y: Tensor, dim: int) -> Tensor:
    return y.abs().masked_fill(y == 0, math.nan).nanmedian(dim=dim).values.nan_to_num(0.0)


def require_finite(value: Tensor, what: str) -> None:
    """Raises: CandidateError: `non_finite`: NaN compares false with every tolerance and must not pass for equality."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise CandidateError("non_finite", f"{what} holds {bad} NaN or infinite value(s) of {value.numel()}")
