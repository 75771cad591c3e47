"""What a prompt is shown of the memory, and what of that fits: the same from the same experiments, in any order."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import retrieval, tokens
from memory.neighbours import Neighbour, Neighbours
from memory.records import Evidence, Lesson
from memory.retrieval import Failure, Limits, select
from memory.testing import Ticking, new_campaign, new_experiment
from memory.vectors import HashedText
from memory.view import Glance, View

NOW = Ticking()()


def glance(index: int, parent: int | None = None, **changes: Any) -> Glance:
    settings: dict[str, Any] = {"status": "completed", "reason": "ok", "score": 0.5, "name": f"n{index}"}
    parent_id = None if parent is None else f"e-{parent:04d}"
    record = Glance(f"e-{index:04d}", index, parent_id, program_sha256=f"{index:064x}", **(settings | changes))
    return record if record.status == "completed" else replace(record, score=None)


def lesson(number: int, level: str = "observed", claim: str = "", retired_by: str | None = None) -> Lesson:
    key = f"e-{number:04d}"
    return Lesson(f"l-{number}", "c", key, claim or f"claim {number}", level, {}, retired_by, NOW)  # type: ignore[arg-type]


def evidence(lesson_number: int, by: int, stance: str = "supports") -> Evidence:
    return Evidence(f"l-{lesson_number}", f"e-{by:04d}", stance, "", NOW)  # type: ignore[arg-type]


@st.composite
def memories(draw: st.DrawFn) -> dict[str, Any]:
    """Experiments with parents, lessons with evidence, neighbours: everything `select` takes."""
    count = draw(st.integers(1, 40))
    statuses = ["completed", "completed", "rejected", "failed", "duplicate"]
    records = [glance(0)]
    for index in range(1, count):
        parent = draw(st.integers(0, index - 1))
        status = draw(st.sampled_from(statuses))
        score = draw(st.sampled_from([0.1, 0.5, 0.5, 0.9]))
        reason = "ok" if status == "completed" else draw(st.sampled_from(["causality", "timeout"]))
        records.append(glance(index, parent, status=status, score=score, reason=reason))
    some = st.integers(0, count - 1)
    levels = st.sampled_from(["observed", "ablated", "replicated"])
    claims = st.sampled_from(["", "gates help", "Gates  help"])
    retired = st.one_of(st.none(), some.map("e-{:04d}".format))
    lessons = [lesson(n, draw(levels), draw(claims), draw(retired)) for n in draw(st.sets(some, max_size=10))]
    stances = st.sampled_from(["supports", "contradicts"])
    said = [evidence(draw(some), draw(some), draw(stances)) for _ in range(draw(st.integers(0, 6)))]
    nearness = st.sampled_from([0.25, 0.5, 0.75])
    near = [Neighbour(f"e-{n:04d}", draw(nearness)) for n in draw(st.sets(some, max_size=10))]
    return {"records": records, "lessons": lessons, "evidence": said, "near": near, "parent_id": f"e-{draw(some):04d}"}


LIMITS = Limits(lineage=3, best=2, worst=1, lessons=3, failures=2, window=15, tried=2)


def chosen(memory: dict[str, Any], up_to: int | None = None) -> retrieval.Selection:
    view = View(memory["records"])
    near = {"program": memory["near"], "hypothesis": memory["near"][:3]}
    return select(
        view,
        memory["parent_id"],
        up_to=up_to,
        lessons=memory["lessons"],
        evidence=memory["evidence"],
        near=near,
        limits=LIMITS,
    )


class TestDeterminism:
    @settings(max_examples=60, deadline=None)
    @given(memory=memories(), data=st.data())
    def test_the_order_of_reading_does_not_matter(self, memory: dict[str, Any], data: st.DataObject) -> None:
        shuffled = dict(memory)
        for name in ("records", "lessons", "evidence"):
            shuffled[name] = data.draw(st.permutations(memory[name]))
        one, other = chosen(memory), chosen(shuffled)
        assert one == other
        assert repr(one).encode() == repr(other).encode()

    @settings(max_examples=60, deadline=None)
    @given(memory=memories(), horizon=st.integers(0, 40))
    def test_what_lies_beyond_the_horizon_changes_nothing(self, memory: dict[str, Any], horizon: int) -> None:
        parent = int(memory["parent_id"][2:])
        horizon = max(horizon, parent)
        early = memory | {"records": memory["records"][: horizon + 1]}
        assert chosen(memory, up_to=horizon) == chosen(early)

    @settings(max_examples=40, deadline=None)
    @given(memory=memories(), data=st.data())
    def test_a_view_that_grows_equals_one_that_is_built(self, memory: dict[str, Any], data: st.DataObject) -> None:
        grown: View[Glance] = View()
        left = data.draw(st.permutations(memory["records"]))
        while left:
            size = data.draw(st.integers(1, len(left)))
            assert grown.add(left[:size]) == size
            left = left[size:]
        whole = View(memory["records"])
        assert grown.add(memory["records"]) == 0
        for up_to in (None, 0, 7):
            assert list(grown.ranked(up_to)) == list(whole.ranked(up_to))
            assert [grown.ranked_at(n, up_to) for n in range(grown.n_ranked(up_to))] == list(whole.ranked(up_to))
            assert grown.latest(5, up_to) == whole.latest(5, up_to)
            for record in memory["records"]:
                assert grown.path(record.id, up_to) == whole.path(record.id, up_to)
                assert grown.children(record.id, up_to) == whole.children(record.id, up_to)

    def test_many_at_once_and_one_at_a_time_agree(self) -> None:
        records = [glance(n, n // 2 if n else None, score=(n * 37 % 101) / 100) for n in range(300)]
        one_by_one: View[Glance] = View()
        for record in records[::-1]:
            one_by_one.add([record])
        assert list(one_by_one.ranked()) == list(View(records).ranked())
        assert one_by_one.count(100) == 101
        assert one_by_one.last_index == 299
        assert one_by_one.n_children("e-0004", 8) == 1
        with pytest.raises(IndexError, match="place 101 of 101"):
            one_by_one.ranked_at(101, 100)
        assert not one_by_one.programs_repeat
        one_by_one.add([replace(glance(300), program_sha256=records[5].program_sha256)])
        assert one_by_one.programs_repeat


class TestSelect:
    def test_long_lineages_are_elided_in_the_middle(self) -> None:
        view = View(glance(n, n - 1 if n else None) for n in range(30))
        lineage = select(view, "e-0020", limits=Limits(lineage=4)).lineage
        assert [fact.id for fact in lineage.facts] == ["e-0000", "e-0018", "e-0019", "e-0020"]
        assert (len(lineage.head), lineage.elided) == (1, 17)
        short = select(view, "e-0003", limits=Limits(lineage=4)).lineage
        assert ([fact.id for fact in short.facts], short.elided) == ([f"e-{n:04d}" for n in range(4)], 0)

    def test_best_and_worst_children_never_overlap(self) -> None:
        scores = [0.1, 0.9, 0.5, 0.9]
        view = View([glance(0), *(glance(n + 1, 0, score=score) for n, score in enumerate(scores))])
        found = select(view, "e-0000", limits=Limits(best=3, worst=2))
        assert [fact.id for fact in found.best] == ["e-0002", "e-0004", "e-0003"]
        assert [fact.id for fact in found.worst] == ["e-0001"]
        assert found.n_children == 4
        assert select(view, "e-0000", up_to=2, limits=Limits(best=1, worst=2)).worst[0].id == "e-0001"

    def test_lessons_by_evidence_then_recency(self) -> None:
        view = View(glance(n) for n in range(10))
        held = [
            lesson(1, "observed"),
            lesson(2, "replicated"),
            lesson(3, "ablated"),
            lesson(4, "observed"),
            lesson(5, "replicated", retired_by="e-0008"),
            lesson(6, "ablated"),
            lesson(7, "observed", "Claim  1"),
        ]
        said = [evidence(2, 3), evidence(2, 4), evidence(2, 9, "contradicts"), evidence(2, 42), evidence(2, 3)]
        found = select(view, "e-0000", lessons=held, evidence=said).lessons
        assert [claim.lesson_id for claim in found] == ["l-2", "l-6", "l-3", "l-7", "l-4"]
        assert (found[0].supports, found[0].contradicts) == (2, 1)
        assert [claim.said for claim in found] == [1, 1, 1, 2, 1]

    def test_a_lesson_stands_until_its_refutation_can_be_seen(self) -> None:
        view = View(glance(n) for n in range(10))
        held = [lesson(5, "replicated", retired_by="e-0008")]
        assert select(view, "e-0000", up_to=7, lessons=held).lessons[0].lesson_id == "l-5"
        assert select(view, "e-0000", up_to=8, lessons=held).lessons == ()
        assert select(view, "e-0000", up_to=4, lessons=held).lessons == ()
        with pytest.raises(ValueError, match="level 'guessed'"):
            select(view, "e-0000", lessons=[lesson(1, "guessed")])

    def test_failures_are_counted_by_kind(self) -> None:
        kinds = ["timeout", "causality", "timeout", "out_of_memory", "causality", "timeout"]
        records = [glance(n + 1, 0, status="failed", reason=reason) for n, reason in enumerate(kinds)]
        view = View([glance(0), *records, glance(7, 0, status="duplicate", reason="repeat")])
        found = select(view, "e-0000").failures
        assert [(f.status, f.reason, f.count, f.example.id) for f in found] == [
            ("failed", "timeout", 3, "e-0006"),
            ("failed", "causality", 2, "e-0005"),
            ("duplicate", "repeat", 1, "e-0007"),
            ("failed", "out_of_memory", 1, "e-0004"),
        ]
        lately = select(view, "e-0000", limits=Limits(window=2)).failures
        assert [failure.reason for failure in lately] == ["repeat", "timeout"]
        assert isinstance(lately[0], Failure)

    def test_what_was_tried_is_not_told_twice(self) -> None:
        view = View([glance(0), glance(1, 0), glance(2, 1), *(glance(n, 0) for n in range(3, 9))])
        near = [Neighbour(f"e-{n:04d}", 1.0 - n / 10) for n in range(9)]
        found = select(
            view,
            "e-0001",
            up_to=7,
            near={"hypothesis": near, "program": near},
            limits=Limits(tried=2),
            knowledge=["b", "a", "b"],
        )
        assert [(one.fact.id, one.by) for one in found.tried] == [
            ("e-0003", "hypothesis"),
            ("e-0004", "hypothesis"),
            ("e-0005", "program"),
            ("e-0006", "program"),
        ]
        assert found.knowledge == ("b", "a")
        assert found.ids == ("e-0000", "e-0001", "e-0002", "e-0003", "e-0004", "e-0005", "e-0006")

    def test_the_parent_has_to_be_visible_and_cycles_end(self) -> None:
        view = View([glance(0, 2), glance(1, 0), glance(2, 1), glance(5, 77)])
        with pytest.raises(ValueError, match="e-0002 is not among"):
            select(view, "e-0002", up_to=1)
        assert [record.id for record in view.path("e-0002")] == ["e-0000", "e-0001", "e-0002"]
        assert [record.id for record in view.path("e-0005")] == ["e-0005"]
        with pytest.raises(ValueError, match="e-0003 is not finished"):
            view.add([glance(4), replace(glance(3), status="open")])
        assert len(view) == 4

    def test_neighbours_and_the_store_work_together(self, store: Any) -> None:
        """Over rows of a real store: what was tried is found by what it was to do, within the horizon."""
        campaign = new_campaign(store)
        ideas = ["gate the values of the delta rule", "a short convolution before the keys", "decay by position"]
        for index, idea in enumerate([*ideas, "a short convolution before keys and queries"]):
            one = new_experiment(store, campaign, index)
            store.finish_experiment(
                one.id,
                status="failed",
                reason="timeout",
                message="",
                score=None,
                name=idea,
                hypothesis={"change": idea},
            )
        records = store.experiments(campaign.id)
        view = View(records)
        index = Neighbours(HashedText("hypothesis"))
        index.sync((record.id, record.hypothesis["change"]) for record in records)
        asked = "put a convolution before the keys"
        near = retrieval.already_tried(index, view, asked, k=2)
        assert [one.key for one in near] == [records[1].id, records[3].id]
        earlier = retrieval.already_tried(index, view, asked, up_to=2, k=2)
        assert earlier[0].key == records[1].id
        assert records[3].id not in [one.key for one in earlier]
        wanted = retrieval.k_near(view, records[0].id, limits=Limits(tried=1))
        tried = select(view, records[0].id, near={"hypothesis": near}, limits=Limits(tried=1)).tried
        assert (tried[0].fact.name, wanted) == (ideas[1], 7)


class TestTokens:
    def test_estimates(self) -> None:
        assert tokens.estimate("") == 0
        assert tokens.estimate("a short line") == 3
        assert tokens.estimate("x = 12345\n") == 7
        assert tokens.estimate("é日\ud800") == 1 + 2 + 2

    @given(
        st.lists(
            st.sampled_from(["```", "\n", "\n```", "~", " a", "  x = 1234", "é", "日", "\ud800", "\t", "b" * 1000])
        )
    )
    def test_fenced_parts_count_as_what_they_are_part_of(self, parts: list[str]) -> None:
        text = "".join(parts)
        wide = sum(character >= "\u0800" for character in text)
        assert tokens.estimate(text) == tokens.estimate(text) == len(tokens._PIECE.findall(text)) + wide

    @given(st.text(), st.text())
    def test_a_whole_never_counts_more_than_its_parts(self, one: str, other: str) -> None:
        assert tokens.estimate(one + other) <= tokens.estimate(one) + tokens.estimate(other)

    @settings(deadline=None)
    @given(
        sizes=st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), max_size=6), min_size=1),
        budget=st.integers(0, 60),
        fixed=st.integers(0, 10),
    )
    def test_whole_items_go_from_the_lowest_priority_up(
        self, sizes: dict[str, list[int]], budget: int, fixed: int
    ) -> None:
        def measure(fitted: tokens.Fitted) -> int:
            return fixed + sum(sum(sizes[name][:number]) for name, number in fitted.kept.items())

        found = tokens.fit({name: len(lengths) for name, lengths in sizes.items()}, budget, measure)
        assert {name: found.kept[name] + found.dropped[name] for name in sizes} == {n: len(x) for n, x in sizes.items()}
        assert measure(found) <= budget or not any(found.kept.values())
        short = [name for name in sizes if found.dropped[name]]
        assert all(found.kept[name] == 0 for name in short[1:])
        if short:  # one more would have been too much
            assert measure(found) + sizes[short[0]][found.kept[short[0]]] > budget

    def test_it_says_what_was_left_out(self) -> None:
        sizes = {"lessons": 2, "failures": 2}
        found = tokens.fit(sizes, 1, lambda fitted: sum(fitted.kept.values()))
        assert (found.kept, found.dropped) == ({"lessons": 1, "failures": 0}, {"lessons": 1, "failures": 2})
        assert found.told() == "left out for length: 2 of failures, 1 of lessons"
        assert tokens.fit(sizes, 4, lambda fitted: sum(fitted.kept.values())).told() == ""
