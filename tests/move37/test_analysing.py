"""The analyst's step on a memory made by hand: what it shows, what it keeps, and that a crash changes nothing."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from agents.contexts import Message
from agents.gateway import Completion
from agents.wire import Usage
from evaluator import catalogue
from memory.records import Campaign, Experiment, Lesson
from memory.store import Store, open_store
from move37 import briefing, launch, steps
from move37.budget import Budget
from move37.config import BudgetConfig, CampaignConfig
from move37.evidence import basis_of
from move37.loop import Loop
from move37.turnstile import Turnstile
from prompts.loader import Prompts
from tests.move37.test_crash_points import Killed

Config = Callable[..., CampaignConfig]
SOURCE = catalogue.source("mlp")


@dataclass
class ScriptedModel:
    """Says what it is told to say, in order."""

    replies: list[str]
    asked: list[str] = field(default_factory=list)
    name: str = "scripted"
    kind: Literal["scripted"] = "scripted"

    async def complete(self, messages: Sequence[Message], **_: Any) -> Completion:
        self.asked.append(messages[-1].content)
        return Completion(self.replies.pop(0), self.name, Usage(1, 1, False), 0.0, "stop", 0.0, {})

    async def close(self) -> None:
        """Nothing is held."""


def reply(change: str = "add a gate", **more: Any) -> str:
    return json.dumps(
        {
            "summary": "as predicted",
            "prediction_held": "yes",
            "lesson": {"claim": f"'{change}' moved the score.", "change": change, "effect": 9.0},
            "next_test": "again",
            **more,
        }
    )


@dataclass
class Bench:
    """A campaign on one task of tier smoke, whose noise floor is stored (0.127 for one seed)."""

    store: Any
    campaign: Campaign
    config: CampaignConfig

    def loop(self, *replies: str) -> Loop:
        return Loop(
            store=self.store,
            campaign=self.campaign,
            config=self.config,
            brief=briefing.brief(self.config),
            prompts=Prompts(),
            model=ScriptedModel(list(replies)),  # type: ignore[arg-type]
            laboratory=None,  # type: ignore[arg-type]
            budget=Budget(BudgetConfig(), lambda: self.store.spent(self.campaign.id)),
            turnstile=Turnstile(),
            notify=lambda kind, payload: None,
        )

    def trained(
        self,
        index: int,
        score: float,
        parent: int | None,
        *,
        change: str = "add a gate",
        repaired: bool = False,
        **selection: Any,
    ) -> Experiment:
        """An experiment up to its last trial."""
        kind: Any = "starter" if parent is None else "proposal"
        store: Store = self.store
        made = store.open_experiment(self.campaign.id, index, arm="x", kind=kind, track="sequence", tier="smoke")
        origin: Any = "proposal"
        number = 1
        hypothesis = None
        if parent is not None:
            store.select(made.id, f"bench-{parent:04d}", [], selection)
            hypothesis = {
                "title": f"Design {index}", "mechanism": "m", "change": change, "design": "d", "refuted_by": "r",
                "predictions": [{"task": "mqar", "direction": "up", "size": 0.3}],
            }  # fmt: skip
        if repaired:
            first = store.put_program(f"{SOURCE}# first {index}\n")
            store.put_attempt(made.id, 1, origin="proposal", hypothesis=hypothesis, program_sha256=first)
            refusal = {"gate": "causality", "reason": "not_causal", "message": "it sees the future"}
            store.close_attempt(made.id, 1, "gate_failed", refusal)
            origin, number, hypothesis = "repair", 2, None
        program = store.put_program(f"{SOURCE}# {index}\n")
        store.put_attempt(made.id, number, origin=origin, hypothesis=hypothesis, program_sha256=program)
        store.close_attempt(made.id, number, "accepted", {"cost": {"parameters": 25_000.0}})
        row = store.open_trial(
            made.id, task="mqar", tier="smoke", seed=0, data="selection", objective_hash=self.campaign.objective_hash
        )
        curve = [{"fraction": f, "accuracy": a} for f, a in [(0.1, 0.06), (0.25, 0.06), (0.5, 0.07), (1.0, score)]]
        store.finish_trial(row.id, state="completed", reason="ok", score=score, curve=curve)
        return made

    def finish(self, made: Experiment, score: float) -> Experiment:
        attempt = self.store.attempts(made.id)[-1]
        first = self.store.attempts(made.id)[0].hypothesis
        return self.store.finish_experiment(
            made.id, status="completed", score=score, program_sha256=attempt.program_sha256, hypothesis=first,
            name=f"design {made.index}",
        )  # fmt: skip

    def ended(
        self, index: int, score: float, parent: int | None, said: str | None = None, **more: Any
    ) -> ScriptedModel:
        """A whole experiment, analysed with `said`."""
        made = self.trained(index, score, parent, **more)
        loop = self.loop(said or reply(more.get("change", "add a gate")))
        if parent is not None:
            assert asyncio.run(steps.analyse(loop, made.id)) == "record"
        self.finish(made, score)
        model: Any = loop.model
        return model

    def lesson(self, index: int, seen_by: int = 99) -> Lesson:
        loop = self.loop()
        return next(x for x in loop.visibility.lessons(seen_by) if x.experiment_id == f"bench-{index:04d}")


@pytest.fixture
def bench(tiny_config: Config) -> Iterator[Bench]:
    config = tiny_config(
        name="bench", experiments=20, objective__tier="smoke", objective__tasks=["mqar"], search__starters=["mlp"]
    )
    store = open_store("sqlite://")
    yield Bench(store, launch.start(store, config), config)
    store.close()


def test_the_prompt_sets_predicted_beside_measured(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    bench.ended(1, 0.15, 0, change="widen it")
    asked = bench.ended(2, 0.5, 0).asked[0]
    assert "| mqar | up 0.300 | 0.500 | 0.500 | 0.100 | 0.100 | +0.400 | one seed, none | 0.127 | yes |" in asked
    assert "- score: +0.400 against the parent; interval one seed, none; noise 0.127; beyond noise: yes" in asked
    assert "There is one seed: it has no spread" in asked
    assert "shape: at chance until 50 %, then rises; still rising at the end" in asked
    assert '- exp-0001 "design 1": completed, score +0.050 against the parent' in asked
    assert "- exp-0001 [observed]: 'widen it' moved the score." in asked
    assert "effect on the score: +0.050" in asked  # what was measured, not what was said


def test_levels_follow_from_measurements_and_not_from_words(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    bench.ended(1, 0.5, 0)
    bench.ended(2, 0.4, 0, change="widen it")
    said = [{"lesson": "exp-0001", "stance": "supports", "note": "I am sure"}]
    bench.ended(3, 0.41, 2, reply("mix twice", evidence=said), change="mix twice")
    assert bench.lesson(1).level == "observed"
    [row] = bench.store.evidence(bench.campaign.id)
    assert (row.stance, basis_of(row.note)) == ("supports", "stated")
    bench.ended(4, 0.7, 2)  # the same change on another parent
    assert bench.lesson(1).level == "replicated"
    assert bench.lesson(4).level == "replicated"
    assert bench.lesson(1, seen_by=4).level == "observed"  # what experiment 4 itself saw


def test_an_ablation_raises_a_lesson_and_a_contradiction_retires_it(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    bench.ended(1, 0.5, 0)
    bench.ended(2, 0.2, 1, change="remove the bias", mode="ablate", requested_by="bench-0001")
    assert bench.lesson(1).level == "ablated"
    assert bench.lesson(1).retired_by is None
    bench.ended(3, 0.4, 0, change="widen it")
    asked = bench.ended(4, 0.1, 3)  # the same change elsewhere: now it costs
    assert "- exp-0001 [ablated]" in asked.asked[0]
    assert bench.lesson(1).retired_by == "bench-0004"
    assert bench.store.lessons(bench.campaign.id)[0].retired_by == "bench-0004"
    assert bench.lesson(4).retired_by is None  # what was known before is no later evidence
    after = bench.ended(5, 0.5, 0, change="mix twice").asked[0]
    assert "exp-0001 [" not in after
    assert "(1 more was refuted by later measurements, and is not shown.)" in after


def test_within_noise_nothing_is_evidence(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    bench.ended(1, 0.5, 0)
    bench.ended(2, 0.45, 0, change="widen it")
    bench.ended(3, 0.40, 2)
    bench.ended(4, 0.55, 1, change="remove the bias", mode="ablate", requested_by="bench-0001")
    assert bench.store.evidence(bench.campaign.id) == []
    assert bench.lesson(1).level == "observed"


def test_a_repair_that_changed_the_idea_is_shown_and_its_lesson_is_no_changes_lesson(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    model = bench.ended(1, 0.5, 0, reply(idea_kept="no"), repaired=True)
    assert "- causality: it sees the future" in model.asked[0]
    assert "-# first 1\n+# 1" in model.asked[0]
    bench.ended(2, 0.4, 0, change="widen it")
    asked = bench.ended(3, 0.7, 2).asked[0]
    assert bench.lesson(1).level == "observed"
    assert bench.store.evidence(bench.campaign.id) == []
    assert "- exp-0001 [observed]: 'add a gate' moved the score.\n  change: -\n" in asked
    assert "## Repairs" not in asked


def test_evidence_on_a_lesson_that_was_not_shown_is_asked_for_again(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    bench.ended(1, 0.5, 0)
    wrong = [{"lesson": "exp-0007", "stance": "supports", "note": "x"}]
    made = bench.trained(2, 0.4, 0, change="widen it")
    loop = bench.loop(reply("widen it", evidence=wrong), reply("widen it"))
    asyncio.run(steps.analyse(loop, made.id))
    model: Any = loop.model
    assert "evidence names the lessons exp-0007; those shown are exp-0001" in model.asked[1]
    assert bench.store.analysis(made.id).body["evidence"] == []


def test_an_analysis_that_stays_malformed_leaves_the_measurement(bench: Bench) -> None:
    bench.ended(0, 0.1, None)
    made = bench.trained(1, 0.5, 0)
    assert asyncio.run(steps.analyse(bench.loop("no", "no"), made.id)) == "record"
    assert bench.store.analysis(made.id) is None
    assert bench.store.lessons(bench.campaign.id) == []


def test_what_finished_since_reaches_no_analyst(bench: Bench) -> None:
    """Two in flight: 3 was proposed before 2 ended, and its analyst sees no more than that."""
    config = bench.config.model_copy(update={"parallel": 2})
    flying = Bench(bench.store, bench.store.campaign(bench.campaign.id), config)
    flying.campaign = bench.store.create_campaign(
        "two", config=config.model_copy(update={"name": "two"}).frozen(), config_hash="", objective={},
        objective_hash="", seed=0, arms=["x"],
    )  # fmt: skip
    flying.store = Renamed(bench.store)
    flying.ended(0, 0.1, None)
    flying.ended(1, 0.4, 0, change="widen it")
    flying.ended(2, 0.6, 1)
    asked = flying.ended(3, 0.5, 0).asked[0]
    assert "exp-0001" in asked
    assert "exp-0002" not in asked
    assert bench.store.evidence(flying.campaign.id) == []


class Renamed:
    """The bench writes `bench-0000`; this campaign's experiments have another name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name != "select":
            return method
        return lambda made, parent, *rest: method(made, parent.replace("bench", "two"), *rest)


