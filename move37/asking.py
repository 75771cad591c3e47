"""Asking a role: one question and at most one corrective round, every reply stored, none asked for twice."""

import hashlib
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel

from agents import analyst, coder, researcher
from agents.contexts import Prompt
from agents.errors import ReplyMalformed
from agents.gateway import request_key
from agents.replies import Analysis, Proposal
from memory.records import Experiment
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
CODER: Form[str] = Form(None, coder.parse, coder.corrective)
ANALYST = Form(Analysis, analyst.parse, analyst.corrective)


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
        ReplyMalformed: the corrected reply does not parse either.
    """
    for turn in (0, 1):
        seed = _call_seed(loop.config.seed, experiment.index, role, attempt, turn)
        stored = loop.store.find_exchange(experiment.id, role, attempt, turn)
        if stored is None:
            loop.budget.check()
            completion = await loop.model_of(experiment).complete(
                prompt.messages, schema=form.schema, seed=seed, deadline_s=loop.config.model.call_deadline_s
            )
            schema_name = form.schema.__name__ if form.schema else None
            stored = loop.store.put_exchange(
                experiment.id,
                role,
                attempt,
                turn,
                request_key=request_key(prompt.messages, schema_name=schema_name, seed=seed),
                template_hashes=prompt.template_hashes,
                model=completion.model,
                request={"messages": [m.as_dict() for m in prompt.messages], "seed": seed, "schema": schema_name},
                response=completion.raw,
                text=completion.text,
                usage=completion.usage,
                cost_usd=completion.cost_usd,
                latency_s=completion.latency_s,
                finish_reason=completion.finish_reason,
            )
        try:
            return form.parse(stored.text, finish_reason=stored.finish_reason)
        except ReplyMalformed as error:
            if turn == 1:
                raise
            prompt = form.corrective(prompt, stored.text, error, prompts=loop.prompts)
    raise AssertionError("unreachable: the second turn returns or raises")


def _call_seed(campaign_seed: int, index: int, role: str, attempt: int, turn: int) -> int:
    digest = hashlib.sha256(f"{campaign_seed}:{index}:{role}:{attempt}:{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
