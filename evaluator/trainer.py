"""Trains one model on one task. Inside the sandbox only.

Notable:
- Fresh data every step: nothing to overfit, no training set to store.
- All parameters are views of one flat tensor (and all gradients of another): clipping and AdamW are a handful of
  operations per step instead of a handful per parameter. Elementwise, so the result is that of separate parameters.
- AdamW is torch's own functional form; the `torch.optim.AdamW` constructor would import `torch._dynamo` (1.5 s).
- One thread, fixed data order: CPU runs are bitwise repeatable on one machine.
- The candidate's module computes hidden states only. Targets, loss and optimiser never pass through it.
Not covered: accelerators, mixed precision, more than one process.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adamw import adamw

from evaluator.phases import PROGRESS_PER_PHASE
from evaluator.program import CandidateError
from evaluator.skeleton import LanguageModel
from evaluator.tasks.streams import Words, generator
from evaluator.tasks.task import Task
from evaluator.tiers import Recipe, Tier

_CHUNK_STEPS = 10  # batches drawn per generator call: amortises NumPy's overhead

Snapshot = dict[str, Tensor]
Progress = Callable[[int, int, float], None]


class FlatParameters:
    """Trainable parameters and their gradients as two flat float32 tensors; complex parameters as pairs of floats."""

    def __init__(self, model: nn.Module) -> None:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sizes = [parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in trainable]
        self.values = torch.empty(sum(sizes))
        self.gradients = torch.zeros(sum(sizes))
        self._parameters = trainable
        self._gradients: list[Tensor] = []
        with torch.no_grad():
            pieces = zip(trainable, torch.split(self.values, sizes), torch.split(self.gradients, sizes), strict=True)
            for parameter, value, gradient in pieces:
                home, slope = _shaped(value, parameter), _shaped(gradient, parameter)
                home.copy_(parameter)
                parameter.data = home
                self._gradients.append(slope)
        self.attach()

    def attach(self) -> None:
        """Make `backward` accumulate into the flat gradient, whatever a program did to `.grad`."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    if like.is_complex():
        return torch.view_as_complex(flat.view(*like.shape, 2))
    return flat.view(like.shape)


@dataclass(frozen=True)
class Training:
    """What a training run leaves: the parameters at the tier's checkpoints, and the last loss."""

    snapshots: tuple[Snapshot, ...]
    loss: float


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Linear warm-up, then cosine to `floor` of the peak. Index 0 is the first step."""
    warmup = max(1, round(recipe.warmup * steps))
    rates = []
    for step in range(steps):
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            phase = (step - warmup) / max(1, steps - warmup)
            factor = recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * phase))
        rates.append(recipe.learning_rate * factor)
    return rates


def batches(
    task: Task, stream: Words, table: np.ndarray, batch: int, steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`steps` times: tokens (B, L), flat indices (M,) of the trained positions, targets (M,) there."""
    rng = generator(stream)
    for first in range(0, steps, _CHUNK_STEPS):
        drawn = task.batch(rng, batch * _CHUNK_STEPS, table)
        for offset in range(min(_CHUNK_STEPS, steps - first)):
            rows = slice(offset * batch, (offset + 1) * batch)
            trained = np.flatnonzero(drawn.trained[rows])
            targets = drawn.targets[rows].reshape(-1)[trained]
            yield torch.from_numpy(drawn.tokens[rows]), torch.from_numpy(trained), torch.from_numpy(targets)


def train(
    model: LanguageModel,
    tier: Tier,
    task_name: str,
    stream: Words,
    table: np.ndarray,
    progress: Progress,
    *,
    steps: int | None = None,
) -> Training:
    """Train for the task's steps (or for `steps` of them). Runs the program's code.

    Raises:
        CandidateError: `diverged`: the loss became non-finite or exceeded the recipe's bound.
    """
    plan, recipe = tier.plan(task_name), tier.recipe
    flat = FlatParameters(model)
    first_moment, second_moment = torch.zeros_like(flat.values), torch.zeros_like(flat.values)
    step_count = torch.tensor(0.0)
    checkpoints = set(tier.checkpoints(task_name))
    report_every = max(1, math.ceil(plan.steps / PROGRESS_PER_PHASE))
    rates = learning_rates(recipe, plan.steps)
    snapshots: list[Snapshot] = []
    loss_value = math.nan
    model.train()
    gc.collect()
    gc.freeze()
    data = batches(plan.task, stream, table, tier.batch, plan.steps if steps is None else steps)
    for step, (tokens, trained, targets) in enumerate(data, start=1):
        flat.gradients.zero_()
        loss_value = _forward_backward(model, tokens, trained, targets)
        if not abs(loss_value) <= recipe.diverged_above:  # false for NaN too
            raise CandidateError("diverged", f"the training loss was {loss_value:.4g} at step {step} of {plan.steps}")
        # Source: Pascanu et al. 2013 (arXiv 1211.5063), norm clipping; the epsilon is torch's.
        flat.gradients.mul_((recipe.clip / (torch.linalg.vector_norm(flat.gradients) + 1e-6)).clamp_(max=1.0))
        adamw(
            [flat.values],
            [flat.gradients],
            [first_moment],
            [second_moment],
            [],
            [step_count],
            foreach=False,
            amsgrad=False,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            lr=rates[step - 1],
            weight_decay=recipe.weight_decay,
            eps=recipe.epsilon,
            maximize=False,
        )
        if step in checkpoints:
            snapshots.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        if step % report_every == 0:
            progress(step, plan.steps, loss_value)
    gc.unfreeze()
    return Training(tuple(snapshots), loss_value)


def _forward_backward(model: LanguageModel, tokens: Tensor, trained: Tensor, targets: Tensor) -> float:
    hidden = model.hidden(tokens).flatten(0, 1)
    if trained.numel() != hidden.shape[0]:
        hidden = hidden.index_select(0, trained)
    loss = functional.cross_entropy(functional.linear(hidden, model.embedding.weight), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def predict(model: LanguageModel, tokens: Tensor, *, rows: int = 64) -> Tensor:
    """(N, L) -> logits (N, L, V) float32, in eval mode, `rows` sequences at a time."""
    model.eval()
    with torch.no_grad():
        pieces = [model(chunk) for chunk in torch.split(tokens, rows)]
    return torch.cat(pieces).to(torch.float32)
