"""Which failures make another model answer, and that every switch is told, kept and paid for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from agents.contexts import Message
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable, RefusalKind
from agents.fallback import ANOTHER_MAY_ANSWER, REFUSAL_REST_S, REST_S, FallbackModel
from agents.gateway import Completion, ModelKind
from agents.wire import Usage

MESSAGES = [Message("user", "hello")]


class Scripted:
    """Raises or answers as told; the last one repeats."""

    kind: ModelKind = "language-model"

    def __init__(self, name: str, *script: AgentError | str) -> None:
        self.name = name
        self.script = list(script)
        self.deadlines: list[float] = []
        self.closed = False

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        self.deadlines.append(deadline_s)
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(said, AgentError):
            raise said
        return Completion(said, self.name, Usage(10, 2), 0.1, "stop", 0.5, {"id": "x"})

    async def close(self) -> None:
        self.closed = True


class Told:
    def __init__(self) -> None:
        self.switches: list[tuple[str, str, str]] = []
        self.now = 0.0

    def __call__(self, old: str, new: str, why: str) -> None:
        self.switches.append((old, new, why))

    def clock(self) -> float:
        return self.now


def spent(error: AgentError, usage: Usage, cost_usd: float | None) -> AgentError:
    error.usage, error.cost_usd = usage, cost_usd
    return error


async def test_the_first_model_answers_while_it_can() -> None:
    told = Told()
    second = Scripted("second", "b")
    model = FallbackModel([Scripted("first", "a"), second], on_switch=told)
    completion = await model.complete(MESSAGES, deadline_s=5)
    assert (completion.text, completion.raw, model.name, model.kind) == ("a", {"id": "x"}, "first", "language-model")
    assert second.deadlines == told.switches == []


@pytest.mark.parametrize(
    "error",
    [
        ModelUnavailable("down"),
        DeadlineExceeded("first", 5),
        *(ModelRefused("no", kind=kind) for kind in sorted(ANOTHER_MAY_ANSWER)),
    ],
    ids=lambda error: getattr(error, "kind", type(error).__name__),
)
async def test_the_next_one_takes_over_with_a_deadline_of_its_own(error: AgentError) -> None:
    told = Told()
    second = Scripted("second", "b")
    model = FallbackModel([Scripted("first", spent(error, Usage(7, 3), 0.25)), second], on_switch=told)
    completion = await model.complete(MESSAGES, deadline_s=5)
    assert (completion.text, completion.model, second.deadlines) == ("b", "second", [5])
    assert (completion.usage, completion.cost_usd) == (Usage(17, 5), 0.75)
    account = completion.raw["fallback"]
    assert (account["answered"], account["place"]) == ("second", 1)
    assert account["passed_over"] == [{"model": "first", "why": str(error)}]
    assert told.switches == [("first", "second", str(error))]


async def test_an_unknown_price_makes_the_sum_unknown() -> None:
    first = Scripted("first", spent(ModelUnavailable("down"), Usage(7, 3), None))
    completion = await FallbackModel([first, Scripted("second", "b")]).complete(MESSAGES, deadline_s=5)
    assert completion.cost_usd is None


async def test_a_request_that_is_wrong_anywhere_is_not_asked_elsewhere() -> None:
    second = Scripted("second", "b")
    model = FallbackModel([Scripted("first", ModelRefused("wrong", kind="bad_request")), second])
    with pytest.raises(ModelRefused, match="wrong"):
        await model.complete(MESSAGES, deadline_s=5)
    assert second.deadlines == []


@pytest.mark.parametrize(
    ("kind", "rest_s"), [("auth", REFUSAL_REST_S), ("quota", REFUSAL_REST_S), ("context_length", 0.0)]
)
async def test_a_model_that_refused_rests_unless_it_was_for_the_prompt(kind: RefusalKind, rest_s: float) -> None:
    told = Told()
    first = Scripted("first", ModelRefused("no", kind=kind), "a")
    model = FallbackModel([first, Scripted("second", "b")], on_switch=told, clock=told.clock)
    assert (await model.complete(MESSAGES, deadline_s=5)).text == "b"
    told.now = rest_s - 1
    if rest_s:
        resting = await model.complete(MESSAGES, deadline_s=5)
        assert resting.text == "b"
        assert resting.raw["fallback"]["passed_over"] == [
            {"model": "first", "why": "it rests: it could not answer a moment ago"}
        ]
        assert len(told.switches) == 1
    told.now = rest_s
    assert (await model.complete(MESSAGES, deadline_s=5)).text == "a"


async def test_a_rest_lasts_as_long_as_the_endpoint_asked_for() -> None:
    told = Told()
    first = Scripted("first", ModelUnavailable("slow down", retry_after_s=500.0), "a")
    model = FallbackModel([first, Scripted("second", "b")], clock=told.clock)
    await model.complete(MESSAGES, deadline_s=5)
    told.now = REST_S + 1
    assert (await model.complete(MESSAGES, deadline_s=5)).text == "b"
    told.now = 501.0
    assert (await model.complete(MESSAGES, deadline_s=5)).text == "a"


async def test_when_all_rest_all_are_asked_again() -> None:
    first = Scripted("first", ModelUnavailable("down"), "a")
    model = FallbackModel([first, Scripted("second", ModelUnavailable("down too"))])
    with pytest.raises(ModelUnavailable):
        await model.complete(MESSAGES, deadline_s=5)
    assert (await model.complete(MESSAGES, deadline_s=5)).text == "a"


async def test_what_may_pass_is_told_before_what_may_not_with_what_all_of_them_used() -> None:
    first = Scripted("first", spent(ModelUnavailable("down"), Usage(1, 0), 0.1))
    second = Scripted("second", spent(ModelRefused("no credit", kind="quota"), Usage(2, 5), 0.2))
    model = FallbackModel([first, second])
    with pytest.raises(ModelUnavailable, match="down") as caught:
        await model.complete(MESSAGES, deadline_s=5)
    assert caught.value.usage == Usage(3, 5)
    assert caught.value.cost_usd == pytest.approx(0.3)
    await model.close()
    assert first.closed
    assert second.closed
