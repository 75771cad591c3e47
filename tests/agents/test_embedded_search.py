"""Does the grammar search? Simulated campaigns in which a made-up, deterministic score stands for training.

The score adds what components are worth and what a convolution adds to a memory; its numbers are not the priors'.
"""

from __future__ import annotations

import json
import random

import pytest

from agents import researcher
from agents.contexts import Brief, HistoryItem, LessonView, ProgramView, ResearchContext
from agents.embedded.changes import Change
from agents.embedded.drawing import draw
from agents.embedded.features import components_of
from agents.embedded.genome import Mixer, leaf, per_layer, read_design
from agents.embedded.library import catalogue_library, catalogue_sources
from agents.embedded.model import answer
from agents.embedded.priors import abilities, cost
from agents.embedded.program import read_program
from agents.embedded.render import Heading, program
from agents.embedded.wording import SETTINGS, mechanism
from agents.replies import Hypothesis
from prompts.loader import Prompts

WORTH = {
    "SoftmaxAttention": 0.5,
    "WindowAttention": 0.25,
    "DeltaRule": 0.5,
    "GatedDeltaRule": 0.35,
    "LinearAttention": 0.35,
    "GatedLinearAttention": 0.25,
    "Retention": 0.2,
    "GatedRecurrence": 0.2,
    "DiagonalSSM": 0.12,
    "ShortConvolution": 0.1,
}
CONTENT_ADDRESSED = {"SoftmaxAttention", "DeltaRule", "LinearAttention"}
PROPOSALS = 12


def score_of(mixer: Mixer, worth: dict[str, float]) -> float:
    used = components_of(mixer, 2)
    best = max(worth.get(name, 0.0) for name in used)
    return best + (0.3 if "ShortConvolution" in used and best > 0.3 else 0.0)


class Campaign:
    """The loop around the researcher, with the best program as the usual parent."""

    def __init__(self, prompts: Prompts, brief: Brief, starter: str, seed: int, worth: dict[str, float]) -> None:
        self.prompts, self.brief, self.seed, self.worth = prompts, brief, seed, worth
        self.rng = random.Random(seed)
        self.history: list[HistoryItem] = []
        self.lessons: list[LessonView] = []
        self.designs: list[Mixer] = []
        self.programs: list[ProgramView] = []
        self.repeats = 0
        source = catalogue_sources()[starter]
        design = read_program(source, brief.d_model)
        assert design is not None
        self.add(starter, source, design, "")

    def add(self, name: str, source: str, design: Mixer, change: str) -> float:
        score = score_of(design, self.worth)
        per_task = {task.name: score for task in self.brief.tasks}
        per_seed = {task.name: [score, score + 0.01] for task in self.brief.tasks}
        experiment = f"sim-{len(self.programs):04d}"
        self.programs.append(ProgramView(experiment, name, source, score, per_task, per_seed, "", change))
        self.designs.append(design)
        return score

    def step(self) -> Hypothesis:
        ranked = sorted(self.programs, key=lambda view: -(view.score or 0.0))
        parent = ranked[0] if self.rng.random() < 0.6 else self.rng.choice(ranked)
        exemplars = tuple(view for view in ranked[:3] if view is not parent)[:2]
        context = ResearchContext(self.brief, parent, exemplars, tuple(self.history[::-1]), tuple(self.lessons[-8:]))
        prompt = researcher.messages(self.prompts, context)
        hypothesis = researcher.parse(answer(prompt.messages, self.seed), tasks=("recall", "mqar"))
        design = read_design(hypothesis.design)
        assert design is not None
        tried = {per_layer(known, self.brief.n_layers) for known in self.designs}
        self.repeats += per_layer(design, self.brief.n_layers) in tried
        source = program(design, Heading(hypothesis.title, "m", "l"), catalogue_library())
        score = self.add(hypothesis.title, source, design, hypothesis.change)
        name, before = self.programs[-1].experiment, parent.score or 0.0
        self.history.append(
            HistoryItem(
                name, hypothesis.title, "completed", "", score, parent.experiment, before,
                hypothesis.change, hypothesis.design,
            )
        )  # fmt: skip
        self.lessons.append(LessonView(name, "claim", "observed", hypothesis.change, score - before))
        return hypothesis

    @property
    def best(self) -> Mixer:
        return max(self.designs, key=lambda design: score_of(design, self.worth))


