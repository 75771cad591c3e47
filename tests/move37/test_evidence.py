"""The rules by which evidence counts: levels, retirement, and what is visible of them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.records import Evidence, Lesson, Stance
from move37.evidence import (
    Basis,
    Change,
    Given,
    basis_of,
    bears,
    change_of,
    is_same,
    normalised,
    noted,
    stances,
    standing,
    verdict,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEVELS = ("observed", "ablated", "replicated")

signs = st.sampled_from([-1, 0, 1])
bases = st.sampled_from(["ablated", "replicated", "stated"])
leans = st.sampled_from(["supports", "contradicts"])
rows = st.lists(st.tuples(st.integers(0, 9), bases, leans), max_size=12)


def change(index: int = 0, **changes: object) -> Change:
    made = Change(f"a-{index:04d}", "a", index, "a-0100", "add shortconvolution")
    return replace(made, **changes)  # type: ignore[arg-type]


def lesson(index: int = 4) -> Lesson:
    return Lesson(f"l-{index}", "a", f"a-{index:04d}", "it helps", "observed", {}, None, NOW)


def evidence(drawn: list[tuple[int, Basis, Stance]]) -> list[Evidence]:
    """As stored: an experiment says one thing of a lesson."""
    said = {index: Evidence("l-4", f"a-{index:04d}", lean, noted(basis, "x"), NOW) for index, basis, lean in drawn}
    return list(said.values())


def indices(last: int = 9) -> dict[str, int]:
    return {f"a-{index:04d}": index for index in range(last + 1)}


def test_labels_that_differ_in_writing_only_are_one() -> None:
    assert normalised("Add  ShortConvolution, before the core.") == normalised("add ShortConvolution before the core")
    assert normalised("take DeltaRule from exp-0003 for Retention") == normalised(
        "take DeltaRule from exp-0012 for Retention"
    )
    assert normalised("set n_heads of Retention to 2") != normalised("set n_heads of Retention to 4")
    assert not is_same(change(label=""), change(label=""))
    assert is_same(change(label="x", structure="s"), change(label="y", structure="s"))


def test_the_same_change_bears_on_a_lesson_elsewhere_only() -> None:
    first = change(0, sign=1)
    assert bears(first, change(1, parent_id="a-0101")) == "replicated"
    assert bears(first, change(1)) is None  # the same parent: another writing of the same thing
    assert bears(first, change(1, campaign_id="b")) == "replicated"
    assert bears(first, change(1, parent_id="a-0101", label="another")) is None
    assert bears(first, first) is None


def test_an_ablation_bears_on_the_lesson_of_its_parent() -> None:
    first = change(0, sign=1)
    taken = change(1, parent_id="a-0000", label="remove normalisation", ablates=True)
    assert bears(first, replace(taken, answers="a-0000")) == "ablated"
    assert bears(first, taken) is None  # nobody asked, and it does not name what the change brought
    assert bears(first, replace(taken, label="remove shortconvolution")) == "ablated"
    assert bears(first, replace(taken, ablates=False)) is None


def test_what_a_repair_turned_into_something_else_tests_nothing_and_is_not_tested() -> None:
    first, again = change(0, sign=1), change(1, parent_id="a-0101", sign=1)
    assert verdict(first, again) == ("replicated", "supports")
    assert verdict(replace(first, attributed=False), again) is None
    assert verdict(first, replace(again, attributed=False)) is None


@given(one=signs, other=signs, ablates=st.booleans())
def test_agreement_is_the_sign_beyond_noise(one: int, other: int, ablates: bool) -> None:
    first = change(0, sign=one)
    second = change(1, parent_id="a-0000", sign=other, ablates=ablates, answers="a-0000" if ablates else None)
    found = verdict(first, second)
    if not one or not other:
        assert found is None
    else:
        agrees = (one != other) if ablates else (one == other)
        assert found == ("ablated" if ablates else "replicated", "supports" if agrees else "contradicts")


def test_evidence_is_given_both_ways_and_what_was_measured_outweighs_what_was_said() -> None:
    earlier = change(0, sign=1)
    own = change(5, parent_id="a-0101", sign=-1)
    given_ = stances(
        own,
        "l-own",
        [("l-0", earlier), ("l-x", change(2, label="other", sign=1))],
        {"a-0000": "rose", "a-0005": "fell", "a-0002": "rose"},
        [("l-0", "supports", "so I say"), ("l-x", "contradicts", "I think")],
    )
    assert given_ == [
        Given("l-0", "a-0005", "contradicts", "replicated: fell"),
        Given("l-own", "a-0000", "contradicts", "replicated: rose"),
        Given("l-x", "a-0005", "contradicts", "stated: I think"),
    ]
    elsewhere = stances(
        replace(own, campaign_id="b"), "l-own", [("l-0", earlier)], {"a-0005": "fell", "a-0000": "rose"}
    )
    assert [row.lesson_id for row in elsewhere] == ["l-0"]  # the other row would belong to the origin


@given(drawn=rows)
def test_only_later_measured_contradictions_retire(drawn: list[tuple[int, Basis, Stance]]) -> None:
    stored = evidence(drawn)
    [found] = standing([lesson()], stored, indices())
    against = [row for row in stored if row.stance == "contradicts" and basis_of(row.note) != "stated"]
    later = sorted(row.experiment_id for row in against if row.experiment_id > "a-0004")
    assert found.retired_by == (later[0] if later else None)


@given(drawn=rows, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_is_nothing(drawn: list[tuple[int, Basis, Stance]], order: object) -> None:
    stored = evidence(drawn)
    shuffled = list(stored)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert standing([lesson()], stored, indices()) == standing([lesson()], shuffled, indices())


@given(drawn=rows, last=st.integers(4, 9))
def test_what_lies_beyond_the_horizon_does_not_count(drawn: list[tuple[int, Basis, Stance]], last: int) -> None:
    stored = evidence(drawn)
    near = [row for row in stored if row.experiment_id in indices(last)]
    assert standing([lesson()], stored, indices(last)) == standing([lesson()], near, indices(last))


@given(drawn=rows, last=st.integers(4, 8))
def test_seeing_more_never_lowers_a_level_nor_restores_a_lesson(
    drawn: list[tuple[int, Basis, Stance]], last: int
) -> None:
    [before], [after] = (standing([lesson()], evidence(drawn), indices(one)) for one in (last, last + 1))
    assert LEVELS.index(after.level) >= LEVELS.index(before.level)
    assert before.retired_by is None or after.retired_by == before.retired_by


@given(drawn=rows)
def test_words_raise_nothing(drawn: list[tuple[int, Basis, Stance]]) -> None:
    said: list[tuple[int, Basis, Stance]] = [(index, "stated", lean) for index, _, lean in drawn]
    assert standing([lesson()], evidence(said), indices()) == [lesson()]


def test_a_lesson_from_before_there_was_evidence_stands_as_it_is_stored() -> None:
    old = replace(lesson(), level="replicated", retired_by="a-0007")
    assert standing([old], [], indices()) == [old]
    assert standing([old], [], indices(6)) == [replace(old, retired_by=None)]
    assert change_of(old, 4) is None


def test_what_a_lesson_was_drawn_from_is_read_back() -> None:
    drawn = change(4, sign=-1, structure="s", attributed=False, ablates=True, answers="a-0001")
    stored = replace(lesson(), body={"measured": {**drawn.as_dict(), "difference": -0.2}})
    assert change_of(stored, 4) == drawn


@pytest.mark.parametrize("note", ["it fell by 0.1", "", "replicate: x"])
def test_a_note_that_does_not_say_what_it_rests_on_is_an_opinion(note: str) -> None:
    assert basis_of(note) == "stated"
