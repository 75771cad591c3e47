"""Tolerances follow a program's own noise, and no program can buy itself a large one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluator.gates import noise
from evaluator.gates.specimen import changed, lasting_state, normal
from evaluator.program import CandidateError

L, D = 24, 8


def measured(function: object) -> noise.Tolerance:
    x = normal((1, L, D), seed=3)
    return noise.tolerance(function(noise.steps(x)), "it")  # type: ignore[operator]


def smooth(x: Tensor) -> Tensor:
    return torch.tanh(x.cumsum(1))


def test_a_float64_program_gets_the_floor() -> None:
    allowed = measured(smooth)
    assert torch.equal(allowed.limit, noise.FLOOR * allowed.scale)


def test_a_program_that_computes_in_float32_gets_what_it_needs() -> None:
    allowed = measured(lambda x: torch.fft.irfft(torch.fft.rfft(x.float(), dim=1), n=L, dim=1).double())
    relative = allowed.limit / allowed.scale
    assert float(relative.min()) > 1e-8
    assert float(relative.max()) < noise.CAP


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-4, 10.0))
def test_noise_that_could_hide_a_leak_is_refused(size: float) -> None:
    with pytest.raises(CandidateError) as caught:
        measured(lambda x: smooth(x) + size * torch.sin(1e14 * x))
    assert caught.value.reason == "unstable"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, L - 1), st.floats(1.0, 1e12))
def test_one_wild_position_buys_nothing(position: int, loudness: float) -> None:
    def wild(x: Tensor) -> Tensor:
        y = smooth(x)
        y[:, position] *= loudness
        return y

    others = [other for other in range(L) if other != position]
    assert float(measured(wild).limit[others].max()) <= 3 * float(measured(smooth).limit.max())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, L - 1), st.integers(0, D - 1), st.floats(1e-6, 1e3))
def test_any_change_above_the_tolerance_is_found_where_it_is(position: int, channel: int, size: float) -> None:
    allowed = measured(smooth)
    moved = torch.zeros(2, L, D, dtype=torch.float64)
    assert allowed.exceeded(moved) is None
    moved[1, position, channel] = size
    found = allowed.exceeded(moved)
    assert found is not None
    relative, where = found
    assert where == (1, position)
    assert relative == pytest.approx(size / float(allowed.scale[position, channel]))


def test_nan_is_no_equality() -> None:
    with pytest.raises(CandidateError) as caught:
        measured(smooth).exceeded(torch.full((1, L, D), float("nan")))
    assert caught.value.reason == "non_finite"


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.length = 0
        self.register_buffer("mean", torch.full((2,), float("nan")))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.length = x.shape[1]
        return x


def test_state_that_moves_with_every_call_is_named() -> None:
    module = torch.nn.Sequential(Counting(), torch.nn.Linear(2, 2))
    x = torch.zeros(1, 3, 2)
    module(x)
    before = lasting_state(module)
    assert changed(before, lasting_state(module)) == []
    module(x)
    assert changed(before, lasting_state(module)) == ["0.calls"]
    with torch.no_grad():
        module[1].weight.add_(1.0)
    assert changed(before, lasting_state(module)) == ["0.calls", "1.weight"]
