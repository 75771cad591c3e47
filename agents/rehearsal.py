"""Every template rendered on invented contexts that fill every hole and take every branch, before a campaign begins.

A user's template that lacks a hole or asks for one that there is not is found here, and not after some hours.
Not covered: whether the prompt says anything sensible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from agents import analyst, coder, researcher
from agents.contexts import (
    AnalysisContext,
    Brief,
    CodeContext,
    Collision,
    Difference,
    FailureView,
    HistoryItem,
    KnowledgeView,
    LessonView,
    LimitsView,
    Memory,
    Mention,
    Mode,
    NoiseView,
    ProgramView,
    Prompt,
    RepairContext,
    ResearchContext,
    TaskView,
)
from agents.errors import ReplyMalformed
from agents.replies import Hypothesis, Prediction
from prompts.loader import Prompts

_SOURCE = "def build_mixer(d_model, layer_index, n_layers):\n    return ShortConvolution(d_model)\n"
_APART = Difference(0.1, 0.05, 0.15, 2)

BRIEF = Brief(
    track="sequence",
    tier="smoke",
    tasks=(TaskView("recall", "In-context recall", 0.125, "Which value followed this key before?"),),
    contract="A module that defines `build_mixer(d_model, layer_index, n_layers)`.",
    d_model=32,
    n_layers=2,
    allowed_imports=("torch", "math"),
    noise=(NoiseView("recall", 0.045, 0.088, 2, 22),),
    limits=LimitsView(24_576, 21_000, 0.02, 1.5),
)
HYPOTHESIS = Hypothesis(
    title="Add a convolution",
    mechanism="Neighbours are seen before the state is written.",
    change="add ShortConvolution before the core",
    design="every layer: ShortConvolution(d_model), then LinearAttention(d_model)",
    predictions=[Prediction(task="recall", direction="up", size=0.1)],
    refuted_by="recall rising by less than 0.05",
    ablation="Without the convolution recall falls back.",
    knowledge=["short-convolution"],
)
PARENT = ProgramView(
    "exp-0001", "Linear attention", _SOURCE, 0.4, {"recall": 0.4}, {"recall": [0.38, 0.42]}, "It writes pairs.",
    "replace the core", {"parameters": 24_576.0},
)  # fmt: skip
_MENTION = Mention(
    "exp-0002", "A convolution", "failed", "timeout", 0.3, "add a gate", 0.9, "program", difference=_APART
)
RESEARCH = ResearchContext(
    brief=BRIEF,
    parent=PARENT,
    exemplars=(PARENT,),
    history=(
        HistoryItem("exp-0003", "A gate", "rejected", "causality", 0.4, "exp-0001", 0.4, "add a gate", "d", _APART),
    ),
    lessons=(LessonView("exp-0003", "Gates cost recall.", "observed", "add a gate", -0.1),),
    collisions=(Collision("exp-0003", "A gate", "completed", 0.3, "every layer: Gate"),),
    memory=Memory(
        path=(_MENTION, _MENTION),
        elided=3,
        best=(_MENTION,),
        worst=(_MENTION,),
        failed=(_MENTION,),
        n_children=2,
        failures=(FailureView("failed", "timeout", 2, _MENTION),),
        neighbours=(_MENTION,),
        knowledge=(KnowledgeView("gla", "Gated linear attention", 2023, "Yang et al.", "Gates.", "Long.", "Slow."),),
        omitted="left out for length: 1 of knowledge",
    ),
    second=PARENT,
    ablation="the gate",
)
CODE = CodeContext(BRIEF, HYPOTHESIS, PARENT, (PARENT,))
REPAIR = RepairContext(BRIEF, HYPOTHESIS, _SOURCE, "causality", "leak", "position 3 sees 7", 4, 1, 2)
ANALYSIS = AnalysisContext(
    brief=BRIEF,
    experiment="exp-0004",
    hypothesis=HYPOTHESIS,
    source=_SOURCE,
    status="failed",
    reason="timeout: too slow",
    parent=PARENT,
    per_task={"recall": 0.5},
    per_seed={"recall": [0.45, 0.55]},
    curves={"recall": [(0.1, 0.2), (1.0, 0.6)]},
    cost={"parameters": 24_576.0, "mlp_hidden": 64.0},
    parent_cost={"parameters": 24_576.0},
)


def rehearse(prompts: Prompts) -> tuple[Prompt, ...]:
    """Every prompt there is, of full contexts and of bare ones.

    Raises:
        PromptError: a template cannot be used.
    """
    return tuple(_prompts(prompts))


def _prompts(prompts: Prompts) -> Iterator[Prompt]:
    bare_brief = replace(BRIEF, noise=(), limits=replace(BRIEF.limits, max_exponent=None) if BRIEF.limits else None)
    bare_parent = ProgramView("exp-0000", "A starter", _SOURCE, None)
    error = ReplyMalformed("no json", "the reply holds no JSON object")
    for mode in get_args(Mode):
        yield researcher.messages(prompts, replace(RESEARCH, mode=mode))
    asked = researcher.messages(prompts, ResearchContext(bare_brief, bare_parent))
    yield asked
    yield researcher.corrective(asked, "no json", error, prompts=prompts)
    yield coder.messages(prompts, CODE)
    yield coder.messages(prompts, CodeContext(bare_brief, HYPOTHESIS, bare_parent))
    yield coder.repair_messages(prompts, REPAIR)
    yield coder.repair_messages(prompts, replace(REPAIR, line=None))
    yield analyst.messages(prompts, ANALYSIS)
    yield analyst.messages(
        prompts, AnalysisContext(bare_brief, "exp-0004", HYPOTHESIS, _SOURCE, "completed", "ok", bare_parent)
    )
