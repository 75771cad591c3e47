"""How the work grows with length, and whether training would end in time. Inside the sandbox only.

Import it lazily, like `evaluator.cost`.
"""

import resource
import time
from dataclasses import dataclass

import torch

from evaluator.cost import LONG, SHORT, Growth, growth
from evaluator.gates.specimen import Specimen, blamed_on, name_of
from evaluator.program import CandidateError

_TRAINING_PER_FORWARD = 3.0  # forward, and a backward of twice its work


@dataclass(frozen=True)
class Complexity:
    message: str
    growth: Growth


def complexity(specimen: Specimen, max_exponent: float | None) -> Complexity:
    """Counts, and one timed forward pass.

    Raises:
        CandidateError: `too_complex`: above the campaign's limit. `too_slow`: training would pass the tier's deadline.
    """
    found = growth(specimen)
    said = (
        f"work grows like L^{found.exponent:.2f} between L={SHORT} and L={LONG} (layer {found.layer}, {found.quantity})"
    )
    if max_exponent is not None and found.exponent > max_exponent:
        raise CandidateError("too_complex", f"the {said}; the limit is {max_exponent:g}")
    limit = "none set" if max_exponent is None else f"{max_exponent:g}"
    message = f"{said[0].upper()}{said[1:]}; limit {limit}."
    if not specimen.tier.accelerator:  # the pace of a CPU says nothing of an accelerator's
        message += f" The layers would take about {training_estimate(specimen):.0f} s to train here."
    return Complexity(message, found)


def training_estimate(specimen: Specimen) -> float:
    """Seconds that the layers alone would take to train on this machine, from the faster of two passes.

    CPU time where the program only computes, lest a busy machine be held against it; wall time where it waits.

    Raises:
        CandidateError: `too_slow`.
    """
    tier = specimen.tier
    steps = max(tier.plan(task).steps for task in tier.ranking_tasks)
    estimate = pace = 0.0
    for index in range(tier.n_layers):
        pace = _forward_seconds(specimen, index)
        if _TRAINING_PER_FORWARD * steps * pace > tier.train_timeout_s / 2:
            pace = min(pace, _forward_seconds(specimen, index))
        estimate += _TRAINING_PER_FORWARD * steps * pace
        if estimate > tier.train_timeout_s:
            raise CandidateError(
                "too_slow",
                f"one forward pass of layer {index} takes {pace:.2g} s at B={tier.batch}, L={max(tier.lengths)}: "
                f"{steps} training steps would take {estimate:.0f} s or more, and the limit is "
                f"{tier.train_timeout_s:g} s",
            )
    return estimate


def _forward_seconds(specimen: Specimen, index: int) -> float:
    tier = specimen.tier
    x = specimen.probe(tier.batch, max(tier.lengths), seed=8, dtype=torch.float32)
    module = specimen.layer(index)
    module.train()
    waits, wall, computing = _waits(), time.perf_counter(), time.thread_time()
    with torch.no_grad(), blamed_on("forward_failed", f"running layer {index} on {name_of(x)}"):
        module(x)
    wall, computing = time.perf_counter() - wall, time.thread_time() - computing
    return wall if _waits() > waits else computing


def _waits() -> int:
    """How often this thread gave up the processor of its own accord: a sleeper does, a preempted one does not."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
