"""What a model costs: parameters, FLOPs per token, growth with length. Counted, not timed. Inside the sandbox only.

Timing cannot tell linear from quadratic at these sizes; counting has no noise. Scaled-dot-product attention is counted
under its math backend, since the counter does not see into the fused kernel.
Import it lazily: dispatch modes pull in torch's compiler (about one second).
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.skeleton import Sizes, build_model

SHORT, LONG = 256, 512
# An operation with less of the work than this is not asked how it grows. Attention at d_model=384 still has a sixth of
# a block's work at L=512, and its exponent shows, where the sum over the block grows like L^1.2.
_SHARE = 0.05


class WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the FLOPs of matrix products, convolutions and attention, and the elements written by every operation.

    `flops_of` and `elements_of` hold the same by operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops_of: defaultdict[str, int] = defaultdict(int)
        self.elements_of: defaultdict[str, int] = defaultdict(int)

    @property
    def flops(self) -> int:
        return sum(self.flops_of.values())

    @property
    def elements(self) -> int:
        return sum(self.elements_of.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops_of[func._opname] += int(formula(*args, **(kwargs or {}), out_val=out))
        if not func.is_view:
            written = sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
            self.elements_of[func._opname] += written
        return out


def count(module: nn.Module, x: Tensor) -> WorkCounter:
    """The work of one forward pass. Runs the program's code."""
    module.eval()
    counter = WorkCounter()
    doing = f"counting its operations at L={x.shape[1]}"
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), blamed_on("forward_failed", doing), counter:
        module(x)
    return counter


@dataclass(frozen=True)
class Growth:
    """Work like L^exponent, in the layer and by the quantity (of an operation) that grow fastest."""

    exponent: float
    layer: int
    quantity: str


def profile(specimen: Specimen, vocabulary: int, grown: Growth | None = None) -> dict[str, float]:
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
        "length_exponent": (grown or growth(specimen)).exponent,
    }


def length_exponent(specimen: Specimen) -> float:
    """log2 of how the work of the fastest-growing layer grows when L doubles from 256 to 512."""
    return growth(specimen).exponent


def growth(specimen: Specimen) -> Growth:
    """The largest exponent over layers of FLOPs, of elements written, and of either by a single operation.

    A sum hides its quadratic part at small L: hence every layer, and every operation of some weight, on its own.
    """
    found = [Growth(0.0, 0, "elements written")]
    for index in range(specimen.tier.n_layers):
        layer = specimen.layer(index)
        short, long = (count(layer, specimen.probe(1, length, seed=7, dtype=torch.float32)) for length in (SHORT, LONG))
        for quantity, before, after in (
            ("FLOPs", short.flops_of, long.flops_of),
            ("elements written", short.elements_of, long.elements_of),
        ):
            found.extend(Growth(exponent, index, quantity + of) for of, exponent in _exponents(before, after))
    return max(found, key=lambda one: one.exponent)


def _exponents(before: dict[str, int], after: dict[str, int]) -> list[tuple[str, float]]:
    total = sum(after.values())
    pairs = [("", sum(before.values()), total)]
    pairs += [(f" by {name}", before.get(name, 0), work) for name, work in after.items() if work >= _SHARE * total]
    return [(of, math.log(later / earlier, LONG / SHORT)) for of, earlier, later in pairs if earlier and later]
