"""Parent selection: a pure function of seed, index and what is visible."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.records import Experiment
from memory.view import View
from move37.choosing import choose, choose_second


def experiment(index: int, score: float | None, *, parent: int | None = None, program: str | None = None) -> Experiment:
    fields = {f.name: None for f in dataclasses.fields(Experiment)}
    known = {
        "id": f"e-{index}",
        "index": index,
        "status": "completed" if score is not None else "rejected",
        "score": score,
        "parent_id": f"e-{parent}" if parent is not None else None,
        "program_sha256": program or f"sha-{index}",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Experiment(**{**fields, **known})  # type: ignore[arg-type]


def test_the_same_memory_gives_the_same_choice_whatever_the_order_of_reading() -> None:
    visible = [experiment(i, 0.1 * i) for i in range(9)]
    first = choose(visible, seed=1, index=9, exemplars=3)
    again = choose(list(reversed(visible)), seed=1, index=9, exemplars=3)
    assert first == again


def test_good_parents_are_favoured_and_prolific_ones_yield() -> None:
    visible = [experiment(0, 0.1), experiment(1, 0.1), experiment(2, 0.9)]
    drawn = Counter(choose(visible, seed=s, index=3, exemplars=0).parent.id for s in range(300))
    assert drawn["e-2"] > 200
    children = [experiment(3 + i, 0.1, parent=2) for i in range(12)]
    later = Counter(choose([*visible, *children], seed=s, index=20, exemplars=0).parent.id for s in range(300))
    assert later["e-2"] < drawn["e-2"]


def test_only_completed_experiments_are_parents() -> None:
    visible = [experiment(0, None), experiment(1, 0.2), experiment(2, None)]
    assert {choose(visible, seed=s, index=3, exemplars=3).parent.id for s in range(20)} == {"e-1"}
    with pytest.raises(ValueError, match="no completed experiment"):
        choose([experiment(0, None)], seed=0, index=1, exemplars=0)


def test_exemplars_show_no_program_twice_and_never_the_parent() -> None:
    visible = [experiment(i, 0.5, program=f"sha-{i % 3}") for i in range(9)]
    for seed in range(20):
        choice = choose(visible, seed=seed, index=9, exemplars=5)
        shown = [e.program_sha256 for e in choice.exemplars]
        assert len(shown) == len(set(shown)) == 2
        assert choice.parent.program_sha256 not in shown


def likeness(one: str, other: str) -> float:
    """Programs with neighbouring numbers are alike."""
    return 1.0 / (1.0 + abs(int(one.removeprefix("e-")) - int(other.removeprefix("e-"))))


def test_diverse_exemplars_are_good_and_unlike_each_other() -> None:
    scores = [0.50, 0.89, 0.88, 0.87, 0.86, 0.10, 0.11, 0.12, 0.80, 0.05]
    visible = [experiment(i, score) for i, score in enumerate(scores)]
    parent = visible[0]
    plain = choose(visible, seed=0, index=10, exemplars=3, fixed_parent=parent)
    diverse = choose(visible, seed=0, index=10, exemplars=3, fixed_parent=parent, alike=likeness)
    assert [e.id for e in plain.exemplars[:2]] == ["e-1", "e-2"]
    shown = [e.id for e in diverse.exemplars]
    assert shown[0] == "e-1"  # the best is always shown
    assert "e-8" in shown  # nearly as good and far from it
    assert "e-2" not in shown
    assert [e.score for e in diverse.exemplars] == sorted((e.score for e in diverse.exemplars), reverse=True)
    again = choose(list(reversed(visible)), seed=7, index=10, exemplars=3, fixed_parent=parent, alike=likeness)
    assert again.exemplars == diverse.exemplars


def test_with_fewer_programs_than_exemplars_all_are_shown() -> None:
    visible = [experiment(i, 0.1 * i) for i in range(3)]
    for count in range(7):
        choice = choose(visible, seed=0, index=3, exemplars=count, alike=likeness)
        assert len(choice.exemplars) == min(count, 2)


@st.composite
def campaigns(draw: st.DrawFn) -> list[Experiment]:
    """Some of one program, of equal scores, not completed; later ones are of earlier ones."""
    found = [experiment(0, 0.3)]
    for index in range(1, draw(st.integers(2, 40))):
        score = draw(st.sampled_from([None, 0.05, 0.2, 0.3, 0.3, 0.9]))
        program = draw(st.sampled_from(["same", None, None, None]))
        found.append(experiment(index, score, parent=draw(st.integers(0, index - 1)), program=program))
    return found


@given(
    every=campaigns(),
    seen=st.integers(1, 40),
    exemplars=st.integers(0, 5),
    diverse=st.booleans(),
    fixed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_view_chooses_as_the_list_of_what_is_visible(
    every: list[Experiment], seen: int, exemplars: int, diverse: bool, fixed: bool, seed: int
) -> None:
    visible, view = every[:seen], View(every)  # the view may hold what lies beyond the horizon
    alike = (lambda one, other: (len(one + other) * 7 % 5 + int(one[2:]) % 3) / 8) if diverse else None
    settings = {"seed": seed, "index": 50, "exemplars": exemplars, "alike": alike}
    parent = visible[-1] if fixed else None
    listed = choose(visible, fixed_parent=parent, **settings)  # type: ignore[arg-type]
    assert choose(visible, fixed_parent=parent, view=view, **settings) == listed  # type: ignore[arg-type]


@given(every=campaigns(), seen=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_second_parent_is_drawn_from_a_view_as_from_a_list(every: list[Experiment], seen: int, seed: int) -> None:
    visible = every[:seen]
    parent = visible[seed % len(visible)]

    def wanted(one: Experiment) -> bool:
        return one.program_sha256 != parent.program_sha256 and one.score is not None and one.score > 0.1

    others = [one for one in visible if wanted(one)]
    up_to = visible[-1].index
    if not others:
        with pytest.raises(ValueError, match="no completed"):
            choose_second(View(every), up_to, wanted, seed=seed, index=50)
    else:
        listed = choose(others, seed=seed, index=50, exemplars=0, purpose="second").parent
        assert choose_second(View(every), up_to, wanted, seed=seed, index=50) == listed
