"""Asking a role: one question and at most one corrective round, every reply stored, none asked for twice."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel

from agents import analyst, coder, researcher
from agents.contexts import Prompt
from agents.errors import AgentError, ReplyMalformed
from agents.gateway import request_key
from agents.replies import Analysis, Proposal
from memory.records import Exchange, Experiment
from move37.loop import Loop
from prompts.loader import Prompts

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class _Parse(Protocol[_T_co]):
    def __call__(self, text: str, *, finish_reason: str | None = None) -> _T_co: ...


class _Corrective(Protocol):
    def __call__(
        self, prompt: Prompt, reply_text: str, error: ReplyMalformed, *, prompts: Prompts | None = None
    ) -> Prompt: ...


@dataclass(frozen=True)
class Form(Generic[_T]):
    """How a role's reply is asked for and read."""

    schema: type[BaseModel] | None
    parse: _Parse[_T]
    corrective: _Corrective


RESEARCHER = Form(Proposal, researcher.parse, researcher.corrective)
CODER: Form[coder.Written] = Form(None, coder.parse, coder.corrective)


def weighing(lessons: Collection[str]) -> Form[Analysis]:
    """The analyst's form: evidence may name these lessons only."""
    return Form(Analysis, partial(analyst.parse, lessons=lessons), analyst.corrective)


async def ask(
    loop: Loop,
    experiment: Experiment,
    role: str,
    attempt: int,
    prompt: Prompt,
    form: Form[_T],
) -> _T:
    """One question and, if the reply does not parse, one corrective round. Stored replies are never asked for again.

    Raises:
        AgentError: the model gave no reply; that is recorded, and what it used nevertheless is charged.
        BudgetExhausted: there is no room for the call.
        ReplyMalformed: the corrected reply does not parse either.
    """
    correcting = ""
    for turn in (0, 1):
        seed = _call_seed(loop.config.seed, experiment.index, role, attempt, turn)
        place = (experiment.id, role, attempt, turn)
        stored = loop.store.find_exchange(*place)
        if stored is None:
            async with loop.budget.call(prompt.messages):
                stored = await _exchange(loop, place, prompt, form.schema, seed, correcting)
        try:
            return form.parse(stored.text, finish_reason=stored.finish_reason)
        except ReplyMalformed as error:
            if turn == 1:
                raise
            correcting = error.why
            prompt = form.corrective(prompt, stored.text, error, prompts=loop.prompts)
    raise AssertionError("unreachable: the second turn returns or raises")


async def _exchange(
    loop: Loop,
    place: tuple[str, str, int, int],
    prompt: Prompt,
    schema: type[BaseModel] | None,
    seed: int,
    correcting: str,
) -> Exchange:
    """Asks, and stores what came of it: the exchange, or why there is none and what that used.

    `correcting` says what was wrong with the reply before, in a corrective round.
    """
    try:
        completion = await loop.model_of(loop.store.experiment(place[0])).complete(
            prompt.messages, schema=schema, seed=seed, deadline_s=loop.config.model.call_deadline_s
        )
    except AgentError as error:
        _record_failure(loop, place, error)
        raise
    schema_name = schema.__name__ if schema else None
    return loop.store.put_exchange(
        *place,
        request_key=request_key(prompt.messages, schema_name=schema_name, seed=seed),
        template_hashes=prompt.template_hashes,
        model=completion.model,
        request={"messages": [m.as_dict() for m in prompt.messages], "seed": seed, "schema": schema_name},
        response={**completion.raw, **({"corrects": correcting} if correcting else {})},
        text=completion.text,
        usage=completion.usage,
        cost_usd=completion.cost_usd,
        latency_s=completion.latency_s,
        finish_reason=completion.finish_reason,
    )


def _record_failure(loop: Loop, place: tuple[str, str, int, int], error: AgentError) -> None:
    experiment_id, role, attempt, turn = place
    if error.usage is not None:
        loop.store.charge_call(*place, usage=error.usage, cost_usd=error.cost_usd)
    payload = {"role": role, "attempt": attempt, "turn": turn, "error": type(error).__name__, "why": str(error)}
    loop.store.put_event(loop.campaign.id, "call_failed", payload, experiment_id=experiment_id)


def _call_seed(campaign_seed: int, index: int, role: str, attempt: int, turn: int) -> int:
    digest = hashlib.sha256(f"{campaign_seed}:{index}:{role}:{attempt}:{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
