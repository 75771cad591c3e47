"""Tiers, the spelling of sizes, and tasks that other packages bring."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator import objective, tiers
from evaluator.errors import ImpossibleSize, TaskPluginBroken, TaskSpecMalformed, UnknownAxis, UnknownTask
from evaluator.tasks import registry
from evaluator.tasks.task import Plan

SMOKE = tiers.get("sequence", "smoke")
RANKING = ("recall", "mqar", "selective_copying", "noisy_recall", "memorisation")
PLUGIN = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from evaluator.tasks.task import Batch, Plan, Task, nothing

@dataclass(frozen=True)
class Parity(Task):
    name: ClassVar[str] = "parity"
    title: ClassVar[str] = "Parity"
    description: ClassVar[str] = "Whether the ones so far are odd in number."
    axes: ClassVar[Mapping[str, str]] = {"length": "from 3"}
    vocabulary: int = 2
    length: int = 8

    @property
    def chance(self) -> float:
        return 0.5

    def batch(self, rng, size, table):
        tokens = rng.integers(0, 2, size=(size, self.length))
        return Batch(tokens, np.cumsum(tokens, axis=1) % 2, ~nothing(tokens), ~nothing(tokens), nothing(tokens))

    @classmethod
    def plans(cls):
        return {"micro": Plan(cls(), steps=10), "smoke": Plan(cls(length=16), steps=20, ranks=False)}
"""


@pytest.mark.parametrize(
    ("tier", "steps"), [("micro", [40] * 5), ("smoke", [250, 300, 250, 250, 150]), ("standard", [800] * 5)]
)
def test_the_tasks_that_rank_keep_the_steps_they_were_measured_with(tier: str, steps: list[int]) -> None:
    chosen = tiers.get("sequence", tier)
    assert chosen.ranking_tasks == RANKING
    assert [chosen.plan(name).steps for name in RANKING] == steps
    assert max(chosen.lengths) <= 48
    assert {chosen.for_task(name) for name in RANKING} == {chosen}


@pytest.mark.parametrize("tier", tiers.names("sequence"))
def test_every_task_of_a_tier_has_a_plan_that_holds_together(tier: str) -> None:
    chosen = tiers.get("sequence", tier)
    assert chosen.tasks[:5] == RANKING
    for name in chosen.tasks:
        task, tuned = chosen.task(name), chosen.for_task(name)
        assert task.name == name
        assert set(task.axes) <= set(task.sizes())
        assert 0.0 < task.earliest_cut <= 0.5
        assert len(set(chosen.checkpoints(name))) == len(tiers.FRACTIONS)
        assert chosen.checkpoints(name)[-1] == chosen.plan(name).steps
        assert chosen.budget(name) == tuned.body_parameters + task.vocabulary * tuned.d_model
        assert task.vocabulary * (task.scored_columns or task.length) <= 1 << 18
    assert chosen.accelerator == (tier == "full")


def test_a_plan_changes_the_tier_for_its_task_only() -> None:
    tuned = SMOKE.for_task("byte_lm")
    assert (tuned.d_model, tuned.batch, tuned.evaluation_sequences) == (64, 8, 128)
    assert tuned.recipe.learning_rate == 5e-3
    assert (tuned.n_layers, tuned.recipe.clip) == (SMOKE.n_layers, SMOKE.recipe.clip)
    assert tuned.plan("byte_lm") == SMOKE.plan("byte_lm")
    assert SMOKE.budget("byte_lm") == tuned.body_parameters + 256 * 64
    assert not SMOKE.plan("byte_lm").ranks


def test_the_language_model_of_tier_full_has_twenty_million_parameters() -> None:
    full = tiers.get("sequence", "full")
    assert 18e6 < full.budget("token_lm") < 21e6
    assert "token_lm" in full.ranking_tasks
    with pytest.raises(UnknownTask, match="tier 'smoke'"):
        SMOKE.plan("token_lm")


def test_a_size_in_the_name_resizes_the_plan_and_keeps_its_training() -> None:
    plan = SMOKE.plan("mqar:length=64:pairs=8")
    assert (plan.task.length, plan.task.pairs, plan.task.vocabulary) == (64, 8, 32)
    assert plan.steps == SMOKE.plan("mqar").steps
    assert SMOKE.checkpoints("mqar:length=64") == SMOKE.checkpoints("mqar")
    standard = tiers.get("sequence", "standard").task("mqar:length=64")
    assert (standard.length, standard.pairs) == (64, 8)  # the other sizes are those of the tier
    assert SMOKE.budget("mqar:vocabulary=64") == SMOKE.budget("mqar") + 32 * SMOKE.d_model
    assert SMOKE.task("state_tracking:group=A5").vocabulary == 60


def test_sizes_have_one_spelling() -> None:
    assert registry.canonical("mqar") == "mqar"
    assert registry.canonical("mqar:pairs=08: length = 064") == "mqar:length=64:pairs=8"
    assert registry.canonical("noisy_recall:noise=.60") == "noisy_recall:noise=0.6"
    assert registry.canonical("token_lm:tokenizer=gpt2:dataset=a/b") == "token_lm:dataset=a/b:tokenizer=gpt2"


