"""The probe of a trained model: what no gate before training can see, and no word against honest models."""

import pytest
import torch

from benchmarks.planted import at
from benchmarks.planted_program import Planted
from evaluator import catalogue, tiers
from evaluator.gates import trained
from evaluator.gating import DYNAMIC_REASONS
from evaluator.phases import FAILURE_REASONS, MESSAGE_CAP
from evaluator.program import CandidateError, load
from evaluator.skeleton import LanguageModel, build_model
from evaluator.tasks import streams
from evaluator.tiers import Tier
from evaluator.trainer import train

TASK = "recall"


def trained_model(source: str, tier_name: str = "micro") -> tuple[LanguageModel, Tier]:
    tier = tiers.get("sequence", tier_name).for_task(TASK)
    task = tier.task(TASK)
    builder, kind = load(source)
    model, _ = build_model(builder, kind, tier, task.vocabulary, seed=0)
    words = {role: streams.words(role, task=TASK, seed=0, data="selection") for role in ("train", "table")}
    train(model, tier, TASK, words["train"], task.table(streams.generator(words["table"])), lambda *_: None)
    return model, tier


@pytest.mark.parametrize("planted", at("trained"), ids=lambda planted: planted.name)
def test_what_waits_for_training_is_caught_after_it(planted: Planted) -> None:
    slow = planted.name == "leak_once_weights_have_grown"  # forty steps move weights no further than the gates' jitter
    model, tier = trained_model(planted.source, "smoke" if slow else "micro")
    with pytest.raises(CandidateError) as caught:
        trained.probe(model, tier)
    assert caught.value.reason == planted.reason
    assert caught.value.reason in FAILURE_REASONS
    assert "after training" in caught.value.message
    assert "Cure: " in caught.value.message
    assert len(caught.value.message) <= MESSAGE_CAP


@pytest.mark.parametrize("name", ["mlp", "softmax_attention", "gated_delta_net", "diagonal_ssm", "retention"])
def test_honest_models_pass_and_are_left_as_they_were(name: str) -> None:
    model, tier = trained_model(catalogue.source(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained.probe(model, tier)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert next(model.parameters()).dtype is torch.float32


def test_a_model_that_keeps_a_graph_between_calls_is_stateful() -> None:
    source = """
import torch
class Keeping(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.out = torch.nn.Linear(d, d)
    def forward(self, x):
        self.last = self.out(x)
        return self.last
def build_mixer(d_model, layer_index, n_layers):
    return Keeping(d_model)
"""
    model, tier = trained_model(source)
    with pytest.raises(CandidateError) as caught:
        trained.probe(model, tier)
    assert caught.value.reason == "stateful"


def test_whatever_the_probe_says_of_a_trained_model_can_be_told_to_the_host() -> None:
    """A reason that the wire does not know would make an honest program look like one that breaks the protocol."""
    told_before_training = {"fake_build_failed", "over_budget", "too_complex", "length_dependent", "dead_parameters"}
    told_before_training |= {"does_not_learn", "ok"}
    assert DYNAMIC_REASONS - told_before_training <= set(FAILURE_REASONS)
