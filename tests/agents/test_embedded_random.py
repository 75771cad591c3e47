"""The random control: what it draws, that it is blind, and that it is a model of its own."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from agents import coder, researcher
from agents.contexts import CodeContext, ResearchContext
from agents.embedded import researcher as embedded
from agents.embedded.changes import fits
from agents.embedded.drawing import draw
from agents.embedded.genome import LEAVES, Gate, Norm, Parallel, Serial, leaves, nodes, per_layer, read_design, trees
from agents.embedded.model import answer
from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL, RANDOM_NOTICE
from agents.embedded.reading import read_setting, sections
from agents.opening import open_model
from agents.replies import Hypothesis
from move37.config import CampaignConfig, ModelConfig
from move37.models import open_chat_model
from prompts.loader import Prompts


def test_draws_reach_the_whole_grammar_and_fit() -> None:
    rng = random.Random(0)
    drawn = [draw(rng, 32, 2) for _ in range(1500)]
    assert all(fits(mixer, 32, 2) for mixer in drawn)
    kinds = Counter(part.kind for mixer in drawn for tree in trees(mixer) for part in leaves(tree))
    assert kinds.keys() == LEAVES.keys()
    assert max(kinds.values()) < 6 * min(kinds.values())
    assert {type(node) for mixer in drawn for tree in trees(mixer) for node in nodes(tree)} >= {
        Serial, Parallel, Gate, Norm,
    }  # fmt: skip
    assert {mixer.rule for mixer in drawn if mixer.other is not None} == {"alternate", "first", "last"}
    assert len({per_layer(mixer, 2) for mixer in drawn}) > 1000


def test_what_is_to_be_avoided_is_not_drawn() -> None:
    first = draw(random.Random(1), 32, 2)
    assert draw(random.Random(1), 32, 2, {per_layer(first, 2)}) != first


def test_measurements_change_nothing_that_is_drawn(prompts: Prompts, research: ResearchContext) -> None:
    proposals = []
    for score in (0.0, 0.9):
        shown = replace(research, parent=replace(research.parent, score=score, per_task={"recall": score}))
        system, evidence = (message.content for message in researcher.messages(prompts, shown).messages)
        setting, found = read_setting(system), embedded.read_evidence(sections(evidence))
        assert setting is not None
        assert found is not None
        proposals.append(embedded.draw(setting, found, random.Random(3)))
    assert proposals[0] == proposals[1]


async def test_it_answers_in_process_under_its_own_name(
    prompts: Prompts, research: ResearchContext, code: CodeContext
) -> None:
    model = open_model(model=RANDOM_MODEL)
    assert (model.name, model.kind) == (RANDOM_MODEL, "grammar")
    prompt = researcher.messages(prompts, research)
    completion = await model.complete(prompt.messages, schema=Hypothesis, seed=1, deadline_s=20)
    assert (completion.model, completion.cost_usd) == (RANDOM_MODEL, 0.0)
    hypothesis = researcher.parse(completion.text, tasks=("recall", "mqar"))
    assert "at random" in hypothesis.mechanism
    assert read_design(hypothesis.design) is not None
    assert completion.text != answer(prompt.messages, 1)
    asked = coder.messages(prompts, code).messages
    written = await model.complete(asked, seed=1, deadline_s=20)
    assert written.text == answer(asked, 1, EMBEDDED_MODEL)
    await model.close()


def test_a_campaign_treats_it_as_the_grammar() -> None:
    config = CampaignConfig(model=ModelConfig(name=RANDOM_MODEL))
    assert config.model.embedded
    assert config.model.priced
    assert open_chat_model(config).name == RANDOM_MODEL
    assert not ModelConfig(name=RANDOM_MODEL, base_url="http://127.0.0.1:1/v1").embedded
    assert "not a language model" in RANDOM_NOTICE


@pytest.mark.parametrize("seed", range(3))
def test_it_repeats(prompts: Prompts, research: ResearchContext, seed: int) -> None:
    messages = researcher.messages(prompts, research).messages
    assert answer(messages, seed, RANDOM_MODEL) == answer(messages, seed, RANDOM_MODEL)
