"""What a role is shown: plain frozen values, put together by the campaign and rendered by the role.

Nothing here is looked up or computed later: a context is complete, so that the same context renders to the same
bytes and a replay needs neither store nor model. Lists arrive ordered and already capped by the caller.

Not covered: where the values come from (the experiment memory), and which of them to show (the campaign's selection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agents.replies import Hypothesis

MessageRole = Literal["system", "user", "assistant"]
Mode = Literal["improve", "ablate", "combine", "transfer", "explore"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: MessageRole
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request and the content hashes of the templates it was rendered from."""

    messages: tuple[Message, ...]
    template_hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as a role sees it.

    `chance` is the accuracy of guessing; `sizes` says in words how long its sequences are and how long training lasts.
    """

    name: str
    title: str
    chance: float
    description: str
    sizes: str = ""


@dataclass(frozen=True, slots=True)
class NoiseView:
    """How far one program's scores spread over seeds, as measured on the reference programs.

    `detectable` is the smallest difference between two programs, each over `seeds` seeds, that this does not explain.
    """

    task: str
    sigma: float
    detectable: float
    seeds: int
    programs: int


@dataclass(frozen=True, slots=True)
class LimitsView:
    """What a program may cost. Parameters without the embedding; `mixers` is what all layers' mixers may take."""

    body_parameters: int
    mixer_parameters: int
    tolerance: float
    max_exponent: float | None = None


@dataclass(frozen=True, slots=True)
class Brief:
    """What does not change during a campaign; rendered first, so that a server can cache it.

    `noise` is per task and, as `score`, of their mean; empty where it was not measured.
    """

    track: str
    tier: str
    tasks: tuple[TaskView, ...]
    contract: str
    d_model: int
    n_layers: int
    allowed_imports: tuple[str, ...]
    noise: tuple[NoiseView, ...] = ()
    limits: LimitsView | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A score less its parent's, paired over common seeds. No bounds where there is one seed only."""

    estimate: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class ProgramView:
    """An architecture program with what it achieved; `hypothesis` is empty for a starter."""

    experiment: str
    name: str
    source: str
    score: float | None
    per_task: Mapping[str, float] = field(default_factory=dict)
    per_seed: Mapping[str, list[float]] = field(default_factory=dict)
    hypothesis: str = ""
    change: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One earlier experiment in a line, whatever became of it."""

    experiment: str
    name: str
    status: str
    reason: str
    score: float | None
    parent: str | None
    parent_score: float | None
    change: str
    design: str
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class LessonView:
    """An analyst's claim with its evidence level and the score difference it was drawn from."""

    experiment: str
    claim: str
    level: str
    change: str
    effect: float | None


@dataclass(frozen=True, slots=True)
class Collision:
    """An earlier experiment that a proposal of this very experiment repeated."""

    experiment: str
    name: str
    status: str
    score: float | None
    design: str


@dataclass(frozen=True, slots=True)
class Mention:
    """An earlier experiment in a line. `similarity` (cosine) and `by` (program, hypothesis) where it is a neighbour."""

    experiment: str
    name: str
    status: str
    reason: str
    score: float | None
    change: str = ""
    similarity: float | None = None
    by: str = ""
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class FailureView:
    """One way of failing, how often it happened lately, and the latest that did."""

    status: str
    reason: str
    count: int
    example: Mention


