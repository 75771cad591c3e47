"""Causality, batch independence and repeatability of a whole model on tokens. Inside the sandbox only.

The gates before training cannot see a gate that starts at zero and opens, a leak that waits for its weights to grow or
counts its calls. So the trainer asks again once a model is trained, and the gates ask once before, with jittered
parameters: layers may also talk past the harness, and tokens recur exactly where random probes never do.

The model is copied and widened to float64, where honest models move by 1e-15 and tolerances (`evaluator.gates.noise`)
are tight. Hidden states are compared, not logits: a head could hide what few tokens tell apart.
Not covered: what waits for evaluation itself. The scorer's prefix audit and canaries are for that.
"""

import copy

import torch
from torch import Tensor

from evaluator.gates import noise
from evaluator.gates.cures import with_cure
from evaluator.gates.noise import STEP, Tolerance
from evaluator.gates.probes import REPEAT, cuts
from evaluator.gates.specimen import blamed_on, changed, lasting_state, normal, widened
from evaluator.program import CandidateError
from evaluator.skeleton import LanguageModel
from evaluator.tiers import Tier

_PREFIXES = (7, 29)


def probe(model: LanguageModel, tier: Tier, *, length: int | None = None) -> None:
    """Examine a trained model. It is left as it is, and must be on the CPU.

    Args:
        length: of the sequences; the tier's longest ranking task's if not given.

    Raises:
        CandidateError: `not_causal`, `batch_dependent`, `stateful` with "after training" and a cure in its message;
            `non_finite`, `unstable`; whatever the program fails with.
    """
    try:
        examine(model, length or max(tier.lengths), "after training")
    except CandidateError as error:
        raise CandidateError(error.reason, with_cure(error).rstrip("."), line=error.line, trace=error.trace) from error


def examine(model: LanguageModel, length: int, when: str) -> None:
    """Raises: CandidateError: as `probe`, without the cure."""
    wide = _wide_copy(model)
    for training in (True, False):
        wide.train(training)
        _examine(wide, length, f"the whole model {when} ({'train' if training else 'eval'} mode)")


def _wide_copy(model: LanguageModel) -> LanguageModel:
    with blamed_on("stateful", "copying its modules: they hold something that belongs to an earlier call"):
        twin = copy.deepcopy(model)
    widened(twin)
    return twin


def _examine(model: LanguageModel, length: int, what: str) -> None:
    vocabulary = model.embedding.num_embeddings
    generator = torch.Generator().manual_seed(41)
    training = model.training
    positions = torch.tensor(cuts(length, training=training))
    drawn = torch.randint(vocabulary, (len(positions) + 3, length), generator=generator)
    row, other, future = drawn[:1], drawn[1:3], drawn[3:]
    later = torch.arange(length) >= positions[:, None]  # (cuts, L)
    tokens = torch.cat((row, torch.where(later, future, row), other))

    hidden = _hidden(model, tokens)
    state = lasting_state(model.layers)
    again = _hidden(model, tokens)
    _check_repeat(hidden, again, changed(state, lasting_state(model.layers)), what)
    allowed = _allowed(model, row, what)
    alone = f"{what} changes its answer to a row when other rows are there"
    _check(allowed, _hidden(model, row)[0] - hidden[0], "batch_dependent", alone)
    _check(allowed, _hidden(model, other[-1:])[0] - hidden[-1], "batch_dependent", alone)
    moved = (hidden[1 : 1 + len(positions)] - hidden[0]).masked_fill(later[..., None], 0.0)
    _check(allowed, moved, "not_causal", f"{what} reads the future: its answer changes when later tokens do")
    for end in (end for end in _PREFIXES if end < length):
        moved = _hidden(model, row[:, :end])[0] - hidden[0, :end]
        _check(
            allowed, moved, "not_causal", f"{what} reads the future: its answer to {end} tokens changes if more follow"
        )


def _check_repeat(before: Tensor, after: Tensor, names: list[str], what: str) -> None:
    moved = float(((after - before).abs() / noise.scale_of(before[0])).max())
    if moved > REPEAT:
        raise CandidateError(
            "stateful", f"{what} answers one input differently when asked again (relative change {moved:.1e})"
        )
    if names:
        raise CandidateError("stateful", f"{what} keeps state between calls: {', '.join(names[:5])}")


def _check(allowed: Tolerance, moved: Tensor, reason: str, said: str) -> None:
    if (found := allowed.exceeded(moved.abs())) is not None:
        relative, where = found
        raise CandidateError(reason, f"{said} (relative change {relative:.1e} at position {where[-1]})")


def _allowed(model: LanguageModel, row: Tensor, what: str) -> Tolerance:
    """The noise of the model: the embedding is moved by relative steps, since tokens cannot be."""
    weight = model.embedding.weight
    kept = weight.detach().clone()
    signs = torch.where(normal(tuple(kept.shape), seed=31) > 0, 1.0, -1.0)
    answers = []
    try:
        for step in (0.0, STEP / 2, STEP):
            weight.data.copy_(kept + step * kept * signs)
            answers.append(_hidden(model, row)[0])
    finally:
        weight.data.copy_(kept)
    return noise.tolerance(torch.stack(answers), what)


def _hidden(model: LanguageModel, tokens: Tensor) -> Tensor:
    with torch.no_grad(), blamed_on("forward_failed", f"running the whole model on tokens {tuple(tokens.shape)}"):
        hidden = model.hidden(tokens)
    noise.require_finite(hidden, "the hidden state of the whole model")
    return hidden
