"""Skeleton and trainer: matched parameters, the optimiser against torch's own, repeatability, divergence, snapshots."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from evaluator import execution, tiers
from evaluator.program import CandidateError, load
from evaluator.skeleton import Sizes, build_model, parameter_count
from evaluator.tasks import registry, streams
from evaluator.tiers import BUDGET_TOLERANCE
from evaluator.trainer import FlatParameters, LossWatch, Training, learning_rates, predict, train
from evaluator.worker import _Run, chosen

MICRO = tiers.get("sequence", "micro")
LINEAR = """
from torch import nn
class Mixer(nn.Module):
    def __init__(self, d, width):
        super().__init__()
        self.a, self.b = nn.Linear(d, width), nn.Linear(width, d)
        self.keep = nn.Linear(d, d)
        self.keep.weight._no_reinit = True
        nn.init.eye_(self.keep.weight)
    def forward(self, x):
        return self.keep(self.b(self.a(x)))
def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model, WIDTH + layer_index)
"""


def built(source: str, tier: tiers.Tier = MICRO, seed: int = 0):
    builder, kind = load(source)
    return build_model(builder, kind, tier, 16, seed)


def run(source: str, seed: int = 0) -> Training:
    model, _ = built(source, seed=seed)
    stream = streams.words("train", task="recall", seed=seed, data="selection")
    return train(model, MICRO, "recall", stream, np.zeros(0, dtype=np.int64), lambda *_: None)


@pytest.mark.parametrize("tier", tiers.names("sequence"))
@pytest.mark.parametrize("width", [1, 5, 17, 60])
def test_every_model_has_the_budget_of_its_tier(tier: str, width: int) -> None:
    chosen = tiers.get("sequence", tier)
    model, sizes = built(LINEAR.replace("WIDTH", str(width * chosen.d_model // 32 + 1)), chosen)
    budget = chosen.body_parameters + 16 * chosen.d_model
    assert sizes.total == parameter_count(model)
    assert abs(sizes.total - budget) <= BUDGET_TOLERANCE * budget
    assert max(sizes.mlp_hidden) - min(sizes.mlp_hidden) <= 1


def test_a_mixer_that_leaves_too_little_is_over_budget() -> None:
    with pytest.raises(CandidateError) as caught:
        built(LINEAR.replace("WIDTH", "500"))
    assert caught.value.reason == "over_budget"


def test_a_block_may_be_smaller_but_not_larger_than_the_budget() -> None:
    source = LINEAR.replace("build_mixer", "build_block")
    _, sizes = built(source.replace("WIDTH", "4"))
    assert sizes.mlp_hidden == ()
    with pytest.raises(CandidateError) as caught:
        built(source.replace("WIDTH", "500"))
    assert caught.value.reason == "over_budget"


def test_linear_weights_are_drawn_anew_unless_marked() -> None:
    model, _ = built(LINEAR.replace("WIDTH", "16"))
    mixer = model.layers[0].mixer
    torch.testing.assert_close(mixer.keep.weight, torch.eye(16))
    assert float(mixer.b.weight.detach().std()) == pytest.approx(0.8 / 4, rel=0.2)


def test_flat_parameters_follow_torch_adamw_step_by_step() -> None:
    torch.manual_seed(0)
    model, twin = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    twin.load_state_dict(model.state_dict())
    flat = FlatParameters(model)
    optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    mean, square, steps = torch.zeros_like(flat.values), torch.zeros_like(flat.values), torch.tensor(0.0)
    for step in range(5):
        x = torch.randn(7, 4, generator=torch.Generator().manual_seed(step))
        flat.gradients.zero_()
        optimiser.zero_grad()
        for network in (model, twin):
            network(x).square().sum().backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        flat.gradients.mul_((1.0 / (torch.linalg.vector_norm(flat.gradients) + 1e-6)).clamp(max=1.0))
        assert norm > 1.0
        optimiser.step()
        from evaluator.trainer import adamw

        adamw(
            [flat.values], [flat.gradients], [mean], [square], [], [steps], foreach=False, amsgrad=False,
            beta1=0.9, beta2=0.98, lr=1e-2, weight_decay=0.01, eps=1e-8, maximize=False,
        )  # fmt: skip
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_complex_and_shared_parameters_train() -> None:
    source = """
import torch
from torch import nn
SHARED = nn.Linear(16, 16)
class Mixer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.shared = SHARED
        self.pole = nn.Parameter(torch.ones(d, dtype=torch.complex64))
    def forward(self, x):
        return self.shared(x) * self.pole.abs()
