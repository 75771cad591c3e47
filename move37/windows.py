"""Whether a model's context window holds a campaign's prompts: asked before the campaign starts.

The smallest prompt is that of a campaign's first proposals: the role with the contract and the tasks, and a starting
program as the parent. Room for the reply is counted in: the coder's is a program of the parent's length at least. Token
counts are estimates that lean high (`memory.tokens`), by up to a third for code.

Not covered: the exemplars of later prompts (the coder's are not kept within a budget; one that is too long is refused
by the server); what a server puts around messages; whether the window is really there (`agents.truncation`).
"""

from dataclasses import dataclass

from agents import coder, researcher
from agents.contexts import CodeContext, ProgramView, Prompt, ResearchContext
from agents.replies import Hypothesis, Prediction
from evaluator import catalogue
from memory.tokens import estimate
from move37 import briefing
from move37.config import CampaignConfig
from move37.errors import ConfigError
from prompts.loader import Prompts

_SHORTEST_HYPOTHESIS_TOKENS = 300  # of JSON; the embedded grammar's have about so many


@dataclass(frozen=True)
class Need:
    """Tokens of the smallest prompt of a campaign, by part."""

    instructions: int  # system message: role, contract, tasks
    request: int  # the parent program and what is asked of it
    reply: int

    @property
    def tokens(self) -> int:
        """In all."""
        return self.instructions + self.request + self.reply


def need(config: CampaignConfig) -> Need:
    """The largest of the smallest prompts: over the starters, and over researcher and coder."""
    brief, prompts = briefing.brief(config), Prompts()
    hypothesis = _hypothesis(brief.tasks[0].name)
    needs = []
    for name in config.search.starters:
        parent = ProgramView(experiment="exp-0000", name=name, source=catalogue.source(name), score=0.0)
        asked = researcher.messages(prompts, ResearchContext(brief, parent))
        needs.append(_need(asked, config.model.max_output_tokens or _SHORTEST_HYPOTHESIS_TOKENS))
        written = coder.messages(prompts, CodeContext(brief, hypothesis, parent))
        needs.append(_need(written, config.model.max_output_tokens or estimate(parent.source)))
    return max(needs, key=lambda one: one.tokens)


def _need(prompt: Prompt, reply: int) -> Need:
    system, *rest = prompt.messages
    return Need(estimate(system.content), sum(estimate(message.content) for message in rest), reply)


def _hypothesis(task: str) -> Hypothesis:
    return Hypothesis(
        title="-",
        mechanism="-",
        change="-",
        design="-",
        predictions=[Prediction(task=task, direction="same", size=0.0)],
        refuted_by="-",
    )


def fitted(config: CampaignConfig, context_tokens: int | None) -> CampaignConfig:
    """The configuration with the researcher's prompts kept within the window; as it is where no window is known.

    Raises:
        ConfigError: the window does not hold even the smallest prompt.
    """
    if context_tokens is None:
        return config
    least = need(config)
    if least.tokens > context_tokens:
        raise ConfigError(
            f"the context window of {config.model.names[0]} has {context_tokens} tokens; the smallest prompt of this "
            f"campaign needs about {least.tokens}: {least.instructions} for the contract and the tasks, "
            f"{least.request} with the parent program, {least.reply} for the reply. Use a model with a longer context, "
            "or start the server with one (OLLAMA_CONTEXT_LENGTH, --ctx-size, --max-model-len)"
        )
    room = max(context_tokens - least.reply, 1000)
    if config.search.prompt_tokens <= room:
        return config
    return config.model_copy(update={"search": config.search.model_copy(update={"prompt_tokens": room})})
