"""The coder: writes the program of a hypothesis, and repairs one that a gate rejected.

It writes the whole program, or, where it was shown one to edit, search/replace edits of that one (`agents.edits`); a
whole program is always accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agents.contexts import CodeContext, Prompt, RepairContext
from agents.conversation import corrected, packaged, prompt_of
from agents.edits import apply, read_edits
from agents.errors import ReplyMalformed
from agents.replies import fenced_blocks, parse_program, program_text, whole_text
from prompts.loader import Prompts

ASKED = "exactly one fenced python block that holds the complete program"
ASKED_EDIT = (
    "exactly one fenced block: marked edit, with search/replace edits, or marked python, with the whole program"
)

How = Literal["whole", "edit"]


@dataclass(frozen=True, slots=True)
class Written:
    """A program, and whether it was written whole or as edits."""

    source: str
    how: How


def messages(prompts: Prompts, context: CodeContext) -> Prompt:
    """Ask for the program of `context.hypothesis`, whole or as edits of the parent."""
    return prompt_of(
        prompts.render("coder_system.md.j2", brief=context.brief),
        prompts.render(
            "coder.md.j2",
            tasks=context.brief.tasks,
            hypothesis=context.hypothesis,
            parent=context.parent,
            exemplars=context.exemplars,
            omitted=context.omitted,
            edit=context.edit,
        ),
    )


def repair_messages(prompts: Prompts, context: RepairContext) -> Prompt:
    """Show the verdict and the rejected source, and ask for the corrected program."""
    return prompt_of(
        prompts.render("coder_system.md.j2", brief=context.brief),
        prompts.render(
            "repair.md.j2",
            hypothesis=context.hypothesis,
            source=context.source,
            gate=context.gate,
            reason=context.reason,
            message=context.message,
            line=context.line,
            attempt=context.attempt,
            attempts_left=context.attempts_left,
            earlier=context.earlier,
            edit=context.edit,
        ),
    )


def parse(text: str, *, finish_reason: str | None = None, of: str | None = None) -> Written:
    """The program of a reply; `of` is the program that may be edited, None where none may.

    Raises:
        ReplyMalformed: see `agents.replies.parse_program`, `agents.edits.read_edits` and `agents.edits.apply`.
    """
    if of is None:
        return Written(parse_program(text, finish_reason=finish_reason), "whole")
    answer = whole_text(text, finish_reason)
    if written_as(answer) == "whole":
        return Written(parse_program(text, finish_reason=finish_reason), "whole")
    block = fenced_blocks(answer)[0]
    if not block.closed:
        raise ReplyMalformed(text, "the fenced edit block is not closed, so it may be cut off")
    edited = apply(text, of, read_edits(text, block.body))
    if edited.strip() == of.strip():
        raise ReplyMalformed(text, "the edits leave the program as it was")
    return Written(program_text(text, edited), "edit")


def written_as(text: str) -> How:
    """Whether a reply states edits or a whole program. Raises ReplyMalformed if it is empty."""
    blocks = fenced_blocks(whole_text(text, None))
    return "edit" if len(blocks) == 1 and blocks[0].info == "edit" else "whole"


def corrective(
    prompt: Prompt,
    reply_text: str,
    error: ReplyMalformed,
    *,
    prompts: Prompts | None = None,
    asked: str = ASKED,
) -> Prompt:
    """The same conversation with the unusable reply and the reason, for one corrective round."""
    return corrected(prompt, reply_text, error, asked, prompts or packaged())
