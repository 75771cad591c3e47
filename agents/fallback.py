"""A model with substitutes: where one cannot answer, the next one is asked, and that is said and kept.

Notable:
* another model is asked after `ModelUnavailable`, after the deadline, and after refusals that concern the key, the
  account, the model's name or its context window; a request that is wrong in itself (`bad_request`) would be so
  anywhere, and a substitute would only hide that;
* a model that could not answer rests, so that not every call waits for it again: as long as its endpoint asked for, at
  least `REST_S`. What only concerned this prompt (its length) makes nobody rest;
* every model gets the whole deadline, so a call may take as many deadlines as there are models;
* what the models that gave up used is part of the completion's usage and cost.

Not covered: choosing the better or cheaper model; the order is the user's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel

from agents.contexts import Message
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable, RefusalKind
from agents.gateway import ChatModel, Completion, ModelKind
from agents.wire import Usage

REST_S = 60.0
REFUSAL_REST_S = 900.0
ANOTHER_MAY_ANSWER: frozenset[RefusalKind] = frozenset({"auth", "quota", "context_length", "not_found", "unsupported"})

OnSwitch = Callable[[str, str, str], None]


class FallbackModel:
    """Models in the order in which they are asked. `on_switch(from, to, why)` is told when one takes over."""

    def __init__(
        self,
        models: Sequence[ChatModel],
        *,
        on_switch: OnSwitch = lambda old, new, why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not models:
            raise ValueError("at least one model is needed")
        self._models = tuple(models)
        self._on_switch = on_switch
        self._clock = clock
        self._rests_until = [float("-inf")] * len(models)

    @property
    def name(self) -> str:
        return self._models[0].name

    @property
    def kind(self) -> ModelKind:
        return self._models[0].kind

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """See `ChatModel.complete`. Where no model answers, the error is that of the last one asked, or, where one of
        them may work later, of the first such.

        `raw["fallback"]` says what happened, if the first model did not answer: which one `answered`, by name and by
        `place` (0 is the first), and which were `passed_over`, each with the reason.
        """
        passed_over = dict.fromkeys(self._resting(), "it rests: it could not answer a moment ago")
        failures: list[AgentError] = []
        told = ""
        for place, model in enumerate(self._models):
            if place in passed_over:
                continue
            if told:
                self._on_switch(told, model.name, str(failures[-1]))
            try:
                completion = await model.complete(messages, schema=schema, seed=seed, deadline_s=deadline_s)
            except (ModelUnavailable, DeadlineExceeded, ModelRefused) as error:
                failures.append(error)
                if isinstance(error, ModelRefused) and error.kind not in ANOTHER_MAY_ANSWER:
                    break
                told = "" if self._rests_until[place] > self._clock() else model.name  # else another call has told
                self._rest(place, error)
                passed_over[place] = str(error)
            else:
                return self._with_account(completion, place, passed_over, failures)
        raise _told(failures)

    async def close(self) -> None:
        for model in self._models:
            await model.close()

    def _resting(self) -> list[int]:
        """The models that are not asked, by place: none, if all rest."""
        now = self._clock()
        resting = [place for place, until in enumerate(self._rests_until) if until > now]
        return resting if len(resting) < len(self._models) else []

    def _rest(self, place: int, error: AgentError) -> None:
        if isinstance(error, ModelRefused):
            rest_s = 0.0 if error.kind == "context_length" else REFUSAL_REST_S
        elif isinstance(error, ModelUnavailable):
            rest_s = max(error.retry_after_s or 0.0, REST_S)
        else:
            rest_s = REST_S
        self._rests_until[place] = max(self._rests_until[place], self._clock() + rest_s)

    def _with_account(
        self, completion: Completion, place: int, passed_over: Mapping[int, str], failures: Sequence[AgentError]
    ) -> Completion:
        if place == 0:
            return completion
        usage, cost_usd = _together(failures, completion.usage, completion.cost_usd)
        account = {
            "answered": self._models[place].name,
            "place": place,
            "passed_over": [
                {"model": self._models[at].name, "why": why} for at, why in sorted(passed_over.items()) if at < place
            ],
        }
        return replace(completion, usage=usage, cost_usd=cost_usd, raw={**completion.raw, "fallback": account})


def _told(failures: Sequence[AgentError]) -> AgentError:
    """The error to raise, with what all of them used. Its message stays its own: the switches were told."""
    error = next((failure for failure in failures if not isinstance(failure, ModelRefused)), failures[-1])
    usage, cost_usd = _together(failures, Usage(0, 0), 0.0)
    if usage.total:
        error.usage, error.cost_usd = usage, cost_usd
    return error


def _together(failures: Sequence[AgentError], usage: Usage, cost_usd: float | None) -> tuple[Usage, float | None]:
    """Usage and cost with those of failed calls; the cost is unknown if one of them is."""
    for failure in failures:
        if failure.usage is not None:
            usage = usage + failure.usage
            cost_usd = None if cost_usd is None or failure.cost_usd is None else cost_usd + failure.cost_usd
    return usage, cost_usd
