"""The program under examination: builds its layers as the gates need them. Inside the sandbox only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from evaluator.program import Builder, CandidateError, Kind, build, deepest_line, describe, seed_generators
from evaluator.tiers import Tier

# Enough to open a gate that was initialised to zero, little enough to leave exponentials tame.
JITTER_STD = 0.1


@dataclass(frozen=True)
class Specimen:
    """A loaded program at one tier."""

    builder: Builder
    kind: Kind
    tier: Tier

    def layer(self, index: int, dtype: torch.dtype = torch.float32, *, jittered: bool = False) -> nn.Module:
        """Layer `index`, the same at every call. `jittered` moves every parameter off its initial value.

        Raises:
            CandidateError: `build_failed`.
        """
        seed_generators(index)
        with blamed_on("build_failed", f"building layer {index} of {self.tier.n_layers}"):
            module = build(self.builder, self.tier.d_model, index, self.tier.n_layers)
        module = _widened(module) if dtype is torch.float64 else module.float()
        if jittered:
            generator = torch.Generator().manual_seed(1000 + index)
            with torch.no_grad():
                for parameter in module.parameters():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_((JITTER_STD * noise).to(parameter.dtype))
        return module

    def probe(self, *shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal (B, L, D): what an RMS-normalised input looks like."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, self.tier.d_model, generator=generator, dtype=torch.float64).to(dtype)

    def run(self, module: nn.Module, x: Tensor, *, seed: int | None = 0) -> Tensor:
        """One forward pass without gradient; `seed` fixes dropout and the like, None leaves the generators running.

        Raises:
            CandidateError: `forward_failed`, `wrong_shape`, `wrong_dtype`.
        """
        if seed is not None:
            seed_generators(seed)
        with torch.no_grad(), blamed_on("forward_failed", f"running on {_name(x)}"):
            y = module(x)
        return check_output(x, y)


def check_output(x: Tensor, y: object) -> Tensor:
    """`y` if it is a tensor like `x`.

    Raises:
        CandidateError: `wrong_shape`, `wrong_dtype`.
    """
    if not isinstance(y, Tensor):
        raise CandidateError("wrong_shape", f"the module returned {type(y).__name__} for {_name(x)}, expected a tensor")
    if y.shape != x.shape:
        raise CandidateError("wrong_shape", f"the module mapped {_name(x)} to shape {tuple(y.shape)}; it must keep it")
    if y.dtype != x.dtype:
        raise CandidateError("wrong_dtype", f"the module mapped {_name(x)} to {_dtype(y)}; it must keep the dtype")
    return y


@contextmanager
def blamed_on(reason: str, doing: str) -> Iterator[None]:
    """Whatever the program raises inside becomes a `CandidateError` that says what was being done."""
    try:
        yield
    except CandidateError:
        raise
    except BaseException as error:  # candidate code may raise anything, SystemExit included
        said = describe(error)
        code = said.reason if said.reason == "out_of_memory" else reason
        message = f"the program failed while {doing}: {said.message}"
        raise CandidateError(code, message, line=deepest_line(error), trace=said.trace) from error


def _widened(module: nn.Module) -> nn.Module:
    def widen(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        return tensor.double() if tensor.is_floating_point() else tensor

    return cast(nn.Module, module._apply(widen))  # type: ignore[no-untyped-call]


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _name(x: Tensor) -> str:
    return f"{_dtype(x)} input of shape {tuple(x.shape)}"
