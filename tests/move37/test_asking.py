"""Asking a role, against replies that are not what was asked for and models that do not reply."""

import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agents.coder import Written
from agents.contexts import Message, Prompt
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable, ReplyMalformed
from agents.gateway import Completion, ModelKind
from agents.wire import Usage
from memory.records import Campaign, Experiment
from memory.store import Store, open_store
from memory.testing import new_campaign, new_experiment
from move37.asking import CODER, RESEARCHER, Form, ask
from move37.budget import Budget
from move37.config import BudgetConfig, CampaignConfig
from move37.errors import BudgetExhausted
from move37.loop import Loop
from prompts.loader import Prompts

PROMPT = Prompt((Message("system", "contract"), Message("user", "go")), {"t": "h"})
PROGRAM = "def build_mixer(d_model, layer_index, n_layers):\n    return None\n"
HYPOTHESIS = {
    "title": "A title",
    "mechanism": "m",
    "change": "c",
    "design": "d",
    "predictions": [{"task": "recall", "direction": "up", "size": 0.1}],
    "ablation": "without it",
    "knowledge": [],
    "refuted_by": "r",
}


WRITTEN = Written(PROGRAM, "whole")


def fenced(source: str) -> str:
    return f"```python\n{source}```\n"


class Scripted:
    """Says or raises what it is told, in order."""

    kind: ModelKind = "language-model"
    name = "scripted"

    def __init__(self, *script: str | AgentError) -> None:
        self.script = list(script)
        self.asked: list[list[Message]] = []

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        self.asked.append(list(messages))
        said = self.script.pop(0)
        if isinstance(said, AgentError):
            raise said
        raw = {"attempts": 2, "discarded": [{"why": "no choices", "usage": [10, 1]}]}
        return Completion(said, "served", Usage(110, 21), 0.5, "stop", 0.25, raw)

    async def close(self) -> None:
        pass


class Table:
    """A store with one open experiment, and a loop of as much as asking needs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.campaign: Campaign = new_campaign(store)
        self.experiment: Experiment = new_experiment(store, self.campaign)

    async def ask(self, model: Scripted, form: Form[Any], limits: BudgetConfig | None = None) -> Any:
        loop = SimpleNamespace(
            store=self.store,
            campaign=self.campaign,
            config=CampaignConfig(),
            model_of=lambda experiment: model,
            budget=Budget(limits or BudgetConfig(), lambda: self.store.spent(self.campaign.id)),
            prompts=Prompts(),
        )
        return await ask(cast("Loop", loop), self.experiment, "role", 1, PROMPT, form)


@pytest.fixture
def table() -> Iterator[Table]:
    store = open_store("sqlite://", create=True)
    yield Table(store)
    store.close()


@pytest.mark.parametrize(
    "bad",
    [
        "I would rather not.",
        "",
        fenced(PROGRAM) + "or\n" + fenced(PROGRAM),
        "```python\nx = 1",
        "```rust\nfn main() {}\n```",
        "<think>hm</think>",
    ],
    ids=["prose", "empty", "two programs", "cut off", "another language", "reasoning only"],
)
async def test_what_is_no_program_gets_one_corrective_round(table: Table, bad: str) -> None:
    model = Scripted(bad, fenced(PROGRAM))
    assert await table.ask(model, CODER) == WRITTEN
    first, second = table.store.exchanges(table.experiment.id)
    assert (first.turn, second.turn, first.text) == (0, 1, bad)
    assert first.response is not None
    assert second.response is not None
    assert "corrects" not in first.response
    assert second.response["corrects"]
    assert [message.role for message in model.asked[1]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    "change",
    [
        {"title": "\x1b[31mred"},
        {"mechanism": "right to left \u202e override"},
        {"design": "null \x00 byte"},
        {"title": "x" * 81},
        {"predictions": []},
        {"surprise": 1},
    ],
    ids=["escape", "override", "null", "too long", "no prediction", "unknown field"],
)
async def test_a_hostile_hypothesis_is_not_taken_in(table: Table, change: dict[str, Any]) -> None:
    hostile = json.dumps({**HYPOTHESIS, **change})
    with pytest.raises(ReplyMalformed):
        await table.ask(Scripted(hostile, hostile), RESEARCHER)
    assert [x.text for x in table.store.exchanges(table.experiment.id)] == [hostile, hostile]


@pytest.mark.parametrize(
    "title", ["'; DROP TABLE experiments; --", "{{ 7 * 7 }}", "<script>alert(1)</script>", "Ἀρχή 🧠"]
)
async def test_strange_words_are_words(table: Table, title: str) -> None:
    hypothesis = await table.ask(Scripted(json.dumps({**HYPOTHESIS, "title": title})), RESEARCHER)
    assert hypothesis.title == title


@pytest.mark.parametrize(
    "error",
    [
        ModelRefused("wrong key", kind="auth"),
        ModelRefused("no such model", kind="not_found"),
        ModelRefused("too long", kind="context_length"),
        ModelUnavailable("down"),
        DeadlineExceeded("m", 5),
    ],
    ids=["auth", "unknown model", "context", "unavailable", "deadline"],
)
async def test_a_call_that_failed_is_recorded_and_charged_and_asked_again_later(
    table: Table, error: AgentError
) -> None:
    error.usage, error.cost_usd = Usage(70, 5), 0.125
    with pytest.raises(type(error)):
        await table.ask(Scripted(error), CODER)
    spent = table.store.spent(table.campaign.id)
    assert (spent.prompt_tokens, spent.completion_tokens, spent.cost_usd, spent.calls) == (70, 5, 0.125, 1)
    (event,) = table.store.events(table.campaign.id, kind="call_failed")
    assert event.experiment_id == table.experiment.id
    assert (event.payload["error"], event.payload["why"]) == (type(error).__name__, str(error))
    assert table.store.exchanges(table.experiment.id) == []
    assert await table.ask(Scripted(fenced(PROGRAM)), CODER) == WRITTEN


async def test_what_all_attempts_used_is_charged_and_their_fate_is_kept(table: Table) -> None:
    await table.ask(Scripted(fenced(PROGRAM)), CODER)
    (exchange,) = table.store.exchanges(table.experiment.id)
    assert (exchange.usage.prompt_tokens, exchange.usage.completion_tokens, exchange.cost_usd) == (110, 21, 0.25)
    assert exchange.response is not None
    assert exchange.response["discarded"] == [{"why": "no choices", "usage": [10, 1]}]
    assert table.store.spent(table.campaign.id).tokens == 131


async def test_a_stored_reply_is_not_asked_for_again(table: Table) -> None:
    await table.ask(Scripted(fenced(PROGRAM)), CODER)
    silent = Scripted()
    assert await table.ask(silent, CODER) == WRITTEN
    assert silent.asked == []


async def test_without_budget_nothing_is_asked(table: Table) -> None:
    limits = BudgetConfig(tokens=100)
    assert await table.ask(Scripted(fenced(PROGRAM)), CODER, limits) == WRITTEN  # 131 tokens: over by this one call
    table.experiment = new_experiment(table.store, table.campaign, 1)
    silent = Scripted()
    with pytest.raises(BudgetExhausted, match="131 of 100"):
        await table.ask(silent, CODER, limits)
    assert silent.asked == []
