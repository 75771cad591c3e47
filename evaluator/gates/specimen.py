"""The program under examination: builds and runs its layers as the gates need them. Inside the sandbox only."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from evaluator.gates import limits
from evaluator.gates.limits import Overran, wall_limit
from evaluator.program import Builder, CandidateError, Kind, build, deepest_line, describe, seed_generators
from evaluator.tiers import Tier

# Enough to open a gate that was initialised to zero, little enough to leave exponentials tame.
JITTER_STD = 0.1
# What torch says of tensors on two devices, and of a device that is not there; on real and on fake tensors.
_DEVICE_TROUBLE = (
    "same device", "different devices", "expected device", "Device Propagation", "CUDA", "cuda devices", "NVIDIA",
    "meta tensor",
)  # fmt: skip


@dataclass(frozen=True)
class Specimen:
    """A loaded program at one tier."""

    builder: Builder
    kind: Kind
    tier: Tier
    _layers: dict[tuple[int, torch.dtype, bool], nn.Module] = field(default_factory=dict, repr=False, compare=False)

    def layer(self, index: int, dtype: torch.dtype = torch.float32, *, jittered: bool = False) -> nn.Module:
        """Layer `index`, built once per form. `jittered` moves every parameter off its initial value.

        Raises:
            CandidateError: `build_failed`.
        """
        key = (index, dtype, jittered)
        if key not in self._layers:
            self._layers[key] = self._build(index, dtype, jittered=jittered)
        return self._layers[key]

    def _build(self, index: int, dtype: torch.dtype, *, jittered: bool) -> nn.Module:
        seed_generators(index)
        with blamed_on("build_failed", f"building layer {index} of {self.tier.n_layers}"):
            module = build(self.builder, self.tier.d_model, index, self.tier.n_layers)
        module = widened(module) if dtype is torch.float64 else module.float()
        if jittered:
            jitter(module, seed=1000 + index)
        return module

    def probe(self, *shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal (B, L, D): what an RMS-normalised input looks like. The same values in every dtype."""
        return normal((*shape, self.tier.d_model), seed).to(dtype)

    def run(self, module: nn.Module, x: Tensor, *, seed: int | None = 0) -> Tensor:
        """One forward pass without gradient; `seed` fixes dropout and the like, None leaves the generators running.

        Raises:
            CandidateError: `forward_failed`, `device_mismatch`, `too_slow`, `wrong_shape`, `wrong_dtype`,
                `modifies_input`.
        """
        if seed is not None:
            _reseed(seed)
        given = x.clone()
        with torch.no_grad(), blamed_on("forward_failed", f"running on {name_of(x)}"):
            y = module(given)
        checked = check_output(x, y)
        check_untouched(x, given)
        return checked


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float64 values that float32 holds exactly."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def jitter(module: nn.Module, seed: int) -> None:
    """Move every parameter by normal noise of `JITTER_STD`: what is zero at initialisation will not stay zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((JITTER_STD * noise).to(parameter.dtype))


def widened(module: nn.Module) -> nn.Module:
    """`module` itself, its parameters and buffers in float64 or complex128."""

    def widen(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        return tensor.double() if tensor.is_floating_point() else tensor

    return cast(nn.Module, module._apply(widen))  # type: ignore[no-untyped-call]


def check_output(x: Tensor, y: object) -> Tensor:
    """`y` if it is a tensor like `x`.

    Raises:
        CandidateError: `wrong_shape`, `wrong_dtype`, `device_mismatch`.
    """
    if not isinstance(y, Tensor):
        raise CandidateError(
            "wrong_shape", f"the module returned {type(y).__name__} for {name_of(x)}, expected a tensor"
        )
    if y.shape != x.shape:
        raise CandidateError(
            "wrong_shape", f"the module mapped {name_of(x)} to shape {tuple(y.shape)}; it must keep it"
        )
    if y.dtype != x.dtype:
        raise CandidateError("wrong_dtype", f"the module mapped {name_of(x)} to {_dtype(y)}; it must keep the dtype")
    if y.device != x.device:
        raise CandidateError("device_mismatch", f"the module mapped an input on {x.device} to {y.device}")
    return y


def check_untouched(x: Tensor, given: Tensor) -> None:
    """`given` went into a module as a copy of `x`.

    Raises:
        CandidateError: `modifies_input`.
    """
    if not torch.equal(x, given):
        raise CandidateError("modifies_input", f"the forward pass wrote into its {name_of(x)}")


def lasting_state(module: nn.Module) -> dict[str, Any]:
    """Numbers and tensors that the modules hold: what would differ from call to call if they kept count."""
    state: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | Tensor) and name != "training":
                state[f"{path}.{name}".lstrip(".")] = value
    state.update(module.named_parameters())
    state.update(module.named_buffers())
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names whose values differ between two `lasting_state`s."""
    return [name for name, value in after.items() if name in before and not _same(before[name], value)]


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        return torch.allclose(before, after, rtol=0.0, atol=0.0, equal_nan=True)
    return bool(before == after) or (_is_nan(before) and _is_nan(after))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


@contextmanager
def blamed_on(reason: str, doing: str) -> Iterator[None]:
    """Whatever the program raises inside becomes a `CandidateError` that says what was being done, and so does a step
    that takes longer than `limits.STEP_LIMIT_S`."""
    started, limit_s = time.monotonic(), limits.STEP_LIMIT_S
    try:
        with wall_limit(limit_s):
            yield
    except CandidateError:
        raise
    except Overran as error:
        raise _overran(doing, limit_s, deepest_line(error)) from error
    except BaseException as error:  # candidate code may raise anything, SystemExit included
        said = describe(error)
        message = f"the program failed while {doing}: {said.message}"
        raise CandidateError(_code(said, reason), message, line=deepest_line(error), trace=said.trace) from error
    if time.monotonic() - started > limit_s:  # it swallowed the signal, or took it away
        raise _overran(doing, limit_s, None)


def _overran(doing: str, limit_s: float, line: int | None) -> CandidateError:
    where = "" if line is None else f" (it was at line {line} of the program)"
    return CandidateError("too_slow", f"the program took more than {limit_s:g} s while {doing}{where}", line=line)


def _code(said: CandidateError, otherwise: str) -> str:
    if said.reason == "out_of_memory":
        return said.reason
    return "device_mismatch" if any(part in said.message for part in _DEVICE_TROUBLE) else otherwise


def _reseed(seed: int) -> None:
    # As `program.seed_generators`, but for the CPU's generator alone: that one also visits every accelerator, which
    # took a tenth of the ladder's time.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def name_of(x: Tensor) -> str:
    return f"{_dtype(x)} input of shape {tuple(x.shape)}"
