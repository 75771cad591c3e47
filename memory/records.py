"""Snapshots: what every read of the store returns. Plain frozen dataclasses, detached from the database.

A snapshot never changes after it was read; read again to see later writes. Its dictionaries and lists belong to the
reader. Timestamps are timezone-aware UTC. Identifiers of experiments, trials, exchanges and lessons are deterministic
functions of what they name, so that a replayed campaign makes the same ones; only campaign and session ids are random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]

CampaignState = Literal["running", "finished", "stopped", "failed"]
ExperimentKind = Literal["starter", "proposal"]
ExperimentStatus = Literal["open", "completed", "rejected", "duplicate", "failed"]
FinalStatus = Literal["completed", "rejected", "duplicate", "failed"]
AttemptOrigin = Literal["proposal", "repair", "reproposal"]
AttemptOutcome = Literal["accepted", "gate_failed", "duplicate", "malformed"]
DataKind = Literal["selection", "claim"]
TrialState = Literal["open", "completed", "failed"]
FinalTrialState = Literal["completed", "failed"]
Stance = Literal["supports", "contradicts"]
ChargeKind = Literal["calls", "prompt_tokens", "completion_tokens", "usd", "device_s"]
EvidenceLevel = Literal["observed", "ablated", "replicated"]

TERMINAL_STATUSES: frozenset[str] = frozenset({"completed", "rejected", "duplicate", "failed"})


@dataclass(frozen=True)
class Campaign:
    """A configured, budgeted, resumable search. `finished` is final; `stopped` and `failed` can run again.

    `forked_from` and `forked_at` are the campaign and the experiment that a fork continues; `origin` says where an
    imported campaign came from, which is `read_only`: the database takes no further experiments for it.
    """

    id: str
    name: str
    state: CampaignState
    config: Json
    config_hash: str
    objective: Json
    objective_hash: str
    seed: int
    announcements: list[str]
    stopped_because: str | None
    arms: list[str]
    forked_from: str | None
    forked_at: str | None
    replay_of: str | None
    origin: Json | None
    read_only: bool
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Session:
    """One process driving a campaign. A killed one has no `ended_at` and counts until it was last seen."""

    id: str
    campaign_id: str
    owner: Json
    started_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None

    @property
    def wall_s(self) -> float:
        """Seconds from the start to the end, or to the last heartbeat of a session that did not end."""
        return ((self.ended_at or self.last_seen_at) - self.started_at).total_seconds()


@dataclass(frozen=True)
class Experiment:
    """One attempt at one architecture: a node of the lineage. Immutable once `status` is not "open".

    `duplicate_of` is the experiment that had the same text or syntax, `equivalent_of` the one that computes the same.
    """

    id: str
    campaign_id: str
    index: int
    arm: str
    kind: ExperimentKind
    track: str
    tier: str
    status: ExperimentStatus
    reason: str
    message: str
    parent_id: str | None
    exemplar_ids: list[str]
    selection: Json
    selected_at: datetime | None
    name: str
    hypothesis: Json | None
    program_sha256: str | None
    attempts: int
    duplicate_of: str | None
    equivalent_of: str | None
    score: float | None
    environment: Json
    created_at: datetime
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether the experiment has its final status."""
        return self.status != "open"


class Outline(NamedTuple):
    """What drawing and counting need to know of an experiment."""

    id: str
    campaign_id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    parent_id: str | None
    kind: str
    arm: str
    status: str
    reason: str
    score: float | None
    name: str
    program_sha256: str | None
    duplicate_of: str | None
    equivalent_of: str | None


@dataclass(frozen=True)
class Program:
    """The source an agent wrote, known by the hash of its bytes."""

    sha256: str
    source: str
    n_lines: int
    l0: str
    literal_hash: str
    created_at: datetime


@dataclass(frozen=True)
class Attempt:
    """One program (or one failure to write one) within an experiment. Immutable once it has an outcome."""

    experiment_id: str
    number: int
    origin: AttemptOrigin
    edit: str
    hypothesis: Json | None
    program_sha256: str | None
    outcome: AttemptOutcome | None
    detail: Json
    created_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True)
class Identity:
    """The first experiment of a campaign that had this key at this level of the identity ladder."""

    campaign_id: str
    level: str
    key: str
    experiment_id: str
    created_at: datetime


@dataclass(frozen=True)
class ProgramKey:
    """What a program is at a level of the identity ladder, under a scope (a track, or "" where none matters).

    `key` is None where the level does not apply to it, with the reason. `cost_s`: seconds that finding out took.
    """

    program_sha256: str
    level: str
    scope: str
    key: str | None
    reason: str
    cost_s: float
    created_at: datetime


@dataclass(frozen=True)
class LevelCount:
    """What a level of the identity ladder did in a campaign.

    Attributes:
        programs: whose identity was asked for; `keyed` of them have one, for the others the level does not apply.
        cost_s: seconds that finding out took, for a program that earlier campaigns knew: then, not again.
        caught: attempts that it recognised as repeats.
    """

    level: str
    programs: int
    keyed: int
    cost_s: float
    caught: int


