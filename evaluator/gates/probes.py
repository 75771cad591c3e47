"""What a single layer must keep to: shape, repeatability, independence, causality, precision. Inside the sandbox only.

Notable, each learnt from a cheat that the plainer form missed:
- parameters are jittered (a leak behind a gate that is zero at initialisation);
- the lengths are those of the tier's tasks and one beyond (a leak only for L > 40, or for L > 100), in train and in
  eval mode (a leak only in eval), and float32 must agree with float64 (a leak only in float32);
- cuts stand off multiples of usual chunk sizes (a bidirectional chunk), and differ from pass to pass;
- the future is resampled at twice the scale rather than differentiated (top-k over time has no gradient);
- repeatability and batch independence come first, lest hidden state and batch statistics be mistaken for a leak. Then
  rows of one batch may serve as probes of their own, and a pass tests all cuts at once.

Tolerances are the program's own (`evaluator.gates.noise`).
Not covered: what layers do together, and after training (`evaluator.gates.trained`); what a program does only in
batches of another size, or only in evaluation: the scorer's prefix audit is for that.
B batch, L length, D d_model.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from evaluator.gates import noise
from evaluator.gates.noise import ROWS, Tolerance
from evaluator.gates.specimen import Specimen, changed, lasting_state
from evaluator.program import CandidateError

# (B, L): B in {1, 2, 3, 5} and L in {1, 2, 3, 7, 64}, in few passes; the fake gate has run three more pairs.
_SHAPES = {
    torch.float32: ((1, 1), (5, 2), (2, 7), (1, 64)),
    torch.float64: ((3, 1), (1, 3), (5, 7), (2, 64)),
}
BEYOND = 130  # longer than the tasks of the small tiers: what a program does only at length must show
_CUTS = {True: (0.03, 0.17, 0.3, 0.46, 0.61, 0.74, 0.89), False: (0.08, 0.13, 0.25, 0.38, 0.55, 0.68, 0.8)}
_PREFIXES = (1, 7, 29)
# On one thread honest programs repeat to the last bit.
REPEAT = 1e-6
# 122 honest programs with jittered parameters differed from float64 by at most 7e-5.
_PRECISION = 2e-3


def shape(specimen: Specimen) -> str:
    """Small and odd B and L, float32 and float64."""
    for index in range(specimen.tier.n_layers):
        for dtype, sizes in _SHAPES.items():
            module = specimen.layer(index, dtype).train()
            for batch, length in sizes:
                specimen.run(module, specimen.probe(batch, length, seed=length, dtype=dtype))
    return "The output has the input's shape and dtype for all batch sizes and lengths tried."


def repeatability(specimen: Specimen) -> str:
    """The same input gives the same output, whatever was computed in between, and no call leaves a trace."""
    for module, _training, where in _jittered(specimen):
        x, other = specimen.probe(3, 33, seed=1), specimen.probe(2, 17, seed=2)
        before = specimen.run(module, x, seed=None)
        state = lasting_state(module)
        specimen.run(module, other, seed=None)
        after = specimen.run(module, x, seed=None)
        noise.require_finite(before, f"the output of {where}")
        moved = (after - before).abs() / noise.scale_of(before[0])
        noise.require_finite(moved, f"the output of {where}")
        if float(moved.max()) > REPEAT:
            position = int(moved.amax(dim=(0, 2)).argmax())
            raise CandidateError(
                "stateful",
                f"{where} gave two different outputs for one input (relative change {float(moved.max()):.1e} at "
                f"position {position}): it keeps state between calls or draws random numbers",
            )
        if names := changed(state, lasting_state(module)):
            raise CandidateError(
                "stateful", f"{where} keeps state between calls: {', '.join(names[:5])} changed with every call"
            )
    return "Repeated calls agree."


def batch_independence(specimen: Specimen) -> str:
    """A row's output does not depend on the other rows, nor on how many there are, nor on its place among them."""
    length = max(specimen.tier.lengths)
    for module, _training, where in _jittered(specimen):
        x = specimen.probe(4, length, seed=3)
        whole = specimen.run(module, x)
        replaced = 2.0 * specimen.probe(4, length, seed=4)
        replaced[0], replaced[-1] = x[0], x[-1]
        among_others = specimen.run(module, replaced)
        alone = specimen.run(module, x[-1:])
        for before, after, row, what in (
            (whole[0], among_others[0], x[:1], "other rows changed"),
            (whole[-1], among_others[-1], x[-1:], "other rows changed"),
            (whole[-1], alone[0], x[-1:], "it was computed alone"),
        ):
            moved = (after - before).abs()
            found = noise.floor(before).exceeded(moved)
            # Row by row, since rows may influence each other; and seldom, since honest rows agree to the last bit.
            found = found and _own_tolerance(specimen, module, row, where).exceeded(moved)
            if found:
                raise CandidateError(
                    "batch_dependent",
                    f"a row's output of {where} changed (relative change {found[0]:.1e} at position {found[1][0]}) "
                    f"when {what}: rows of a batch must be independent",
                )
    return "Rows of a batch do not influence each other."


