"""The coder's request: exemplars within the budget, edits where they are shorter, what was refused before."""

import dataclasses
from collections.abc import Callable

import pytest

from agents import coder
from agents.contexts import CodeContext, ProgramView
from agents.replies import Hypothesis, Prediction
from evaluator import catalogue
from memory.tokens import estimate
from move37 import coding
from move37.briefing import brief
from move37.config import CampaignConfig, SearchConfig, stored
from move37.replaying import replay_campaign
from prompts.loader import Prompts
from tests.agents.test_edits import block
from tests.move37.conftest import Play
from tests.move37.scripted import fenced

LONG = catalogue.source("gated_delta_net")
HYPOTHESIS = Hypothesis(
    title="t",
    mechanism="m",
    change="c",
    design="d",
    predictions=[Prediction(task="recall", direction="up", size=0.1)],
    refuted_by="r",
)


def tokens(context: CodeContext) -> int:
    return sum(estimate(message.content) for message in coder.messages(Prompts(), context).messages)


def shown(number: int) -> ProgramView:
    return ProgramView(f"exp-{number:04d}", f"program {number}", LONG, 0.5, {"recall": 0.5}, {"recall": [0.4, 0.6]})


@pytest.mark.parametrize("budget", [1_000, 8_000, 12_000, 24_000, 10**6])
def test_exemplars_are_dropped_whole_until_the_prompt_fits(
    tiny_config: Callable[..., CampaignConfig], budget: int
) -> None:
    six = tuple(shown(number) for number in range(1, 7))
    context = CodeContext(brief(tiny_config()), HYPOTHESIS, shown(0), six)
    fitted = coding.within(context, budget, Prompts())
    kept = len(fitted.exemplars)
    assert fitted.exemplars == six[:kept]
    text = coder.messages(Prompts(), fitted).messages[1].content
    assert text.count(LONG.strip()) == kept + 1  # all of each, and of the parent
    assert ("left out for length" in text) == (kept < 6)
    if kept:
        assert tokens(fitted) <= budget
    if kept < 6:
        assert tokens(dataclasses.replace(context, exemplars=six[: kept + 1])) > budget


def test_exemplars_say_what_they_achieved(tiny_config: Callable[..., CampaignConfig]) -> None:
    context = CodeContext(brief(tiny_config()), HYPOTHESIS, shown(0), (shown(1),))
    text = coder.messages(Prompts(), context).messages[1].content
    _, _, exemplar = text.partition("### Exemplar")
    assert "score 0.500" in exemplar
    assert "| recall | 0.500 | 0.400, 0.600 |" in exemplar


def test_long_programs_are_worth_editing_and_old_campaigns_know_no_edits() -> None:
    assert coding.worth_editing(LONG, SearchConfig(edit_from_lines=LONG.count("\n")))
    assert not coding.worth_editing(LONG, SearchConfig(edit_from_lines=LONG.count("\n") + 1))
    assert not coding.worth_editing(LONG, SearchConfig(edit_from_lines=0))
    data = CampaignConfig().frozen()
    del data["search"]["edit_from_lines"], data["search"]["diverse_exemplars"]
    assert stored(data).search.edit_from_lines == 0
    assert not stored(data).search.diverse_exemplars


@pytest.mark.campaign
def test_a_small_change_is_written_and_repaired_by_edits(play: Play) -> None:
    """An edit that is not found, one that breaks the program, one that mends it: every attempt is stored, and so is how
    it was written; a replay makes the same programs of the same replies."""
    parent = catalogue.source("mlp")
    line = "from torch import Tensor, nn"

    def edit(old: str, new: str) -> str:
        return f"```edit\n{block((old, new))}\n```\n"

    broken = f"import socket\n{line}"
    silu, gelu = "        return self.down(F.silu(self.up(x)))", "        return self.down(F.gelu(self.up(x)))"
    both = f"```edit\n{block((line, broken), (silu, gelu))}\n```"
    store, experiment, launched = play(edit("no such line", "x"), both, edit(broken, line), search__edit_from_lines=1)
    first, second = store.attempts(experiment)
    assert (first.outcome, first.detail["written"], first.detail["reason"]) == (
        "gate_failed",
        "edit",
        "import_not_allowed",
    )
    assert second.origin == "repair"
    assert (second.outcome, second.detail["written"]) == ("accepted", "edit")
    assert store.program(str(second.program_sha256)).source == parent.replace(silu, gelu).strip("\n") + "\n"
    corrected = store.find_exchange(experiment, "coder", 1, 1)
    assert corrected is not None
    assert "what edit 1 searches for is not in the program" in corrected.request["messages"][-1]["content"]
    assert replay_campaign(store, launched.campaign).identical


@pytest.mark.thorough
@pytest.mark.campaign
def test_a_repair_is_told_what_was_refused_before(play: Play) -> None:
    program = catalogue.source("mlp")
    replies = [fenced(f"import socket\n{program}"), fenced(f"import os\n{program}"), fenced(program)]
    store, experiment, _ = play(*replies, search__repairs=3)
    asked = store.find_exchange(experiment, "coder", 3, 0)
    assert asked is not None
    text = asked.request["messages"][-1]["content"]
    before, _, after = text.partition("## Refused before")
    assert "- attempt 1: imports, import_not_allowed: The program imports socket" in after
    assert "imports os" in before
