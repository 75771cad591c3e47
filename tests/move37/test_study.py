"""Studies: arms at equal budget over seeds, what they find, and the parts that a campaign can do without."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contexts import HistoryItem, KnowledgeView, LessonView, Memory, Mention, ProgramView, ResearchContext
from evaluator import catalogue
from memory.store import open_store
from move37 import launch
from move37.briefing import brief
from move37.config import CampaignConfig, Part, stored
from move37.errors import ConfigError
from move37.leaving_out import MEANING, PARTS, told
from move37.report.study import study_table
from move37.study import Outcome, Study, ablations, effects, few_shot, planned
from tests.move37.conftest import TINY, Cli, Play
from tests.move37.scripted import fenced

Make = Callable[..., CampaignConfig]
SEEDS = (0, 1, 2, 3, 4)


def ended(seed: int, *scores: float | None) -> Outcome:
    best: list[float | None] = []
    for score in scores:
        known = [s for s in (*best[-1:], score) if s is not None]
        best.append(max(known, default=None))
    return Outcome(seed, f"c{seed}", best[-1], tuple(best), len(scores), 0, len(scores), 100, 1.0)


def test_arms_differ_in_what_they_say_and_in_nothing_else(tiny_config: Make) -> None:
    study = Study("fs", few_shot([3, 0]), SEEDS, tiny_config(objective__salt="s"))
    configs = {config.name: config for _, _, config in study.campaigns()}
    assert [(a.name, s) for a, s, _ in study.campaigns()][:3] == [("n0", 0), ("n3", 0), ("n0", 1)]
    assert configs["fs-n0-s1"].search.exemplars == 0
    assert configs["fs-n3-s1"].search.exemplars == 3
    one, other = configs["fs-n0-s4"].frozen(), configs["fs-n3-s4"].frozen()
    assert one["seed"] == 4
    for data in (one, other):
        del data["name"], data["search"]["exemplars"]
    assert one == other
    assert [arm.changes for arm in ablations(["memory", "memory"])] == [
        {"search.without": []},
        {"search.without": ["memory"]},
    ]


@pytest.mark.parametrize(("arguments", "says"), [
    (("few-shot", "--n", "3"), "two numbers of exemplars"),
    (("few-shot", "--n", "a..b"), "--n takes whole numbers"),
    (("few-shot", "--n", "0..9"), "search.exemplars"),
    (("ablate", "--without", "sleep"), "there is no part 'sleep'"),
    (("ablate", "--without", ""), "name what to do without"),
    (("ablate", "--seeds", "3"), "too few"),
    (("ablate", "--seeds", "1,2,3,4,4"), "names a seed twice"),
    (("ablate", "--name", "a-name-that-is-far-too-long"), "longer than 20"),
])  # fmt: skip
def test_what_cannot_be_compared_is_said_before_anything_runs(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    assert says in cli("study", *arguments, *TINY, expect=2).stderr


def test_the_effect_is_paired_by_seed_and_has_an_interval(tiny_config: Make) -> None:
    """Seeds differ by far more than the arms do; a comparison that is not paired would see nothing."""
    study = Study("s", few_shot([0, 3]), SEEDS, tiny_config())
    control = [0.1, 0.3, 0.5, 0.7, 0.9]
    gains = [0.02, 0.03, 0.02, 0.03, 0.025]
    found = effects(study, {
        "n0": [ended(seed, 0.0, control[seed]) for seed in SEEDS],
        "n3": [ended(seed, 0.0, control[seed] + gains[seed]) for seed in reversed(SEEDS)],
    })  # fmt: skip
    reference, arm = found
    assert reference.difference is None
    assert reference.p is None
    assert arm.difference is not None
    assert arm.difference.estimate == pytest.approx(statistics.fmean(gains))
    assert arm.difference.low is not None
    assert 0 < arm.difference.low < arm.difference.estimate
    assert arm.size == pytest.approx(statistics.fmean(gains) / statistics.stdev(gains) * (1 - 3 / 15))
    assert arm.p == pytest.approx(2 / 32)  # the least that five pairs can give, both sides
    table = study_table(study, found)
    assert "| n0 | 0.500 [" in table
    assert "| control |" in table
    assert "+0.025 [+0.0" in table


def test_a_seed_counts_once_every_arm_has_it(tiny_config: Make) -> None:
    study = Study("s", few_shot([0, 3]), SEEDS, tiny_config())
    outcomes = {"n0": [ended(0, 0.1), ended(1, 0.2)], "n3": [ended(0, 0.3), ended(1, None)]}
    found = effects(study, outcomes)
    assert [one.scores for one in found] == [(0.1,), (0.3,)]
    assert found[1].size is None
    assert "1 of 5 seeds" in study_table(study, found)
    assert effects(study, {"n0": [ended(0, 0.1)], "n3": []}) == []
    assert "nothing can be compared" in study_table(study, [])


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_the_difference_turns_its_sign_with_the_arms(one: list[float], other: list[float]) -> None:
    def difference(a: list[float], b: list[float]) -> float:
        study = Study("s", few_shot([0, 1]), SEEDS, CampaignConfig())
        rows = {"n0": [ended(s, a[s]) for s in SEEDS], "n1": [ended(s, b[s]) for s in SEEDS]}
        found = effects(study, rows)[1].difference
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.estimate <= found.high
        return found.estimate

    assert difference(one, other) == pytest.approx(-difference(other, one))


def context(config: CampaignConfig) -> ResearchContext:
    seen = Mention("exp-0002", "two", "completed", "", 0.5)
    entry = KnowledgeView("k", "title", 2020, "source", "idea", "when", "pitfalls")
    return ResearchContext(
        brief=brief(config),
        parent=ProgramView("exp-0001", "one", "pass\n", 0.4),
        history=(HistoryItem("exp-0003", "three", "completed", "", 0.1, None, None, "", ""),),
        lessons=(LessonView("exp-0003", "claim", "observed", "change", 0.1),),
        memory=Memory(path=(seen,), best=(seen,), neighbours=(seen,), n_children=1, knowledge=(entry,)),
    )


def test_what_is_left_out_is_not_told(tiny_config: Make) -> None:
    whole = context(tiny_config())
    assert told(whole, ()) == whole
    forgetful = told(whole, ("memory",))
    assert (forgetful.history, forgetful.lessons) == ((), ())
    assert forgetful.memory == Memory(knowledge=whole.memory.knowledge)
    assert told(whole, ("knowledge",)).memory.knowledge == ()
    assert told(whole, ("knowledge",)).history == whole.history
    assert told(whole, ("memory", "knowledge")).memory == Memory()
    assert tuple(MEANING) == PARTS


@pytest.mark.thorough
@pytest.mark.campaign
def test_without_dedup_a_repeat_is_trained_and_without_the_analyst_nobody_explains(play: Play) -> None:
    program = catalogue.source("mlp")
    without: list[Part] = ["dedup", "analyst", "exemplars"]
    store, experiment, launched = play(fenced(program), search__without=without)
    repeat = store.experiment(experiment)
    assert repeat.status == "completed"
    assert repeat.score == store.experiment("tiny-0000").score
    assert repeat.duplicate_of is None
    assert repeat.exemplar_ids == []
    assert {x.role for x in store.exchanges(campaign_id=launched.campaign.id)} == {"researcher", "coder"}
    assert store.lessons(launched.campaign.id) == []
    verdicts = store.verdicts(experiment, 1)
    assert any("trains repeats too" in verdict.message for verdict in verdicts)


def test_campaigns_from_before_do_without_nothing() -> None:
    data = CampaignConfig().frozen()
    del data["search"]["without"]
    assert stored(data).search.without == ()


def test_a_study_goes_on_with_its_own_evaluation_data(tiny_config: Make) -> None:
    store = open_store("sqlite://", create=True)
    first = planned(store, "s", few_shot([0, 1]), SEEDS, tiny_config(objective__salt="first"))
    launch.start(store, next(iter(first.campaigns()))[2])
    again = planned(store, "s", few_shot([0, 1]), SEEDS, tiny_config(objective__salt="another draw"))
    assert again.config.objective.salt == "first"
    with pytest.raises(ConfigError, match="other settings"):
        planned(store, "s", few_shot([0, 1]), SEEDS, tiny_config(experiments=5))
    store.close()


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_study_runs_its_arms_and_continues_where_it_was(cli: Cli, tmp_path: Path) -> None:
    common = tmp_path / "common.toml"
    common.write_text('experiments = 2\n[search]\nstarters = ["mlp"]\n', encoding="utf-8")
    command = ("study", "ablate", str(common), "--without", "analyst", *TINY)
    found = json.loads(cli(*command, "--json").stdout)
    assert found["reference"] == "full"
    full, without = found["arms"]
    assert len(full["scores"]) == len(without["scores"]) == 5
    assert without["tokens"] < full["tokens"]
    assert without["difference"]["n"] == 5
    store = cli.store()
    assert len(store.campaigns()) == 10
    store.close()
    again = cli(*command)
    assert "| no-analyst |" in again.stdout
    assert "campaign 1 of" not in again.stderr  # nothing was run anew