@dataclass(frozen=True, slots=True)
class KnowledgeView:
    """A published building block or finding. What it claims is its authors' claim."""

    id: str
    title: str
    year: int
    source: str
    idea: str
    when: str
    pitfalls: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the researcher is reminded of beside parent, exemplars and the latest experiments.

    Attributes:
        path: from the root of the lineage to the parent, which is left out; `elided` are missing in its middle.
        best, worst, failed: of the parent's `n_children` children; `failed` are the latest that were not completed.
        neighbours: experiments near to the parent that stand nowhere above.
        omitted: what was dropped for length, in words.
        calibration: how the researcher's predictions held so far, in one line.
        retired: how many lessons were refuted by later measurements, and are not shown.
    """

    path: tuple[Mention, ...] = ()
    elided: int = 0
    best: tuple[Mention, ...] = ()
    worst: tuple[Mention, ...] = ()
    failed: tuple[Mention, ...] = ()
    n_children: int = 0
    failures: tuple[FailureView, ...] = ()
    neighbours: tuple[Mention, ...] = ()
    knowledge: tuple[KnowledgeView, ...] = ()
    omitted: str = ""
    calibration: str = ""
    retired: int = 0


@dataclass(frozen=True, slots=True)
class ResearchContext:
    """For the researcher. `history` is most recent first; `collisions` are to be avoided.

    `mode` is what is asked for: `second` is the other parent of a combination, `ablation` what the analyst asked to
    have removed ("": the researcher's choice).
    """

    brief: Brief
    parent: ProgramView
    exemplars: tuple[ProgramView, ...] = ()
    history: tuple[HistoryItem, ...] = ()
    lessons: tuple[LessonView, ...] = ()
    collisions: tuple[Collision, ...] = ()
    memory: Memory = Memory()
    mode: Mode = "improve"
    second: ProgramView | None = None
    ablation: str = ""


@dataclass(frozen=True, slots=True)
class CodeContext:
    """For the coder: write the program of this hypothesis; with `edit`, edits of the parent will do.

    `omitted` says in words which exemplars were left out for length.
    """

    brief: Brief
    hypothesis: Hypothesis
    parent: ProgramView
    exemplars: tuple[ProgramView, ...] = ()
    omitted: str = ""
    edit: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a gate said of an earlier program of the same experiment."""

    attempt: int
    gate: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RepairContext:
    """For the coder: `source` was rejected by `gate`; `earlier` ones were before it. With `edit`, edits will do."""

    brief: Brief
    hypothesis: Hypothesis
    source: str
    gate: str
    reason: str
    message: str
    line: int | None
    attempt: int
    attempts_left: int
    earlier: tuple[Refusal, ...] = ()
    edit: bool = False


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """A mean difference to the parent over `n` seeds.

    `low` and `high` bound it at 95 %, None for one seed. `noise` is the difference that seeds alone produce, None where
    it was never measured; `beyond` says whether the difference exceeds noise, None where that is not known.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    noise: float | None
    beyond: bool | None


@dataclass(frozen=True, slots=True)
class SiblingView:
    """Another child of the same parent; `difference` of its score to the parent's, where it was measured."""

    experiment: str
    name: str
    status: str
    reason: str
    change: str
    difference: DifferenceView | None


@dataclass(frozen=True, slots=True)
class RepairView:
    """What gates said of the programs before the last one, and how the last differs from the first (unified diff)."""

    refusals: tuple[str, ...]
    diff: str


@dataclass(frozen=True, slots=True)
class AnalysisContext:
    """For the analyst: what was predicted and what was measured.

    `curves` maps a task to (fraction of the training budget, accuracy) pairs, `shapes` to the curve's shape in words.
    `lessons` are those that evidence may be given on; `retired` others were refuted and are not shown. `asked` is what
    the researcher was asked to do, where that was something in particular.
    """

    brief: Brief
    experiment: str
    hypothesis: Hypothesis
    source: str
    status: str
    reason: str
    parent: ProgramView
    per_task: Mapping[str, float] = field(default_factory=dict)
    per_seed: Mapping[str, list[float]] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    parent_cost: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, DifferenceView] = field(default_factory=dict)
    score: DifferenceView | None = None
    shapes: Mapping[str, str] = field(default_factory=dict)
    siblings: tuple[SiblingView, ...] = ()
    lessons: tuple[LessonView, ...] = ()
    retired: int = 0
    repair: RepairView | None = None
    asked: str = ""
    held: Mapping[str, bool] = field(default_factory=dict)