class Dying:
    """Hands every call to a real store and dies after the n-th write of the step."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store, self.left = store, writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not name.startswith(("put_", "retire_")):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.left -= 1
            if self.left < 0:
                raise Killed
            return result

        return call


def kept(bench: Bench) -> tuple[Any, ...]:
    """Everything that the step leaves, without clocks."""
    store = bench.store
    return (
        [(x.id, x.level, x.body, x.retired_by) for x in store.lessons(bench.campaign.id)],
        [(x.lesson_id, x.experiment_id, x.stance, x.note) for x in store.evidence(bench.campaign.id)],
        [store.analysis(e.id).body for e in store.experiments(bench.campaign.id) if store.analysis(e.id)],
        len(store.exchanges(campaign_id=bench.campaign.id)),
    )


@pytest.mark.thorough
def test_a_crash_after_any_write_of_the_step_changes_nothing(tiny_config: Config, bench: Bench) -> None:
    outcomes = []
    for writes in range(-1, 20):
        store = open_store("sqlite://")
        one = Bench(store, launch.start(store, bench.config), bench.config)
        one.ended(0, 0.1, None)
        one.ended(1, 0.5, 0, reply(ablation_request={"remove": "the bias", "expect": "it falls"}))
        one.ended(2, 0.6, 0, change="widen it")
        made = one.trained(3, 0.2, 2)  # contradicts 1, and is contradicted by it
        said = reply(evidence=[{"lesson": "exp-0002", "stance": "contradicts", "note": "perhaps"}])
        if writes >= 0:
            dying = Dying(store, writes)
            one.store = dying
            with contextlib.suppress(Killed):
                asyncio.run(steps.analyse(one.loop(said), made.id))
            one.store = store
        if writes < 0 or dying.left < 0:
            replies = () if writes >= 0 else (said,)  # after the first write the exchange is stored: nobody is asked
            asyncio.run(steps.analyse(one.loop(*replies), made.id))
        outcomes.append(kept(one))
        store.close()
        if writes >= 0 and dying.left >= 0:
            break
    assert len(outcomes) == 9  # undisturbed, exchange, lesson, three rows of evidence, a mark, analysis, and none left
    assert all(one == outcomes[0] for one in outcomes)
    assert len(outcomes[0][1]) == 3