def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model)
"""
    model, sizes = built(source)
    assert sizes.program == 16 * 16 + 16 + 2 * 2 * 16
    before = model.layers[0].mixer.pole.detach().clone()
    stream = streams.words("train", task="recall", seed=0, data="selection")
    training = train(model, MICRO, "recall", stream, np.zeros(0, dtype=np.int64), lambda *_: None)
    assert not torch.equal(before, training.snapshots[-1]["layers.0.mixer.pole"])
    assert model.layers[0].mixer.shared is model.layers[1].mixer.shared


def test_training_is_bitwise_repeatable_and_depends_on_the_seed() -> None:
    source = LINEAR.replace("WIDTH", "8")
    first, second, other = run(source), run(source), run(source, seed=1)
    assert first.loss == second.loss != other.loss
    for a, b in zip(first.snapshots, second.snapshots, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_snapshots_are_those_of_the_checkpoints() -> None:
    training = run(LINEAR.replace("WIDTH", "8"))
    assert MICRO.checkpoints("recall") == (4, 10, 20, 40)
    assert len(training.snapshots) == 4
    weights = [snapshot["embedding.weight"] for snapshot in training.snapshots]
    assert not any(torch.equal(a, b) for a, b in pairwise(weights))


def test_a_loss_that_blows_up_is_typed_divergence() -> None:
    source = LINEAR.replace("WIDTH", "8").replace("self.b(self.a(x)))", "self.b(self.a(x))) * float('nan')")
    with pytest.raises(CandidateError) as caught:
        run(source)
    assert caught.value.reason == "diverged"
    assert "step 1 of 40" in caught.value.message


def test_the_learning_rate_warms_up_and_decays_to_the_floor() -> None:
    recipe = MICRO.recipe
    rates = learning_rates(recipe, 200)
    assert rates[0] == pytest.approx(recipe.learning_rate / 20)
    assert max(rates) == rates[19] == recipe.learning_rate
    assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.floor, rel=0.01)
    assert rates[19:] == sorted(rates[19:], reverse=True)


def test_training_learns_what_it_should() -> None:
    assert registry.get("recall").chance < 0.2
    assert run(LINEAR.replace("WIDTH", "8")).loss < np.log(16)


def test_a_loss_that_never_moves_is_typed_stall() -> None:
    watch = LossWatch(MICRO.recipe, 100, every=1)
    for step in range(1, 101):
        watch.see(step, torch.tensor(2.77))
    with pytest.raises(CandidateError) as caught:
        watch.close()
    assert caught.value.reason == "stalled"
    assert "2.77 at first, 2.77 at the end" in caught.value.message


def test_a_loss_that_falls_is_no_stall_and_its_late_mean_is_kept() -> None:
    watch = LossWatch(MICRO.recipe, 100, every=1)
    for step in range(1, 101):
        watch.see(step, torch.tensor(3.0 - step / 100))
    watch.close()
    assert watch.late == pytest.approx(3.0 - 0.955, abs=1e-3)


def test_a_step_that_another_form_makes_faster_is_launched_that_way_and_the_reason_says_so() -> None:
    calls = []

    def form(name: str, seconds: float):
        def step(*_: torch.Tensor) -> torch.Tensor:
            calls.append(name)
            time.sleep(seconds)
            return torch.zeros(())

        return lambda: step

    def broken():
        raise RuntimeError("no compiler here")

    where = execution.choose(MICRO.recipe)
    batch = (torch.zeros(1),) * 3
    forms = {"plain": form("plain", 0.004), "graph": form("graph", 0.001), "compiled": broken}
    step, reasons = execution.fastest(where, forms, batch)
    calls.clear()
    step(*batch)
    assert calls == ["graph"]
    assert reasons["step"].startswith("graph: measured plain")
    assert "no compiler here" in reasons["no compiled"]
    _, reasons = execution.fastest(where, {"plain": form("plain", 0.001), "graph": form("graph", 0.003)}, batch)
    assert reasons["step"].startswith("plain: measured")


def test_half_precision_is_announced_where_the_device_does_without() -> None:
    where = execution.choose(replace(MICRO.recipe, precision="bfloat16"))
    assert where.autocast == where.accelerated
    assert "bfloat16" in where.reasons["precision"]


def test_an_auto_encoder_sees_nothing_but_the_last_position() -> None:
    builder, kind = load(LINEAR.replace("WIDTH", "8"))
    model, _ = build_model(builder, kind, MICRO, 16, 0, decoded=12)
    tokens = torch.randint(16, (3, 12), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, :-1] = 0  # the layers mix nothing over time, so the last position's state is unchanged
    torch.testing.assert_close(model(tokens), model(other))
    assert model(tokens).shape == (3, 12, 16)
    assert not torch.allclose(model(tokens)[:, 0], model(tokens)[:, 1])


def test_columns_are_columns_of_the_whole() -> None:
    model, _ = built(LINEAR.replace("WIDTH", "8"))
    tokens = torch.randint(16, (5, 12), generator=torch.Generator().manual_seed(0))
    columns = torch.tensor([1, 4, 11])
    torch.testing.assert_close(predict(model, tokens, columns, rows=2), predict(model, tokens)[:, columns])


def a_run(rate: float, late: float | None) -> _Run:
    sizes, (model, _) = Sizes(1, 1, ()), built(LINEAR.replace("WIDTH", "8"))
    if late is None:
        return _Run(rate, sizes, model, None, CandidateError("diverged", f"at {rate}"))
    return _Run(rate, sizes, model, Training((), late, late, {}), None)


def test_a_sweep_keeps_the_rate_with_the_lowest_late_loss_and_forgives_the_others() -> None:
    assert chosen([a_run(1e-3, 2.0), a_run(1e-2, 1.0), a_run(1.0, None)]).rate == 1e-2
    with pytest.raises(CandidateError, match=r"at 0\.1"):
        chosen([a_run(0.1, None), a_run(1.0, None)])