def _own_tolerance(specimen: Specimen, module: nn.Module, row: Tensor, where: str) -> Tolerance:
    return noise.tolerance(torch.cat([specimen.run(module, step[None]) for step in noise.steps(row)]), where)


def causality(specimen: Specimen) -> str:
    """Changing inputs from position t on changes no output before t."""
    lengths = sorted({*specimen.tier.lengths, BEYOND})
    for module, training, where in _jittered(specimen):
        for length in lengths:
            perturb_future(specimen, module, length, training=training, where=where)
    return f"No output depends on later inputs (lengths {', '.join(map(str, lengths))}, train and eval mode)."


def cuts(length: int, *, training: bool) -> list[int]:
    """Odd positions spread over the sequence, and the last."""
    inner = {min(length - 1, int(fraction * length) | 1) for fraction in _CUTS[training]}
    return sorted(inner | {length - 1}) if length > 1 else []


def perturb_future(specimen: Specimen, module: nn.Module, length: int, *, training: bool, where: str) -> None:
    """One pass: the row itself, two steps from it for the noise, and one row per cut with another future."""
    positions = torch.tensor(cuts(length, training=training))
    x = specimen.probe(1, length, seed=100 + length)
    future = 2.0 * specimen.probe(len(positions), length, seed=200 + length + training)
    later = torch.arange(length) >= positions[:, None]  # (cuts, L)
    y = specimen.run(module, torch.cat((noise.steps(x), torch.where(later[..., None], future, x))))
    allowed = noise.tolerance(y[:ROWS], where)
    moved = (y[ROWS:] - y[0]).abs()
    noise.require_finite(moved, f"the output of {where}")
    found = allowed.exceeded(moved.masked_fill(later[..., None], 0.0))
    if found is not None:
        relative, (row, position) = found
        raise CandidateError(
            "not_causal",
            f"{where} reads the future: changing inputs from position {int(positions[row])} on changed the output at "
            f"position {position} by {relative:.1e} relative to its scale (L={length})",
        )


def prefix_consistency(specimen: Specimen) -> str:
    """The output at a position is the same whether or not a longer sequence follows."""
    length = max(specimen.tier.lengths)
    for module, _training, where in _jittered(specimen):
        x = specimen.probe(1, length, seed=6)
        y = specimen.run(module, noise.steps(x))
        allowed = noise.tolerance(y, where)
        for end in (end for end in _PREFIXES if end < length):
            moved = (specimen.run(module, x[:, :end])[0] - y[0, :end]).abs()
            if (found := allowed.exceeded(moved)) is not None:
                relative, (position,) = found
                raise CandidateError(
                    "length_dependent",
                    f"{where} gave another output at position {position} when the sequence ended after {end} positions "
                    f"instead of {length} (relative change {relative:.1e})",
                )
    return "Outputs do not depend on how long the sequence goes on."


def precision(specimen: Specimen) -> str:
    """Training computes in float32 what the gates have examined in float64: both must be the same function."""
    largest, length = 0.0, max(specimen.tier.lengths)
    for module, training, where in _jittered(specimen):
        narrow_module = specimen.layer(int(where.split()[1]), torch.float32, jittered=True).train(training)
        x = specimen.probe(1, length, seed=7)
        wide, narrow = specimen.run(module, x), specimen.run(narrow_module, x.float()).double()
        noise.require_finite(narrow, f"the float32 output of {where}")
        # Relative to the position too: an honest recurrence may grow along the sequence.
        position = wide[0].square().mean(dim=-1, keepdim=True).sqrt()
        apart = float(((narrow - wide)[0].abs() / noise.scale_of(wide[0]).maximum(position)).max())
        if not apart <= _PRECISION:
            raise CandidateError(
                "unstable",
                f"{where} computes something else in float32 than in float64: relative difference {apart:.1e}",
            )
        largest = max(largest, apart)
    return f"float32 agrees with float64 to {largest:.0e} of the outputs' scale."


def _jittered(specimen: Specimen) -> Iterator[tuple[nn.Module, bool, str]]:
    """Every layer in float64 with jittered parameters, in train and in eval mode, and what to call it."""
    for index in range(specimen.tier.n_layers):
        module = specimen.layer(index, torch.float64, jittered=True)
        for training in (True, False):
            module.train(training)
            yield module, training, f"layer {index} in {'train' if training else 'eval'} mode"