@pytest.mark.parametrize("starter", ["mlp", "short_convolution", "diagonal_ssm"])
def test_finds_content_addressed_mixers(prompts: Prompts, brief: Brief, starter: str) -> None:
    found, repeats, seeds = 0, 0, 4
    for seed in range(seeds):
        campaign = Campaign(prompts, brief, starter, seed, WORTH)
        for _ in range(PROPOSALS):
            campaign.step()
        found += bool(components_of(campaign.best, 2) & CONTENT_ADDRESSED and score_of(campaign.best, WORTH) >= 0.6)
        repeats += campaign.repeats
    assert found >= seeds - 1
    assert repeats < 0.05 * seeds * PROPOSALS


def test_measurements_overrule_the_priors(prompts: Prompts, brief: Brief) -> None:
    """Where gated recurrences are best and attention is useless, late proposals use gated recurrences."""
    odd = {**dict.fromkeys(WORTH, 0.05), "GatedRecurrence": 0.6}
    late: list[str] = []
    for seed in range(4):
        campaign = Campaign(prompts, brief, "gated_recurrence", seed, odd)
        for _ in range(10):
            campaign.step()
        late += [name for design in campaign.designs[-5:] for name in components_of(design, 2)]
    assert late.count("GatedRecurrence") >= 14  # of 20 designs


def test_searching_beats_drawing(prompts: Prompts, brief: Brief) -> None:
    """As many proposals, against as many random draws; where the priors hold, and where they are wrong."""
    wrong = {**dict.fromkeys(WORTH, 0.1), "DiagonalSSM": 0.5, "ShortConvolution": 0.2, "RWKVTimeMix": 0.3}
    for worth in (WORTH, wrong):
        rng, searched = random.Random(0), []
        for seed in range(3):
            campaign = Campaign(prompts, brief, "mlp", seed, worth)
            for _ in range(PROPOSALS):
                campaign.step()
            searched.append(score_of(campaign.best, worth))
        drawn = [max(score_of(draw(rng, 32, 2), worth) for _ in range(PROPOSALS)) for _ in range(40)]
        assert sum(searched) / len(searched) > sum(drawn) / len(drawn) + 0.05


def test_proposals_are_varied(prompts: Prompts, brief: Brief) -> None:
    campaign = Campaign(prompts, brief, "short_convolution", 0, WORTH)
    hypotheses = [campaign.step() for _ in range(PROPOSALS)]
    assert len({hypothesis.change for hypothesis in hypotheses}) >= 9
    assert len({hypothesis.mechanism for hypothesis in hypotheses}) >= 9
    assert len({json.dumps(hypothesis.model_dump()["predictions"]) for hypothesis in hypotheses}) >= 4
    assert all(len(hypothesis.title) <= 80 for hypothesis in hypotheses)


def test_exhausted_neighbourhood_leads_two_steps_away(prompts: Prompts, brief: Brief) -> None:
    from agents.embedded.changes import changes
    from agents.embedded.genome import design_text

    campaign = Campaign(prompts, brief, "mlp", 0, WORTH)
    for option in changes(campaign.designs[0], [], brief.d_model, brief.n_layers):
        campaign.history.append(
            HistoryItem("sim-x", "x", "completed", "", 0.1, None, None, option.label, design_text(option.mixer))
        )
    hypothesis = campaign.step()
    assert campaign.repeats == 0
    assert ", then " in hypothesis.change


def test_a_proposal_of_two_steps_explains_the_setting_it_ends_with() -> None:
    label = "replace ShortConvolution by DeltaRule, then set n_heads of DeltaRule to 4"
    change = Change("setting", label, "DeltaRule", Mixer(leaf("DeltaRule", n_heads=4)))
    assert mechanism(change, "", random.Random(0)).startswith(SETTINGS["n_heads"])


def test_a_gate_costs_parameters_and_a_kernel_of_one_shifts_nothing() -> None:
    assert cost(leaf("DeltaRule", gated=True), 32) - cost(leaf("DeltaRule"), 32) == pytest.approx(1.0)
    assert abilities(Mixer(leaf("DeltaRule")), 2).shift
    assert not abilities(Mixer(leaf("DeltaRule", kernel_size=1)), 2).shift
    assert not abilities(Mixer(leaf("GatedRecurrence")), 2).shift
