"""Where and how a training step runs: device, precision, capture, compilation. Inside the sandbox only.

One module owns these choices. Each comes with its reason, and the trial stores both:
- device: the accelerator if torch sees one, else the CPU;
- precision: part of the frozen recipe, never a matter of speed: what is compared must be computed alike. bfloat16 is
  autocast on an accelerator only;
- how the step is launched (plain, a captured CUDA graph, compiled) changes no formula, so it is decided by a
  measurement: every form that works is timed on the model and batch at hand, and the fastest is taken if it beats the
  plain form by `WORTH`.

On a CPU the step is always plain: `vmap` over seeds gains 1.1x at the smoke tier's sizes, and compiling took 270 s for
a gain of 1.33x where a whole trial takes 5 s (measured before the project began; docs/evaluation.md).
Not covered: more than one accelerator. The accelerator's branches have never been executed on one.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluator.program import compiler
from evaluator.tiers import Recipe

WORTH = 1.05  # a form must be this much faster than the plain one
_WARM_UP, _TIMED = 3, 10

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Execution:
    """The device and precision of a trial, and why. `reasons` goes into the trial's record."""

    device: torch.device
    autocast: bool
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def accelerated(self) -> bool:
        return self.device.type != "cpu"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.accelerated:
            torch.cuda.synchronize(self.device)


def choose(recipe: Recipe) -> Execution:
    """The device of this worker and the recipe's precision on it."""
    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        why = f"accelerator {torch.cuda.get_device_name(device)}"
    else:
        device, why = torch.device("cpu"), f"no accelerator; {torch.get_num_threads()} CPU thread(s)"
    half = recipe.precision == "bfloat16"
    autocast = half and device.type == "cuda"
    precision = "bfloat16 autocast, as the recipe says" if autocast else "float32"
    if half and not autocast:
        precision = "float32: the recipe's bfloat16 needs an accelerator"
    return Execution(device, autocast, {"device": why, "precision": precision})


def fastest(
    execution: Execution, forms: Mapping[str, Callable[[], Step]], batch: tuple[Tensor, Tensor, Tensor]
) -> tuple[Step, dict[str, str]]:
    """The form of the step to use, and the measured reason. The first form is the plain one.

    A form that fails to build or to run is left out, and its error is the reason. The steps are run on `batch`; they
    must change nothing but gradients.
    """
    plain_name, *others = forms
    plain = forms[plain_name]()
    if not others:
        return plain, {"step": f"{plain_name}: no other form is tried on this device"}
    times = {plain_name: _seconds(execution, plain, batch)}
    built, refused = {plain_name: plain}, {}
    for name in others:
        try:
            built[name] = forms[name]()
            times[name] = _seconds(execution, built[name], batch)
        except Exception as error:  # noqa: BLE001  candidate code under a compiler or a capture: anything may come out
            refused[name] = f"{type(error).__name__}: {str(error)[:80]}"
            execution.wait()
    best = min(times, key=lambda name: times[name])
    if times[plain_name] < WORTH * times[best]:
        best = plain_name
    measured = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items())
    reasons = {"step": f"{best}: measured {measured}"}
    return built[best], reasons | {f"no {name}": why for name, why in refused.items()}


def _seconds(execution: Execution, step: Step, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    for _ in range(_WARM_UP):
        step(*batch)
    execution.wait()
    began = time.perf_counter()
    for _ in range(_TIMED):
        step(*batch)
    execution.wait()
    return (time.perf_counter() - began) / _TIMED


def captured(step: Step, batch: tuple[Tensor, Tensor, Tensor]) -> Step:
    """`step` as one CUDA graph over buffers of its own. Shapes are fixed from here on.

    Source: the capture protocol of torch.cuda.CUDAGraph: warm up on a side stream, capture, then copy and replay.
    """
    inputs = tuple(one.clone() for one in batch)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*inputs)

    def replay(*fresh: Tensor) -> Tensor:
        for buffer, value in zip(inputs, fresh, strict=True):
            if buffer.shape != value.shape:  # a batch that trains another number of positions: run it as it is
                return step(*fresh)
            buffer.copy_(value)
        graph.replay()
        return loss

    return replay


def compiled(step: Step) -> Step:
    """`step` through torch's compiler, for fixed shapes. Programs themselves never reach it (`program.load`)."""
    return compiler(step, dynamic=False)
