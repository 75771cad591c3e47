"""The knowledge base: strict files, entries of our own, ranking, the rules of symptoms, counting of uses."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import NotFound, ValueRefused
from memory.knowledge_base.entries import KnowledgeBroken, entries, entry, load
from memory.knowledge_base.query import for_symptoms, search, usage
from memory.symptoms import (
    SYMPTOMS,
    UNOBSERVED,
    Observation,
    TaskScore,
    signs,
    symptoms_of,
)

ROOT = Path(__file__).resolve().parents[2]
SOUND = """
[[entry]]
id = 'one'
title = 'One'
year = 2020
source = 'Somebody'
basis = 'recalled'
track = 'both'
tags = ['attention']
symptoms = ['recall-fails']
idea = 'An idea.'
when = 'Now and then.'
pitfalls = 'Some.'
claims = 'It works.'
"""


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str], KnowledgeBroken]:
    """What is said of a file with this text."""

    def refuse(text: str) -> KnowledgeBroken:
        path = tmp_path / "topic.toml"
        path.write_text(text)
        with pytest.raises(KnowledgeBroken) as caught:
            load([path])
        assert "topic.toml" in str(caught.value)
        return caught.value

    return refuse


def test_a_sound_file_is_read_with_white_space_collapsed(tmp_path: Path) -> None:
    path = tmp_path / "topic.toml"
    path.write_text(SOUND.replace("'An idea.'", "'''\nAn\n  idea.\n'''"))
    (one,) = load([path])
    assert (one.id, one.idea, one.topic, one.year_recalled, one.arxiv) == ("one", "An idea.", "topic", False, None)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("'recall-fails'", "'recal-fails'", "Did you mean 'recall-fails'"),
        ("symptoms = ['recall-fails']", "symptoms = []", "symptoms is not a list"),
        ("['recall-fails']", "['recall-fails', 'recall-fails']", "each once"),
        ("pitfalls = 'Some.'\n", "", "missing fields ['pitfalls']"),
        ("pitfalls = 'Some.'", "pitfalls = 'Some.'\nextra = 1", "unknown fields ['extra']"),
        ("year = 2020", "year = '2020'", "year is '2020'"),
        ("year = 2020", "year = true", "year is True"),
        ("year = 2020", "year = 1066", "year is 1066"),
        ("year = 2020", "year = 2020\nyear_recalled = 'yes'", "neither true nor false"),
        ("year = 2020", "year = 2020\narxiv = '20.1'", "arxiv is '20.1'"),
        ("'both'", "'audio'", "track is 'audio'"),
        ("'recalled'", "'measured'", "basis is 'measured'"),
        ("'An idea.'", "' '", "idea is not a text"),
        ("'An idea.'", "7", "idea is not a text"),
        ("['attention']", "['Attention Heads']", "'Attention Heads' is not of the form"),
    ],
)
def test_a_broken_entry_is_named_with_file_and_reason(
    refused: Callable[[str], KnowledgeBroken], old: str, new: str, why: str
) -> None:
    assert old in SOUND
    error = refused(SOUND.replace(old, new))
    assert error.entry == "one"
    assert "'one'" in str(error)
    assert why in error.why


def test_ids_are_unique_over_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(SOUND)
    with pytest.raises(KnowledgeBroken, match=r"'one' of b\.toml: its id is also in a\.toml"):
        load([tmp_path / "a.toml", tmp_path / "b.toml"])


@pytest.mark.parametrize("text", ["entry = 1", "[[entry", "[other]\nx = 1", "\udc80"])
def test_a_file_that_is_no_list_of_entries_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "topic.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(KnowledgeBroken, match=r"topic\.toml"):
        load([path])


def test_a_nameless_entry_is_named_by_its_number(refused: Callable[[str], KnowledgeBroken]) -> None:
    assert refused(SOUND + SOUND.replace("id = 'one'\n", "")).entry == "number 2"


def test_there_are_enough_entries_for_every_symptom_and_track() -> None:
    known = entries()
    assert len(known) >= 90
    assert len({one.id for one in known}) == len(known)
    assert [one.id for one in known] == sorted(one.id for one in known)
    treated = Counter(symptom for one in known for symptom in one.symptoms)
    assert {symptom for symptom in SYMPTOMS if treated[symptom] < 2} == set()
    by_track = Counter(one.track for one in known)
    assert min(by_track["sequence"], by_track["vision"], by_track["both"]) >= 20


def test_years_and_identifiers_agree() -> None:
    for one in entries():
        assert 1990 <= one.year <= datetime.now().year + 1
        if one.arxiv:  # a preprint is of the year of publication or of the one before
            preprint = 2000 + int(one.arxiv[:2])
            assert preprint - 1 <= one.year <= preprint + 1, one.id
            assert 1 <= int(one.arxiv[2:4]) <= 12, one.id


def test_every_text_says_something() -> None:
    for one in entries():
        assert len(one.idea.split()) >= 12, one.id
        assert min(len(one.pitfalls.split()), len(one.when.split())) >= 4, one.id
        assert one.idea.endswith((".", "?"))
        assert "\n" not in one.idea + one.claims


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return set(zip(*(words[i:] for i in range(3)), strict=False))


def test_no_two_entries_have_nearly_the_same_text() -> None:
    made = {one.id: _shingles(f"{one.idea} {one.when} {one.pitfalls} {one.claims}") for one in entries()}
    for (a, ours), (b, theirs) in itertools.combinations(made.items(), 2):
        assert len(ours & theirs) / min(len(ours), len(theirs)) < 0.15, f"{a} and {b}"
    titles = Counter(one.title.lower() for one in entries())
    assert max(titles.values()) == 1


def test_an_unknown_entry_is_refused_with_near_misses() -> None:
    assert entry("delta-net").title.startswith("DeltaNet")
    with pytest.raises(NotFound, match="Did you mean 'delta-net'"):
        entry("deltanet")


def test_ranking_prefers_rare_symptoms_and_more_of_them() -> None:
    found = for_symptoms(["no-state-tracking", "over-budget-parameters"], track="sequence")
    both = [m for m in found if len(m.by) == 2]
    assert both
    assert found[: len(both)] == tuple(both)
    assert [(-m.weight, m.entry.id) for m in found] == sorted((-m.weight, m.entry.id) for m in found)
    only = {m.by: m.weight for m in found if len(m.by) == 1}
    assert only[("no-state-tracking",)] > only[("over-budget-parameters",)]


def test_tracks_limits_and_exclusions_hold() -> None:
    vision = for_symptoms(["quadratic-cost"], track="vision")
    assert {m.entry.track for m in vision} <= {"vision", "both"}
    first, second, *_ = for_symptoms(["recall-fails"], track="sequence")
    assert for_symptoms(["recall-fails"], track="sequence", limit=1) == (first,)
    assert for_symptoms(["recall-fails"], track="sequence", limit=1, exclude={first.entry.id}) == (second,)
    assert for_symptoms([], track="sequence") == ()
    with pytest.raises(NotFound, match="Did you mean 'recall-fails'"):
        for_symptoms(["recal-fails"])
    with pytest.raises(ValueRefused):
        for_symptoms(["recall-fails"], limit=-1)


@given(st.lists(st.sampled_from(sorted(SYMPTOMS)), min_size=1, max_size=5), st.randoms())
def test_order_and_repetition_of_the_question_make_no_difference(asked: list[str], random: object) -> None:
    again = [*asked, asked[0]]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert for_symptoms(asked, track="both") == for_symptoms(again, track="both")


def test_search_finds_titles_first_and_all_words_before_some() -> None:
    assert search("retnet")[0].entry.id == "retnet"
    found = search("gated delta rule")
    assert found[0].entry.id == "gated-delta-net"
    assert [len(m.by) for m in found] == sorted((len(m.by) for m in found), reverse=True)
    assert search("RETNET!") == search("retnet")
    assert search("convol", 3)[0].by == ("convol",)
    assert search("no such word: xyzzy", 0) == ()
    assert search("") == ()


def test_another_process_answers_the_same() -> None:
    code = (
        "import sys\nfrom memory.knowledge_base.query import for_symptoms, search\n"
        "print([(m.entry.id, m.weight) for m in for_symptoms(['recall-fails', 'slow-step'], track='sequence')])\n"
        "print([(m.entry.id, m.weight) for m in search('gated recurrence memory')])\n"
        "assert not {'sqlalchemy', 'torch', 'numpy'} & set(sys.modules)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


def scores(**shares: float) -> tuple[TaskScore, ...]:
    """Scores with chance .2 and ceiling .8 at these shares of the way."""
    return tuple(TaskScore(name, 0.2 + 0.6 * share, 0.2, 0.8) for name, share in shares.items())


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (Observation(), ()),
        (Observation(reason="ok"), ()),
        (Observation(reason="diverged"), ("unstable-training",)),
        (Observation(reason="non_finite"), ("unstable-training", "numerically-fragile")),
        (Observation(reason="over_budget"), ("over-budget-parameters",)),
        (Observation(reason="not_causal"), ("leaks-future",)),
        (Observation(reason="timeout"), ("slow-step",)),
        (Observation(reason="dead_parameters"), ("dead-parameters",)),
        (Observation(scores(recall=0.9, mqar=0.8)), ()),
        (Observation(scores(recall=0.9, mqar=0.7)), ("recall-fails-at-length",)),
        (Observation(scores(recall=0.3, mqar=0.3)), ("recall-fails", "recall-fails-at-length")),
        (Observation(scores(recall=0.9, noisy_recall=0.6)), ("noise-not-filtered",)),
        (Observation(scores(recall=0.9, fuzzy_recall=0.2)), ("fuzzy-match-fails",)),
        (Observation(scores(state_tracking=0.1)), ("no-state-tracking",)),
        (Observation(scores(memorisation=0.49)), ("memorisation-fails",)),
        (Observation(scores(unheard_of=0.1)), ()),
        (
            Observation(scores(compression=0.2, selective_copying=0.3)),
            ("poor-copying", "noise-not-filtered", "forgets-early-tokens", "compresses-poorly"),
        ),
        (
            Observation(scores(recall=0.9, selective_copying=0.0, state_tracking=0.01)),
            ("poor-copying", "noise-not-filtered", "no-state-tracking", "order-blind"),
        ),
        (Observation(scores(recall=0.0, memorisation=0.0)), ("recall-fails", "memorisation-fails", "no-learning")),
        (Observation(curve=(0.1, 0.2, 0.4)), ("slow-convergence",)),
        (Observation(curve=(0.1, 0.4, 0.41)), ("plateaus-early",)),
        (Observation(curve=(0.5, 0.9, 0.91)), ()),
        (Observation(curve=(0.6, 0.4, 0.45)), ("loss-spikes",)),
        (Observation(curve=(0.0, 0.01, -0.01)), ("no-learning",)),
        (Observation(curve=(math.nan, 0.3)), ()),
        (Observation(cost_exponent=1.9), ("quadratic-cost",)),
        (Observation(cost_exponent=1.1), ()),
        (Observation(seed_spread=0.2), ("seed-variance-high",)),
        (Observation(children_without_gain=5), ("search-stagnates",)),
    ],
)
def test_rules_read_symptoms_off_what_was_observed(observation: Observation, expected: tuple[str, ...]) -> None:
    assert symptoms_of(observation) == expected


def test_longer_inputs_and_training_scores_are_compared_with_the_same_task() -> None:
    within, beyond = TaskScore("mqar", 0.9, 0.1), TaskScore("mqar:length=512", 0.2, 0.1, beyond=True)
    assert symptoms_of(Observation((within, beyond))) == ("fails-beyond-trained-length",)
    assert symptoms_of(Observation((beyond,))) == ()
    assert symptoms_of(Observation((TaskScore("recall", 0.6, 0.1, training=0.95),))) == ("overfits",)


def test_every_symptom_can_be_observed_or_is_said_not_to_be() -> None:
    reasons = ["diverged", "non_finite", "stalled", "over_budget", "not_causal", "stateful", "timeout", "too_complex"]
    shown = [Observation(reason=reason) for reason in [*reasons, "out_of_memory", "dead_parameters", "duplicate"]]
    families = ["recall", "mqar", "fuzzy_recall", "selective_copying", "compression", "memorisation"]
    shown += [Observation(scores(**dict.fromkeys([*families, "state_tracking", "byte_lm"], 0.0)))]
    shown += [Observation(curve=c) for c in ((0.1, 0.4), (0.4, 0.4), (0.6, 0.3))] + [Observation(seed_spread=1.0)]
    shown += [Observation((TaskScore("mqar", 0.9, 0, training=0.9), TaskScore("mqar", 0.1, 0, beyond=True)))]
    shown += [Observation((TaskScore("mqar", 0.6, 0, training=0.9),))]
    seen = {symptom for observation in shown for symptom in symptoms_of(observation)}
    assert seen == set(SYMPTOMS) - UNOBSERVED


def test_a_sign_says_what_it_was_read_from() -> None:
    (sign,) = signs(Observation(scores(recall=0.9, mqar=0.6)))
    assert sign.because == "mqar is at 60%, recall at 90%"


@pytest.mark.parametrize(("score", "chance", "ceiling"), [(math.nan, 0, 1), (0.5, math.inf, 1), (0.5, 1, 1)])
def test_scores_without_a_scale_are_refused(score: float, chance: float, ceiling: float) -> None:
    with pytest.raises(ValueRefused, match="recall"):
        TaskScore("recall", score, chance, ceiling)


def test_usage_counts_each_experiment_once_and_only_known_gains() -> None:
    uses = [("e1", "mamba"), ("e1", "mamba"), ("e2", "mamba"), ("e3", "mamba"), ("e4", "mamba"), ("e3", "alibi")]
    mamba = next(row for row in usage(uses, {"e1": 0.3, "e2": -0.1, "e3": None}) if row.entry == "mamba")
    assert (mamba.shown, mamba.measured, mamba.gained) == (4, 2, 1)
    assert mamba.mean_gain == pytest.approx(0.1)
    alibi = usage(uses, {})[0]
    assert (alibi.entry, alibi.shown, alibi.measured, alibi.gained, alibi.mean_gain) == ("alibi", 1, 0, 0, None)
    with pytest.raises(ValueRefused, match="'e1'"):
        usage(uses, {"e1": math.nan})


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["x", "y", "z"]))),
    st.dictionaries(st.sampled_from("abcdef"), st.none() | st.floats(-1, 1)),
    st.randoms(),
)
def test_usage_does_not_depend_on_order(uses: list[tuple[str, str]], gains: dict[str, float], random: object) -> None:
    rows = usage(uses, gains)
    assert sum(row.shown for row in rows) == len(set(uses))
    assert all(0 <= row.gained <= row.measured <= row.shown for row in rows)
    random.shuffle(uses)  # type: ignore[attr-defined]
    assert usage(uses, gains) == rows
