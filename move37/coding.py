"""Asking the coder: which exemplars fit into the prompt, and whether edits of a shown program will do.

Edits are asked for where the change is small beside the program: for changes that add to or take from the parent
(improve, ablate) and for repairs, if the program shown has `search.edit_from_lines` lines or more. Shorter ones cost
less to write anew than an edit that is not found costs to correct. The coder may always write the whole program; which
it did is kept with the attempt (`written`: whole or edit).
"""

from dataclasses import replace
from functools import partial

from agents import coder
from agents.contexts import CodeContext, Prompt
from agents.replies import Hypothesis
from memory.records import Attempt, Experiment
from memory.tokens import Fitted, estimate, fit
from move37 import briefing
from move37.asking import CODER, Form
from move37.config import SearchConfig
from move37.loop import Loop
from prompts.loader import Prompts

_SMALL_CHANGES = frozenset({"improve", "ablate"})


def request(
    loop: Loop, experiment: Experiment, attempt: Attempt, hypothesis: Hypothesis
) -> tuple[Prompt, Form[coder.Written]]:
    """The prompt for the program of an attempt, or for its repair, and how the reply is read."""
    search = loop.config.search
    if attempt.origin == "repair":
        repair = briefing.repair_context(loop.store, loop.brief, experiment, hypothesis, loop.config)
        edit = worth_editing(repair.source, search)
        prompt = coder.repair_messages(loop.prompts, replace(repair, edit=edit))
        return prompt, _form(repair.source if edit else None)
    context = briefing.code_context(loop.store, loop.brief, experiment, hypothesis)
    mode = str((experiment.selection or {}).get("mode", "improve"))
    edit = mode in _SMALL_CHANGES and worth_editing(context.parent.source, search)
    context = within(replace(context, edit=edit), search.prompt_tokens, loop.prompts)
    return coder.messages(loop.prompts, context), _form(context.parent.source if edit else None)


def worth_editing(source: str, search: SearchConfig) -> bool:
    """Whether a program is long enough for edits to be the shorter answer."""
    return 0 < search.edit_from_lines <= source.count("\n")


def within(context: CodeContext, tokens: int, prompts: Prompts) -> CodeContext:
    """The context with the last exemplars left out, whole, until its prompt has at most so many tokens.

    Contract, parent and hypothesis stay: if they alone are too long, so is the prompt.
    """

    def shortened(fitted: Fitted) -> CodeContext:
        return replace(context, exemplars=context.exemplars[: fitted.kept["exemplars"]], omitted=fitted.told())

    def measure(fitted: Fitted) -> int:
        return sum(estimate(message.content) for message in coder.messages(prompts, shortened(fitted)).messages)

    return shortened(fit({"exemplars": len(context.exemplars)}, tokens, measure))


def recorded(loop: Loop, attempt: Attempt) -> dict[str, str]:
    """What is kept with a closed attempt: how its program was written, by the reply that is stored. A starter was not
    written by anyone, and campaigns that know no edits say nothing."""
    if not loop.config.search.edit_from_lines:
        return {}
    replies = (loop.store.find_exchange(attempt.experiment_id, "coder", attempt.number, turn) for turn in (1, 0))
    reply = next((one for one in replies if one is not None), None)
    return {} if reply is None else {"written": coder.written_as(reply.text)}


def _form(of: str | None) -> Form[coder.Written]:
    if of is None:
        return CODER
    return Form(None, partial(coder.parse, of=of), partial(coder.corrective, asked=coder.ASKED_EDIT))
