"""Twenty training steps on a task that a skeleton without any mixer learns. Inside the sandbox only.

The next token is a fixed function of the last one, so position-wise MLPs suffice and no memory is needed: a program
that stops this loss from falling does not slow learning down, it prevents it.
"""

import torch
from torch.nn import functional

from evaluator.gates.noise import require_finite
from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.program import CandidateError
from evaluator.skeleton import build_model
from evaluator.trainer import FlatParameters, Optimiser

_VOCABULARY = 16
_BATCH, _LENGTH, _STEPS = 8, 16, 20
_LATE = 3  # the last steps whose mean counts
# The loss starts near ln 16 = 2.8. Honest programs came down to a quarter of the first loss or less at every tier.
_MOST_LEFT = 0.85


def learning(specimen: Specimen) -> str:
    """Raises: CandidateError: `does_not_learn`, `non_finite`."""
    with blamed_on("build_failed", "building the whole model"):
        model, _ = build_model(specimen.builder, specimen.kind, specimen.tier, _VOCABULARY, seed=0)
    model.train()
    flat = FlatParameters(model)
    optimiser = Optimiser(flat, specimen.tier.recipe)
    generator = torch.Generator().manual_seed(11)
    following = torch.randperm(_VOCABULARY, generator=generator)
    losses: list[float] = []
    for step in range(_STEPS):
        tokens = torch.randint(_VOCABULARY, (_BATCH, _LENGTH), generator=generator)
        flat.gradients.zero_()
        with blamed_on("forward_failed", f"training, at step {step + 1} of {_STEPS}"):
            logits = model(tokens)
            loss = functional.cross_entropy(logits.flatten(0, 1), following[tokens].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
        require_finite(loss.detach(), f"the loss at training step {step + 1}")
        require_finite(flat.gradients, f"the gradient at training step {step + 1}")
        losses.append(float(loss.detach()))
        optimiser.step(specimen.tier.recipe.learning_rate)
    late = sum(losses[-_LATE:]) / _LATE
    said = f"loss {losses[0]:.2f} at first and {late:.2f} after {_STEPS} steps of mapping each token to another"
    if late > _MOST_LEFT * losses[0]:
        raise CandidateError("does_not_learn", f"the model learns nothing: {said}")
    return f"Learns: {said}."
