"""What a researcher is reminded of, within a budget of tokens."""

from dataclasses import replace

import pytest

from agents.contexts import (
    Brief,
    FailureView,
    HistoryItem,
    KnowledgeView,
    LessonView,
    Memory,
    Mention,
    ProgramView,
    ResearchContext,
)
from move37 import recalling
from move37.recalling import Recollection, within


def mention(number: int) -> Mention:
    return Mention(f"exp-{number:04d}", f"name {number}", "completed", "ok", 0.5)


CONTEXT = ResearchContext(
    brief=Brief("sequence", "micro", (), "contract", 32, 2, ()),
    parent=ProgramView("exp-0001", "parent", "x = 1\n", 0.5, {}, {}),
    exemplars=(),
    history=tuple(HistoryItem(f"exp-{n}", "h", "completed", "", 0.1, None, None, "", "") for n in range(3)),
    lessons=tuple(LessonView(f"exp-{n}", "claim", "observed", "", None) for n in range(2)),
    memory=Memory(
        path=(mention(0), mention(1)),
        best=(mention(2),),
        worst=(mention(3), mention(4)),
        failures=(FailureView("failed", "timeout", 2, mention(5)),),
        neighbours=(mention(6), mention(7)),
        knowledge=(KnowledgeView("a", "A", 2020, "", "", "", ""), KnowledgeView("b", "B", 2021, "", "", "", "")),
    ),
)
FIRST_TO_GO = ("knowledge", "worst", "best", "failures", "lessons", "neighbours", "path", "history")


def lengths(context: ResearchContext) -> dict[str, int]:
    return {name: len(getattr(context, name, None) or getattr(context.memory, name, ())) for name in FIRST_TO_GO}


def items(context: ResearchContext) -> int:
    return sum(lengths(context).values())


def test_whole_items_go_one_by_one_in_a_fixed_order_and_it_is_said() -> None:
    every = items(CONTEXT)
    assert within(CONTEXT, every, items) == CONTEXT
    before = lengths(CONTEXT)
    for budget in range(every - 1, -1, -1):
        shown = lengths(within(CONTEXT, budget, items))
        [gone] = [name for name in FIRST_TO_GO if shown[name] < before[name]]
        assert before[gone] - shown[gone] == 1
        assert all(shown[name] == 0 for name in FIRST_TO_GO[: FIRST_TO_GO.index(gone)])
        before = shown
    some = within(CONTEXT, every - 3, items)
    assert some.memory.omitted == "left out for length: 2 of knowledge, 1 of worst"
    assert some.memory.worst == CONTEXT.memory.worst[:1]


def test_what_says_so_counts_as_well() -> None:
    def with_words(context: ResearchContext) -> int:
        return items(context) + 5 * bool(context.memory.omitted)

    assert items(within(CONTEXT, items(CONTEXT) - 1, with_words)) == items(CONTEXT) - 6


@pytest.mark.parametrize("budget", range(-1, items(CONTEXT) + 1))
def test_what_is_left_is_the_very_context_that_was_counted(budget: int) -> None:
    counted = []

    def count(context: ResearchContext) -> int:
        counted.append(context)
        return items(context)

    found = within(CONTEXT, budget, count)
    assert any(found is one for one in counted)


def test_a_program_is_made_once_to_be_shown_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "_SHOWN", 2)
    made: list[str] = []

    def make(experiment_id: str) -> ProgramView:
        made.append(experiment_id)
        return replace(CONTEXT.parent, experiment=experiment_id)

    recollection = Recollection()
    shown = [recollection.shown(one, make).experiment for one in ("a", "b", "a", "c", "b", "a")]
    assert shown == ["a", "b", "a", "c", "b", "a"]
    assert made == ["a", "b", "c", "a"]


def test_what_cannot_be_left_out_stays_however_long_it_is() -> None:
    bare = within(CONTEXT, -1, items)
    assert items(bare) == 0
    assert replace(bare, history=CONTEXT.history, lessons=CONTEXT.lessons, memory=CONTEXT.memory) == CONTEXT
