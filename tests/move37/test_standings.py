"""The lessons that experiments see, kept in step: what the store says, whoever asks, when, and in whatever order."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.records import Campaign, Experiment, Lesson, Stance
from memory.store import Store, open_store
from move37 import launch
from move37.config import CampaignConfig
from move37.evidence import Basis
from move37.loop import Visibility

Config = Callable[..., CampaignConfig]
Drawn = Callable[[st.SearchStrategy[int]], int]

BASES: tuple[Basis, ...] = ("ablated", "replicated", "stated")
STANCES: tuple[Stance, ...] = ("supports", "contradicts")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


NAMES = (f"run-{number}" for number in count())


def begun(store: Store, config: CampaignConfig, parallel: int, node: Experiment | None = None) -> Campaign:
    changes = {"name": next(NAMES), "parallel": parallel, "experiments": 30}
    return launch.start(store, config.model_copy(update=changes), node)


def opened(store: Store, campaign: Campaign, index: int) -> Experiment:
    return store.open_experiment(campaign.id, index, arm="grammar", kind="proposal", track="sequence", tier="micro")


def finished(store: Store, sees: Visibility, one: Experiment, draw: Drawn) -> Experiment:
    """As a campaign does it: lesson and evidence first, by the rules of what may be said, then the end."""
    seen = sees.lessons(one.index)
    for number in range(draw(st.integers(0, 2))):
        own = store.put_lesson(
            one.id, f"claim {number}", level="ablated" if draw(st.integers(0, 9)) == 9 else "observed"
        )
        if seen and draw(st.integers(0, 1)):
            earlier = seen[draw(st.integers(0, len(seen) - 1))].experiment_id
            said(store, own, earlier, draw)
    for _ in range(draw(st.integers(0, 3)) if seen else 0):
        lesson = seen[draw(st.integers(0, len(seen) - 1))]
        said(store, lesson, one.id, draw)
    return store.finish_experiment(one.id, status="failed", reason="timeout")


def said(store: Store, lesson: Lesson, by: str, draw: Drawn) -> None:
    if any(row.experiment_id == by for row in store.evidence_with([by]) if row.lesson_id == lesson.id):
        return
    stance, basis = STANCES[draw(st.integers(0, 1))], BASES[draw(st.integers(0, 2))]
    store.put_evidence(lesson.id, by, stance, f"{basis}: so it was")
    [kept] = [x for x in store.lessons_of([lesson.experiment_id]) if x.id == lesson.id]
    if stance == "contradicts" and basis != "stated" and kept.retired_by is None and draw(st.integers(0, 1)):
        store.retire_lesson(lesson.id, by)


def agrees(store: Store, sees: Visibility, campaign: Campaign, index: int) -> None:
    """What is kept in step is what is read anew by a process that begins."""
    found, fresh = sees.lessons(index), Visibility.of(store, campaign)
    visible = fresh.experiments(index)
    anew = fresh.lessons_anew(index, visible)
    # Who refuted a lesson is known by the evidence; the mark that is stored with it is one that may come later.
    assert [(x.id, x.level, x.retired_by, x.body) for x in found] == [
        (x.id, x.level, x.retired_by, x.body) for x in anew
    ]
    seen, shown = {e.id for e in visible}, {x.id for x in found}
    rows = [row for campaign_id in {e.campaign_id for e in visible} for row in store.evidence(campaign_id)]
    expected = {(r.lesson_id, r.experiment_id) for r in rows if r.experiment_id in seen and r.lesson_id in shown}
    known = [(r.lesson_id, r.experiment_id) for r in sees.standings.evidence(found) if r.experiment_id in seen]
    assert sorted(known) == sorted(expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), parallel=st.integers(1, 4), length=st.integers(3, 9), deep=st.booleans())
def test_lessons_stand_as_the_store_has_them(
    store: Store, tiny_config: Config, data: st.DataObject, parallel: int, length: int, deep: bool
) -> None:
    """One long-lived reader of a campaign, and one of a fork of it, against readers that have just begun."""
    campaign = begun(store, tiny_config(search__starters=["mlp"]), parallel)
    sees = Visibility.of(store, campaign)
    flying: list[Experiment] = []
    ended: list[Experiment] = []
    for index in range(length):
        while any(e.index <= sees.horizon(index) for e in flying):
            one = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            ended.append(finished(store, sees, one, data.draw))
        flying.append(opened(store, campaign, index))
        done = [i for i in range(index + 1) if all(e.index > sees.horizon(i) for e in flying)]
        for asked in data.draw(st.lists(st.sampled_from(done), max_size=3)):
            agrees(store, sees, campaign, asked)
    if deep and ended:
        node = ended[data.draw(st.integers(0, len(ended) - 1))]
        fork = begun(store, tiny_config(search__starters=["mlp"]), 1, node)
        own = Visibility.of(store, fork)
        for index in range(own.first, own.first + 3):
            agrees(store, own, fork, index)
            finished(store, own, opened(store, fork, index), data.draw)
        for one in flying:
            finished(store, sees, one, data.draw)
        for index in (own.first + 3, own.first, own.first + 1):
            agrees(store, own, fork, index)
        agrees(store, sees, campaign, length)


def test_what_may_still_change_is_read_anew_and_not_remembered(store: Store, tiny_config: Config) -> None:
    campaign = begun(store, tiny_config(search__starters=["mlp"]), 1)
    sees = Visibility.of(store, campaign)
    first, second = (opened(store, campaign, index) for index in (0, 1))
    store.put_lesson(first.id, "one")
    store.finish_experiment(first.id, status="failed", reason="timeout")
    assert [x.claim for x in sees.lessons(2)] == ["one"]  # the second is not finished
    store.put_lesson(second.id, "two")
    assert [x.claim for x in sees.lessons(2)] == ["one", "two"]
    store.finish_experiment(second.id, status="failed", reason="timeout")
    assert [x.claim for x in sees.lessons(2)] == ["one", "two"]
    assert [x.claim for x in sees.lessons(1)] == ["one"]


def test_a_refuter_stored_without_evidence_counts_from_where_it_is_seen(store: Store, tiny_config: Config) -> None:
    campaign = begun(store, tiny_config(search__starters=["mlp"]), 1)
    made = [opened(store, campaign, index) for index in range(3)]
    lesson = store.put_lesson(made[0].id, "it helps")
    for one in made:
        store.finish_experiment(one.id, status="failed", reason="timeout")
    store.retire_lesson(lesson.id, made[2].id)
    sees = Visibility.of(store, campaign)
    refuters = [[x.retired_by for x in sees.lessons(index)] for index in (2, 3, 2, 1)]
    assert refuters == [[None], [made[2].id], [None], [None]]


def test_what_is_no_beginning_of_the_sequence_is_refused(store: Store, tiny_config: Config) -> None:
    campaign = begun(store, tiny_config(search__starters=["mlp"]), 1)
    made = [opened(store, campaign, index) for index in range(3)]
    done = [store.finish_experiment(one.id, status="failed", reason="timeout") for one in made]
    sees = Visibility.of(store, campaign).standings
    assert sees.of(done[:2]) == []
    assert sees.of(done[1:]) is None
    assert sees.of([done[1], done[0], done[2]]) is None
    assert sees.of(done) == []


def test_a_lesson_is_read_once(store: Store, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = begun(store, tiny_config(search__starters=["mlp"]), 1)
    sees, asked = Visibility.of(store, campaign), []
    lessons_of = store.lessons_of
    monkeypatch.setattr(store, "lessons_of", lambda ids: asked.extend(ids) or lessons_of(ids))
    for index in range(6):
        one = opened(store, campaign, index)
        store.put_lesson(one.id, "it helps")
        store.finish_experiment(one.id, status="failed", reason="timeout")
        assert len(sees.lessons(index + 1)) == len(sees.lessons(index + 1)) == index + 1
    assert asked == [f"{campaign.name}-{index:04d}" for index in range(6)]
