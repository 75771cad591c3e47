"""The embedded roles around an ablation: what is asked for, and how it is answered."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from agents import analyst, researcher
from agents.contexts import AnalysisContext, DifferenceView, LessonView, ProgramView, ResearchContext
from agents.embedded.ablating import answering, component_of, idea_kept, part_to_remove
from agents.embedded.analyst import analyse
from agents.embedded.changes import changes
from agents.embedded.genome import Mixer, Serial, design_text, leaf, read_design
from agents.embedded.library import Library, catalogue_library
from agents.embedded.model import answer
from agents.embedded.reading import sections
from agents.embedded.render import Heading, program
from prompts.loader import Prompts

GAIN = DifferenceView(0.3, 0.2, 0.4, 2, 0.06, True)


def source_of(mixer: Mixer, library: Library) -> str:
    return program(mixer, Heading("t", "m", "l"), library)


@pytest.fixture(scope="module")
def library() -> Library:
    return catalogue_library()


def asked_for(prompts: Prompts, context: AnalysisContext) -> dict[str, object]:
    user = analyst.messages(prompts, context).messages[1].content
    reply = analyse(sections(user), context.brief.d_model)
    analyst.parse(json.dumps(reply), lessons=[one.experiment for one in context.lessons])
    return reply


def test_a_part_of_what_the_change_brought_is_named(library: Library) -> None:
    attention = source_of(Mixer(leaf("SoftmaxAttention")), library)
    both = source_of(Mixer(Serial(leaf("ShortConvolution"), leaf("DeltaRule"))), library)
    assert part_to_remove(attention, "replace ShortConvolution by SoftmaxAttention", 32) == "rotary of SoftmaxAttention"
    assert part_to_remove(both, "add ShortConvolution of 4 before the core", 32) == "activation of ShortConvolution"
    assert part_to_remove(both, "replace Retention by DeltaRule", 32) is None  # nothing of it can be turned off
    assert part_to_remove(both, "remove Retention", 32) is None
    assert part_to_remove("def build_mixer(", "replace A by B", 32) is None
    assert component_of("put Retention beside DeltaRule by sum") == "Retention"
    assert component_of("a quantum mixer") is None


def test_an_ablation_is_asked_for_after_a_gain_beyond_noise_only(
    prompts: Prompts, analysis: AnalysisContext, library: Library
) -> None:
    hypothesis = analysis.hypothesis.model_copy(update={"change": "replace ShortConvolution by SoftmaxAttention"})
    source = source_of(Mixer(leaf("SoftmaxAttention")), library)
    gained = replace(analysis, hypothesis=hypothesis, source=source, repair=None)
    request = asked_for(prompts, gained)["ablation_request"]
    assert isinstance(request, dict)
    assert request["remove"] == "rotary of SoftmaxAttention"
    for score in (replace(GAIN, beyond=False), replace(GAIN, beyond=None), replace(GAIN, value=-0.3), None):
        assert asked_for(prompts, replace(gained, score=score))["ablation_request"] is None


def test_evidence_is_stated_on_lessons_of_the_same_change(prompts: Prompts, analysis: AnalysisContext) -> None:
    same = analysis.hypothesis.change
    lessons = (
        LessonView("exp-0001", "a", "observed", same, 0.2),
        LessonView("exp-0002", "b", "observed", f"{same} in even layers", -0.2),
        LessonView("exp-0003", "c", "observed", "widen it", 0.2),
    )
    stated = asked_for(prompts, replace(analysis, lessons=lessons))["evidence"]
    assert isinstance(stated, list)
    assert [(one["lesson"], one["stance"]) for one in stated] == [("exp-0001", "supports"), ("exp-0002", "contradicts")]


def test_a_repair_that_lost_the_component_did_not_keep_the_idea(library: Library) -> None:
    stated = design_text(Mixer(leaf("DeltaRule")))
    change = "replace Retention by DeltaRule"
    programs = {
        "yes": Mixer(leaf("DeltaRule")),
        "partly": Mixer(leaf("DeltaRule", kernel_size=2)),
        "no": Mixer(leaf("LinearAttention")),
    }
    for kept, mixer in programs.items():
        assert idea_kept(stated, source_of(mixer, library), change, 32) == kept
    assert idea_kept("a quantum mixer", "x", change, 32) == "yes"


@pytest.mark.parametrize("seed", range(5))
def test_the_researcher_takes_away_what_is_asked_for(
    prompts: Prompts, research: ResearchContext, library: Library, seed: int
) -> None:
    source = source_of(Mixer(Serial(leaf("ShortConvolution"), leaf("SoftmaxAttention"))), library)
    parent = ProgramView("exp-0007", "attention", source, 0.5)
    asked = {
        "rotary of SoftmaxAttention": "set rotary of SoftmaxAttention to false",
        "the ShortConvolution in front": "remove ShortConvolution",
    }
    for remove, change in asked.items():
        task = f'Carry out an ablation. Take away: "{remove}". Change nothing else.'
        context = replace(research, parent=parent, mode="ablate", ablation=task, collisions=())
        reply = answer(researcher.messages(prompts, context).messages, seed)
        assert researcher.parse(reply).change == change


def test_what_the_grammar_cannot_name_is_answered_by_some_removal() -> None:
    mixer = Mixer(Serial(leaf("ShortConvolution"), leaf("SoftmaxAttention")))
    options = changes(mixer, [], 32, 2)
    found = answering("the learned temperature", options, options)
    assert found
    assert all(o.operator == "removal" or o.label.endswith((" to false", " to none")) for o in found)
    assert random.Random(0).choice(found).label in {o.label for o in options}
    assert read_design(design_text(found[0].mixer)) is not None
