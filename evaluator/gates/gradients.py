"""Finite values and gradients over input scales, and whether every parameter is reached. Inside the sandbox only.

Residual streams grow during training and lengths grow after it, so layers are tried on inputs from 1e-3 to 30 times the
usual scale and at several times the tier's length, with jittered parameters in float32: the precision of training.
"""

import torch
from torch import Tensor, nn

from evaluator.gates.noise import require_finite
from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.program import CandidateError

_SCALES = (1e-3, 1.0, 30.0)
_LONGER = 8
_MOST_LENGTH = 1024
# A program may keep a few parameters in reserve (an honest retention layer does); most of them must be of use.
_DEAD_SHARE = 0.5
_NAMED = 5


def finite(specimen: Specimen) -> str:
    """Finite outputs and gradients.

    Raises:
        CandidateError: `non_finite`.
    """
    longest = max(specimen.tier.lengths)
    length = max(longest, min(_LONGER * longest, _MOST_LENGTH))
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float32, jittered=True).train()
        scales = torch.tensor(_SCALES)[:, None, None]
        x = scales * specimen.probe(len(_SCALES), longest, seed=5, dtype=torch.float32)
        _backward(module, x, f"layer {index}", "inputs of scale 1e-3, 1 and 30")
        y = specimen.run(module, specimen.probe(1, length, seed=6, dtype=torch.float32))
        require_finite(y, f"the output of layer {index} at L={length}")
    return f"Outputs and gradients are finite for inputs of scale 1e-3 to 30, outputs up to L={length}."


def _backward(module: nn.Module, x: Tensor, what: str, inputs: str) -> None:
    module.zero_grad(set_to_none=True)
    x = x.requires_grad_()
    with blamed_on("forward_failed", f"running {what} forward and backward on {inputs}"):
        y = module(x)
        require_finite(y.detach(), f"the output of {what} on {inputs}")
        if y.requires_grad:
            # A fixed random projection: a plain sum is blind to anything that a normalisation makes constant.
            torch.autograd.backward(y, _direction(y))
    gradients = [("the input", x.grad), *((name, parameter.grad) for name, parameter in module.named_parameters())]
    for name, gradient in gradients:
        if gradient is not None:
            require_finite(gradient, f"the gradient of {name} in {what} on {inputs}")


def _direction(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)


def reach(specimen: Specimen) -> tuple[str, str | None]:
    """Which parameters got no gradient in `finite`, whose gradients are still there: a message, and a warning if any.

    Raises:
        CandidateError: `dead_parameters`: they are most of the program's.
    """
    dead: list[str] = []
    dead_count = count = 0
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float32, jittered=True)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            count += parameter.numel()
            if parameter.grad is None or not bool((parameter.grad != 0).any()):
                dead.append(f"{name} of layer {index}")
                dead_count += parameter.numel()
    if not dead:
        return "Every parameter is reached by the gradient.", None
    names = ", ".join(dead[:_NAMED]) + (f" and {len(dead) - _NAMED} more" if len(dead) > _NAMED else "")
    said = f"no gradient reaches {dead_count} of {count} parameters of the program: {names}"
    if dead_count > _DEAD_SHARE * count:
        raise CandidateError("dead_parameters", said)
    return f"{said[0].upper()}{said[1:]}.", said
