"""Shape, repeatability, batch independence, causality, finite gradients. Inside the sandbox only.

Notable, each learnt from a cheat that the plainer form missed:
- parameters are jittered (a leak behind a gate that is zero at initialisation);
- the lengths are those of the tier's tasks (a leak only for L > 40), in train and in eval mode (a leak only in eval);
- cuts stand off multiples of usual chunk sizes (a bidirectional chunk);
- the future is resampled at twice the scale rather than differentiated (top-k over time has no gradient);
- repeatability and batch independence come first, lest hidden state and batch statistics be mistaken for a leak.

Not covered: what a program does only after many calls or only in evaluation; the scorer's prefix audit is for that.
B batch, L length, D d_model.
"""

import torch
from torch import Tensor
from torch.nn import functional

from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.program import CandidateError
from evaluator.skeleton import build_model

# Honest float64 modules move by at most 4e-16, honest ones that compute in float32 inside by about 2e-7; the smallest
# leak among the planted ones moved outputs by 3e-4. Relative to the output's root mean square.
TOLERANCE = 1e-5

_BATCHES = (1, 2, 5)
_LENGTHS = (1, 2, 7, 64)
_CUT_FRACTIONS = (0.03, 0.13, 0.3, 0.47, 0.61, 0.8, 0.93)
_TRIALS = 2


def shape(specimen: Specimen) -> str:
    """Every B in {1, 2, 5} and L in {1, 2, 7, 64}, float32 and float64."""
    for index in range(specimen.tier.n_layers):
        for dtype in (torch.float32, torch.float64):
            module = specimen.layer(index, dtype)
            for batch in _BATCHES:
                for length in _LENGTHS:
                    specimen.run(module, specimen.probe(batch, length, seed=length, dtype=dtype))
    return "The output has the input's shape and dtype for all batch sizes and lengths tried."


def repeatability(specimen: Specimen) -> str:
    """The same input gives the same output, whatever was computed in between."""
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float64, jittered=True)
        for training in (True, False):
            module.train(training)
            x, other = specimen.probe(3, 33, seed=1), specimen.probe(2, 17, seed=2)
            before = specimen.run(module, x, seed=None)
            specimen.run(module, other, seed=None)
            moved, where = _largest_move(before, specimen.run(module, x, seed=None))
            if moved > TOLERANCE:
                raise CandidateError(
                    "stateful",
                    f"layer {index} gave two different outputs for one input ({_mode(training)}; relative change "
                    f"{moved:.1e} at position {where}): it keeps state between calls or draws random numbers",
                )
    return "Repeated calls agree."


def batch_independence(specimen: Specimen) -> str:
    """A row's output does not depend on the other rows, nor on how many there are."""
    length = max(specimen.tier.lengths)
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float64, jittered=True)
        for training in (True, False):
            module.train(training)
            x = specimen.probe(4, length, seed=3)
            whole = specimen.run(module, x)
            for row in (0, 2):
                replaced = 2.0 * specimen.probe(4, length, seed=4 + row)
                replaced[row] = x[row]
                _same_row(whole[row], specimen.run(module, replaced)[row], index, training, "other rows changed")
            if not training:
                _same_row(whole[1], specimen.run(module, x[1:2])[0], index, training, "it was computed alone")
    return "Rows of a batch do not influence each other."


def _same_row(before: Tensor, after: Tensor, index: int, training: bool, what: str) -> None:
    moved, where = _largest_move(before, after)
    if moved > TOLERANCE:
        raise CandidateError(
            "batch_dependent",
            f"a row's output of layer {index} changed (relative change {moved:.1e} at position {where}; "
            f"{_mode(training)}) when {what}: rows of a batch must be independent",
        )


def causality(specimen: Specimen) -> str:
    """Changing inputs from position t on changes no output before t."""
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float64, jittered=True)
        for training in (True, False):
            module.train(training)
            for length in specimen.tier.lengths:
                for trial in range(_TRIALS):
                    _perturb_future(specimen, module, length, trial, f"layer {index} in {_mode(training)}")
    return f"No output depends on later inputs (lengths {', '.join(map(str, specimen.tier.lengths))}, train and eval)."


def cuts(length: int) -> list[int]:
    """Odd positions spread over the sequence, the second and the last among them."""
    inner = {min(length - 1, int(fraction * length) | 1) for fraction in _CUT_FRACTIONS}
    return sorted(inner | {length - 1}) if length > 1 else []


def _perturb_future(specimen: Specimen, module: torch.nn.Module, length: int, trial: int, what: str) -> None:
    positions = cuts(length)  # one cut per row: rows are independent, which has been tested
    x = specimen.probe(len(positions), length, seed=100 + trial)
    future = 2.0 * specimen.probe(len(positions), length, seed=200 + trial)
    later = torch.arange(length) >= torch.tensor(positions)[:, None]  # (B, L)
    before = specimen.run(module, x)
    after = specimen.run(module, torch.where(later[..., None], future, x))
    moved = (after - before).abs().masked_fill(later[..., None], 0.0)
    relative, where = _peak(moved, before)
    if relative > TOLERANCE:
        row, position = divmod(where, length)
        raise CandidateError(
            "not_causal",
            f"{what} reads the future: changing inputs from position {positions[row]} on changed the output at "
            f"position {position} by {relative:.1e} relative to its scale (L={length})",
        )


def finite_gradients(specimen: Specimen) -> str:
    """Finite outputs on jittered layers, and finite loss and gradients of the whole model on random tokens, float32."""
    length = max(specimen.tier.lengths)
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, jittered=True).train()
        y = specimen.run(module, specimen.probe(2, length, seed=5, dtype=torch.float32))
        _require_finite(y, f"the output of layer {index}")
    vocabulary = 16
    model, _ = build_model(specimen.builder, specimen.kind, specimen.tier, vocabulary, seed=0)
    model.train()
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randint(vocabulary, (4, length + 1), generator=generator)
    with blamed_on("forward_failed", "running forward and backward in the whole model"):
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
    _require_finite(loss.detach(), "the loss of the whole model at initialisation")
    unreached = []
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not bool((parameter.grad != 0).any()):
            unreached.append(name)
        if parameter.grad is not None:
            _require_finite(parameter.grad, f"the gradient of {name}")
    if unreached:
        return f"Finite; {len(unreached)} parameter(s) get no gradient at initialisation: {', '.join(unreached[:5])}."
    return "Outputs and gradients are finite, and every parameter is reached."


def _require_finite(value: Tensor, what: str) -> None:
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise CandidateError("non_finite", f"{what} holds {bad} NaN or infinite value(s) of {value.numel()}")


def _largest_move(before: Tensor, after: Tensor) -> tuple[float, int]:
    """Largest relative change and the position (second to last axis) at which it is."""
    relative, where = _peak((after - before).abs(), before)
    return relative, where % before.shape[-2]


def _peak(moved: Tensor, reference: Tensor) -> tuple[float, int]:
    """Largest entry of (..., L, D) relative to the reference's root mean square; its index among the positions.

    Raises:
        CandidateError: `non_finite`: NaN compares false with every tolerance and must not pass for equality.
    """
    _require_finite(moved, "an output of the layer")
    _require_finite(reference, "an output of the layer")
    per_position = moved.amax(dim=-1).flatten()
    scale = max(float(reference.square().mean().sqrt()), 1e-30)
    where = int(per_position.argmax())
    return float(per_position[where]) / scale, where


def _mode(training: bool) -> str:
    return "train mode" if training else "eval mode"
