"""The fake-tensor gate: build and run the program at several sizes without computing anything. Inside the sandbox only.

It costs milliseconds and finds nearly every program that cannot work, at sizes that nobody would want to compute, and
counts parameters before any are allocated.
- Meta tensors first: they have shapes and no device to speak of. What runs on them passes.
- What does not is loaded anew and run on torch's fake tensors, which know devices and say more. They take ten times as
  long, and pull in torch's compiler (about one second).
- Operations whose result depends on data (`.item()`, `nonzero`) have no counterpart in either: such a program passes
  here and is judged by the real gates.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from evaluator.gates.specimen import blamed_on, check_output
from evaluator.program import CandidateError, build, load
from evaluator.skeleton import parameter_count
from evaluator.tiers import Tier

_MOST_BUFFER_BYTES = 1 << 30  # parameters have their budget; a buffer of this size fits no tier's sandbox twice


@dataclass(frozen=True)
class FakeBuild:
    """What the gate found. `parameters` are those of all layers at the tier's width; None where it stopped early."""

    message: str
    parameters: int | None
    warning: str | None = None


def fake_build(source: str, tier: Tier) -> FakeBuild:
    """Every layer at the tier's width and longest length; the first and last at other widths, batches and lengths.

    Raises:
        CandidateError: `build_failed`, `fake_build_failed`, `device_mismatch`, `wrong_shape`, `wrong_dtype`,
            `too_slow`, `out_of_memory`.
    """
    try:
        return _run(source, tier, lambda: torch.device("meta"), "meta")
    except CandidateError as error:
        if error.reason in ("too_slow", "out_of_memory"):
            raise
    return _on_fake_tensors(source, tier)


def _on_fake_tensors(source: str, tier: Tier) -> FakeBuild:
    from torch._subclasses import fake_tensor as fakes

    # What fails on fake tensors is told in the verdict; torch would also write the traceback into the log.
    logging.getLogger(fakes.__name__).setLevel(logging.CRITICAL)
    with fakes.FakeTensorMode():  # the first fake operation imports much more of torch, which is not the program's time
        nn.Linear(2, 2)(torch.empty(1, 2, 2)).sum()
    try:
        return _run(source, tier, lambda: fakes.FakeTensorMode(allow_non_fake_inputs=True), "fake")
    except CandidateError as error:
        shapes = isinstance(error.__cause__, fakes.DynamicOutputShapeException)
        values = fakes.DataDependentOutputException, fakes.UnsupportedFakeTensorException
        if shapes or isinstance(error.__cause__, values):
            return _beyond(error, shapes=shapes)
        raise


def _run(source: str, tier: Tier, mode: Callable[[], AbstractContextManager[object]], kind: str) -> FakeBuild:
    with blamed_on("build_failed", "executing its top level"):
        builder, _ = load(source)
    parameters = sizes = 0
    for index, batch, length, width in _sizes(tier):
        doing = f"building and running layer {index} on {kind} tensors at B={batch}, L={length}, d_model={width}"
        with blamed_on("fake_build_failed", doing), mode():
            module = build(builder, width, index, tier.n_layers)
            _check_buffers(module, index)
            if width == tier.d_model:
                parameters += parameter_count(module)
            x = torch.empty(batch, length, width)
            check_output(x, module(x))
        sizes += 1
    return FakeBuild(f"Builds and runs on {kind} tensors ({sizes} sizes and layers tried).", parameters)


def _sizes(tier: Tier) -> Iterator[tuple[int, int, int, int]]:
    """Layer, B, L, d_model."""
    longest, last = max(tier.lengths), tier.n_layers - 1
    yield from ((index, 2, longest, tier.d_model) for index in range(tier.n_layers))
    # Other widths at small lengths: the real gates run other lengths, and a fake operation costs a millisecond.
    yield last, 3, 7, 2 * tier.d_model
    yield 0, 1, 17, 4 * tier.d_model


def _check_buffers(module: nn.Module, index: int) -> None:
    size = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    if size > _MOST_BUFFER_BYTES:
        raise CandidateError("out_of_memory", f"the buffers of layer {index} take {size / 2**30:.1f} GiB")


def _beyond(error: CandidateError, *, shapes: bool) -> FakeBuild:
    where = f" on line {error.line}" if error.line else ""
    said = f"an operation whose result depends on data{where}"
    warning = f"the program uses {said}: its shapes are known only when it runs; prefer masks and torch.where"
    message = f"Skipped: the program uses {said}, which has no fake counterpart."
    return FakeBuild(message, None, warning if shapes else None)
