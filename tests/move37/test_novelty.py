"""Novelty before code: a hypothesis that was tried goes back with what it scored, and the coder is not asked."""

import json
from typing import Any

import pytest

from agents.opening import open_model
from benchmarks import simulated
from memory.store import Store
from move37 import launch
from move37.config import load
from move37.novelty import terms
from move37.recalling import normalised
from move37.replaying import replay_campaign


class Forgetful:
    """The embedded model; as a researcher it says again what it said first, unless it is told of `until` repeats."""

    kind = "grammar"
    name = "forgetful"

    def __init__(self, until: int, reword: bool = False) -> None:
        self._model = open_model()
        self._until = until
        self._reword = reword
        self._first: Any = None

    async def complete(self, messages: Any, **settings: Any) -> Any:
        if not messages[0].content.startswith("# Role: researcher"):
            return await self._model.complete(messages, **settings)
        collisions = messages[1].content.partition("## Your last proposals")[2].partition("\n## Mode")[0]
        if self._first is None or collisions.count("\n- exp-") >= self._until:
            completion = await self._model.complete(messages, **settings)
            self._first = self._first or completion
            return completion
        if self._reword:
            text = self._first.text.replace("every layer: ", "each layer has ").replace('"title": "', '"title": "Now ')
            text = text.replace(": Parallel", " is Parallel").replace(": Serial", " is Serial")
            return type(self._first)(**{**vars_of(self._first), "text": text})
        return self._first

    async def close(self) -> None:
        await self._model.close()


def vars_of(completion: Any) -> dict[str, Any]:
    return {name: getattr(completion, name) for name in completion.__dataclass_fields__}


def run(monkeypatch: pytest.MonkeyPatch, model: Forgetful, **settings: Any) -> tuple[Store, Any]:
    monkeypatch.setattr(launch, "open_chat_models", lambda config: {config.model.names[0]: model})
    usual = {"name": "again", "experiments": 5, "search.modes": ["improve"], "search.repairs": 2}
    return simulated.campaign(load(None, {**usual, **settings}))


def test_a_repeat_goes_back_with_its_score_and_the_coder_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=1))
    first, second, third = (e for e in store.experiments(campaign.id) if e.kind == "proposal")
    assert [a.outcome for a in store.attempts(first.id)] == ["accepted"]
    for e in (second, third):
        repeated, fresh = store.attempts(e.id)
        assert repeated.outcome == "duplicate"
        assert repeated.program_sha256 is None
        assert {k: repeated.detail[k] for k in ("gate", "reason", "level", "duplicate_of")} == {
            "gate": "novelty", "reason": "duplicate", "level": "hypothesis", "duplicate_of": first.id,
        }  # fmt: skip
        assert (fresh.origin, fresh.outcome) == ("reproposal", "accepted")
        assert store.find_exchange(e.id, "coder", 1, 0) is None
        again = store.find_exchange(e.id, "researcher", 2, 0)
        assert again is not None
        told = again.request["messages"][1]["content"].partition("## Your last proposals")[2]
        assert f'"{first.name}": completed, score {first.score:.3f}' in told
        assert e.status == "completed"
    caught = {x.level: x.caught for x in store.recognised(campaign.id)}
    assert caught["hypothesis"] == 2
    assert replay_campaign(store, campaign).differences == []


def test_at_the_limit_the_coder_is_asked_and_the_ladder_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=99), **{"experiments": 4})
    first, second = (e for e in store.experiments(campaign.id) if e.kind == "proposal")
    levels = [a.detail.get("level") for a in store.attempts(second.id)]
    assert levels[:2] == ["hypothesis", "hypothesis"]
    assert levels[2] in {"L0", "L1"}
    assert (second.status, second.duplicate_of) == ("duplicate", first.id)
    assert replay_campaign(store, campaign).differences == []


def test_what_is_not_visible_yet_is_no_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=1), **{"experiments": 4, "parallel": 2})
    second = store.experiments(campaign.id)[3]
    assert "hypothesis" not in {a.detail.get("level") for a in store.attempts(second.id)[:1]}


def test_other_words_for_one_design_are_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=1, reword=True), **{"experiments": 4})
    first, second = (e for e in store.experiments(campaign.id) if e.kind == "proposal")
    repeated = store.attempts(second.id)[0]
    said = [json.loads(json.dumps(e.hypothesis))["title"] for e in (first, second)]
    assert said[0] != (repeated.hypothesis or {})["title"]
    assert repeated.detail["duplicate_of"] == first.id
    assert 0.85 <= repeated.detail["similarity"] <= 1.0


def test_a_campaign_that_does_not_ask_asks_the_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=1), **{"experiments": 4, "search.novelty": 0.0})
    second = store.experiments(campaign.id)[3]
    assert store.attempts(second.id)[0].detail["level"] in {"L0", "L1"}


def test_a_campaign_without_dedup_sends_no_hypothesis_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store, campaign = run(monkeypatch, Forgetful(until=1), **{"experiments": 4, "search.without": ["dedup"]})
    first, second = (e for e in store.experiments(campaign.id) if e.kind == "proposal")
    assert [a.outcome for a in store.attempts(second.id)] == ["accepted"]
    assert (second.status, second.duplicate_of) == ("completed", None)
    assert second.hypothesis == first.hypothesis
    assert replay_campaign(store, campaign).differences == []


def test_what_says_nothing_of_a_design_is_left_out() -> None:
    assert normalised("Every layer:  A(2),\n B.") == normalised("every layer: A(2), b")
    assert normalised("A(2)") != normalised("A(4)")


def test_terms_are_what_decides() -> None:
    one = terms("every layer: ShortConvolution(d_model, width=4) before SoftmaxAttention, feature_map='elu'")
    assert one == ("every", "shortconvolution", "d_model", "4", "before", "softmaxattention", "feature_map", "elu")
    assert terms("a width of 4") != terms("a width of 8")
    assert terms("A before B") != terms("A after B") != terms("B after A")
