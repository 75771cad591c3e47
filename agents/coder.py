"""The coder: writes the program of a hypothesis, and repairs one that a gate rejected."""

from __future__ import annotations

from agents.contexts import CodeContext, Prompt, RepairContext
from agents.conversation import corrected, packaged, prompt_of
from agents.errors import ReplyMalformed
from agents.replies import parse_program
from prompts.loader import Prompts

ASKED = "exactly one fenced python block that holds the complete program"


def messages(prompts: Prompts, context: CodeContext) -> Prompt:
    """Ask for the complete program of `context.hypothesis`."""
    return prompt_of(
        prompts.render("coder_system.md.j2", brief=context.brief),
        prompts.render(
            "coder.md.j2", hypothesis=context.hypothesis, parent=context.parent, exemplars=context.exemplars
        ),
    )


def repair_messages(prompts: Prompts, context: RepairContext) -> Prompt:
    """Show the verdict and the rejected source, and ask for the complete corrected program."""
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
        ),
    )


def parse(text: str, *, finish_reason: str | None = None) -> str:
    """The program of a reply.

    Raises:
        ReplyMalformed: see `agents.replies.parse_program`.
    """
    return parse_program(text, finish_reason=finish_reason)


def corrective(prompt: Prompt, reply_text: str, error: ReplyMalformed, *, prompts: Prompts | None = None) -> Prompt:
    """The same conversation with the unusable reply and the reason, for one corrective round."""
    return corrected(prompt, reply_text, error, ASKED, prompts or packaged())