@given(length=st.integers(3, 999), pairs=st.integers(1, 99), turned=st.booleans())
def test_the_canonical_spelling_says_the_same_and_stays(length: int, pairs: int, turned: bool) -> None:
    settings = [f"length={length}", f"pairs={pairs}"]
    spec = ":".join(["mqar", *(reversed(settings) if turned else settings)])
    once = registry.canonical(spec)
    assert registry.canonical(once) == once
    assert registry.parse(once) == registry.parse(spec) == ("mqar", {"length": length, "pairs": pairs})


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("sorting", UnknownTask, "selective_copying"),
        ("sorting:length=3", UnknownTask, "selective_copying"),
        ("mqar:width=3", UnknownAxis, "vocabulary, length, pairs"),
        ("mqar:length", TaskSpecMalformed, "AXIS=VALUE"),
        ("mqar:length=", TaskSpecMalformed, "AXIS=VALUE"),
        ("mqar:", TaskSpecMalformed, "AXIS=VALUE"),
        ("mqar:length=64:length=64", TaskSpecMalformed, "twice"),
        ("mqar:length=many", ImpossibleSize, "length=many"),
        ("mqar:length=6.5", ImpossibleSize, "length=6.5"),
        ("noisy_recall:noise=nan", ImpossibleSize, "noise=nan"),
        ("mqar:length=11", ImpossibleSize, "from 12"),
        ("memorisation:length=0", ImpossibleSize, "length=0"),
    ],
)
def test_what_cannot_be_made_says_what_can(spec: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        SMOKE.plan(spec)


def test_what_changes_a_score_changes_its_hash() -> None:
    def digest(task: str, tier: str = "micro") -> str:
        return objective.task_hash("sequence", tier, task)

    assert digest("mqar") != digest("mqar:length=40")
    assert digest("byte_lm") == digest("byte_lm")
    settings = objective.task_settings("sequence", "micro", "byte_lm")
    assert len(settings["sizes"]["corpus"]) == 64
    assert settings["sizes"]["python"].count(".") == 2
    plan = Plan(SMOKE.task("recall"), steps=9, batch=3)
    assert plan.describe() == {
        "steps": 9, "batch": 3, "learning_rate": None, "d_model": None, "n_layers": None, "evaluation_sequences": None,
    }  # fmt: skip


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Puts a distribution named `stranger` on the path whose entry point names `module:Parity`."""

    def installed(source: str) -> None:
        info = tmp_path / "stranger-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\nparity = stranger_task:Parity\n")
        (tmp_path / "stranger_task.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        registry._classes.cache_clear()

    yield installed
    sys.modules.pop("stranger_task", None)
    monkeypatch.undo()
    registry._classes.cache_clear()


def test_a_task_of_another_package_is_offered_like_ours(install) -> None:  # type: ignore[no-untyped-def]
    install(PLUGIN)
    assert registry.names("sequence")[-1] == "parity"
    assert SMOKE.plan("parity:length=5").task.length == 5
    assert tiers.get("sequence", "micro").ranking_tasks == (*RANKING, "parity")
    assert "parity" not in tiers.get("sequence", "standard").tasks


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"parity"', '"recall"', "taken by evaluator.tasks.recall"),
        ('"parity"', '"Not a name"', "no name for a task"),
        ('{"length":', '{"depth":', "depth"),
        ("length: int = 8", "length: int = 2", "3 to"),
        ("length: int = 8", "", "length"),
        ("    @classmethod\n", "", "cls"),
        ("return {", "return {} and {", "no non-empty mapping"),
        ("class Parity", "class Other", "raised AttributeError"),
        ("    def batch", "    def other", "no concrete subclass"),
        ("import numpy", "raise RuntimeError('no luck')\nimport numpy", "RuntimeError: no luck"),
    ],
)
def test_a_broken_package_is_named_and_not_passed_over(install, old: str, new: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert old in PLUGIN
    install(PLUGIN.replace(old, new))
    with pytest.raises(TaskPluginBroken, match=says) as caught:
        registry.names("sequence")
    assert "'stranger'" in str(caught.value)
    assert caught.value.distribution == "stranger"


def test_a_size_whose_logits_do_not_fit_is_refused_with_the_length_that_fits() -> None:
    smoke = tiers.get("sequence", "smoke")
    with pytest.raises(ImpossibleSize, match=r"length=2048; possible: up to \d+ with vocabulary 32768"):
        smoke.plan("mqar:vocabulary=32768:length=2048:pairs=600")
    assert smoke.plan("mqar:vocabulary=8192:length=256:pairs=64").task.pairs == 64


def test_a_plan_needs_enough_steps_for_its_checkpoints() -> None:
    with pytest.raises(ImpossibleSize, match="steps=4"):
        Plan(registry.get("recall"), steps=4)
