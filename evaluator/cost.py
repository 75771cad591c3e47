"""What a model costs: parameters, FLOPs per token, growth with length. Counted, not timed. Inside the sandbox only.

Timing cannot tell linear from quadratic at these sizes; counting has no noise. Scaled-dot-product attention is counted
under its math backend, since the counter does not see into the fused kernel.
Import it lazily: dispatch modes pull in torch's compiler (about one second).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.skeleton import Sizes, build_model

_SHORT, _LONG = 256, 512


class WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the FLOPs of matrix products, convolutions and attention, and the elements written by every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        if not func.is_view:
            self.elements += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


def count(module: nn.Module, x: Tensor) -> WorkCounter:
    """The work of one forward pass. Runs the program's code."""
    module.eval()
    counter = WorkCounter()
    doing = f"counting its operations at L={x.shape[1]}"
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), blamed_on("forward_failed", doing), counter:
        module(x)
    return counter


def profile(specimen: Specimen, vocabulary: int) -> dict[str, float]:
    """The fields of `gating.CostProfile`."""
    sizes: Sizes
    model, sizes = build_model(specimen.builder, specimen.kind, specimen.tier, vocabulary, seed=0)
    length = max(specimen.tier.lengths)
    flops = count(model, torch.zeros(1, length, dtype=torch.int64)).flops
    return {
        "parameters": sizes.total,
        "mixer_parameters": sizes.program,
        "mlp_hidden": min(sizes.mlp_hidden, default=0),
        "flops_per_token": flops / length,
        "length_exponent": length_exponent(specimen),
    }


def length_exponent(specimen: Specimen) -> float:
    """log2 of how the work of all layers grows when L doubles from 256 to 512."""
    work = {length: [0, 0] for length in (_SHORT, _LONG)}
    for index in range(specimen.tier.n_layers):
        layer = specimen.layer(index)
        for length, totals in work.items():
            counter = count(layer, specimen.probe(1, length, seed=7, dtype=torch.float32))
            totals[0] += counter.flops
            totals[1] += counter.elements
    ratios = [after / before for before, after in zip(work[_SHORT], work[_LONG], strict=True) if before and after]
    return max((math.log(ratio, _LONG / _SHORT) for ratio in ratios), default=0.0)