@dataclass(frozen=True)
class Evidence:
    """That an experiment supports or contradicts a lesson."""

    lesson_id: str
    experiment_id: str
    stance: Stance
    note: str
    created_at: datetime


@dataclass(frozen=True)
class KnowledgeUse:
    """That the researcher of an experiment was shown an entry of the knowledge base."""

    experiment_id: str
    entry: str
    created_at: datetime


@dataclass(frozen=True)
class Vector:
    """An embedding: `data` is what `encoder` made of the text known by `kind` and `key`."""

    kind: str
    key: str
    encoder: str
    data: bytes
    created_at: datetime


@dataclass(frozen=True)
class Charge:
    """One entry of the ledger: what was spent, when, and on which exchange or trial (`source`). Append-only."""

    id: int
    campaign_id: str
    experiment_id: str
    kind: ChargeKind
    amount: float
    source: str
    created_at: datetime


@dataclass(frozen=True)
class Reservation:
    """The answer of `Store.reserve`: `owner` is the experiment that holds the key, the asker itself when granted."""

    granted: bool
    owner: str


@dataclass(frozen=True)
class GateVerdict:
    """What one gate said about one attempt; `position` is its place on the ladder."""

    experiment_id: str
    attempt: int
    position: int
    gate: str
    passed: bool
    reason: str
    message: str
    line: int | None
    detail: Json


@dataclass(frozen=True)
class Trial:
    """One training run. Immutable once its state is not "open"; `tries` counts how often it was started."""

    id: str
    experiment_id: str
    task: str
    tier: str
    seed: int
    data: DataKind
    objective_hash: str
    state: TrialState
    reason: str
    message: str
    score: float | None
    metrics: Json
    curve: list[Json]
    log: str
    tries: int
    device_s: float
    environment: Json
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Usage:
    """Tokens of one exchange; `estimated` when the endpoint did not report them."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool


@dataclass(frozen=True)
class Exchange:
    """One request and response with a language model, whole. Immutable. `cost_usd` is None when no price is known."""

    id: str
    experiment_id: str
    role: str
    attempt: int
    turn: int
    request_key: str
    template_hashes: dict[str, str]
    model: str
    request: Json
    response: Json | None
    text: str
    usage: Usage
    cost_usd: float | None
    latency_s: float
    finish_reason: str
    created_at: datetime


@dataclass(frozen=True)
class Analysis:
    """The analyst's reading of one experiment."""

    experiment_id: str
    body: Json
    created_at: datetime


@dataclass(frozen=True)
class Lesson:
    """An analyst's claim with its evidence level. Only `level` (upwards) and `retired_by` (once) ever change."""

    id: str
    campaign_id: str
    experiment_id: str
    claim: str
    level: EvidenceLevel
    body: Json
    retired_by: str | None
    created_at: datetime


@dataclass(frozen=True)
class Finding:
    """An experiment whose gain over its baseline survived verification."""

    id: str
    campaign_id: str
    experiment_id: str
    baseline_id: str
    statistics: Json
    claim_objective_hash: str
    created_at: datetime


@dataclass(frozen=True)
class Event:
    """Something that happened; append-only. `id` grows with time and serves as a cursor."""

    id: int
    campaign_id: str
    experiment_id: str | None
    kind: str
    payload: Json
    created_at: datetime


@dataclass(frozen=True)
class Spent:
    """What a campaign used so far, summed from its exchanges, trials and sessions.

    `cost_usd` sums the exchanges with a known price; it is None when there are exchanges and none has one.
    """

    tokens: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    calls: int
    unpriced_calls: int
    wall_s: float
    device_s: float

    @classmethod
    def of(cls, totals: Mapping[str, tuple[float, int]], wall_s: float) -> "Spent":
        """From the sum and the number of entries of each kind of charge; a kind that was never charged is missing."""
        nothing = (0.0, 0)
        calls = totals.get("calls", nothing)[1]
        prompt, completion = (int(totals.get(kind, nothing)[0]) for kind in ("prompt_tokens", "completion_tokens"))
        cost, priced = totals.get("usd", nothing)
        return cls(
            tokens=prompt + completion,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost_usd=None if calls and not priced else cost,
            calls=calls,
            unpriced_calls=calls - priced,
            wall_s=wall_s,
            device_s=totals.get("device_s", nothing)[0],
        )


@dataclass(frozen=True)
class Counts:
    """How many rows of each kind a campaign has."""

    open: int
    completed: int
    rejected: int
    duplicate: int
    failed: int
    attempts: int
    trials: int
    exchanges: int
    lessons: int
    findings: int

    @property
    def experiments(self) -> int:
        """Experiments of any status."""
        return self.open + self.finished

    @property
    def finished(self) -> int:
        """Experiments with a final status."""
        return self.completed + self.rejected + self.duplicate + self.failed
