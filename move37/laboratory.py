"""The laboratory: where a program is gated and trained. The campaign loop sees only this port.

`SandboxLaboratory` runs jobs in a sandbox and hands what comes back to the trusted scorer on the host. Replay uses
another implementation (`move37.replaying`) that answers from the store.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from evaluator import tiers
from evaluator.errors import WireError
from evaluator.gating import CostProfile, gate_phases, read_gate_reply
from evaluator.identities import LEVELS as EXECUTED_LEVELS
from evaluator.identities import Identity, identity_phases, read_identity_reply
from evaluator.profile import CostReport, profile_phases, read_profile_reply
from evaluator.trial import TrialRequest, score_trial, trial_phases
from evaluator.verdict import Verdict
from move37.errors import CampaignPaused
from move37.machine import fingerprint
from sandbox.errors import GpuUnavailable
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Sandbox

_PAUSES_S = (0.0, 2.0, 8.0, 20.0)  # before each try, where the engine was lost: a restart of it takes some seconds
_LOST = ("engine", "lost")
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class GateRequest:
    """What the gates that execute a program are to look at: the lengths of the tier and of `tasks`.

    `max_exponent` limits how its work may grow with length. `identity`: the levels (L2, L3) at which to say what a
    program is that passes.
    """

    track: str
    tier: str
    tasks: Sequence[str] = ()
    max_exponent: float | None = None
    identity: Sequence[str] = ()


@dataclass(frozen=True)
class FoundIdentity:
    """What a program is at an executed level; `key` is None where that cannot be said, with the reason."""

    level: str
    key: str | None
    reason: str
    cost_s: float


@dataclass(frozen=True)
class GateOutcome:
    """Verdicts of the gates that execute a program, in order; what it is at the executed levels that were asked for."""

    verdicts: tuple[Verdict, ...]
    cost: CostProfile | None
    log: str = ""
    warnings: tuple[str, ...] = ()
    identities: tuple[FoundIdentity, ...] = ()

    @property
    def failure(self) -> Verdict | None:
        """The first verdict that failed, if any."""
        return next((v for v in self.verdicts if not v.passed), None)


@dataclass(frozen=True)
class TrialOutcome:
    """What one training run came to. `score` is None unless `completed`."""

    completed: bool
    reason: str
    message: str
    score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    device_s: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)


class Laboratory(Protocol):
    """Gates and trains programs.

    A candidate's failure is a value. Raises:
        CampaignPaused: the machinery failed repeatedly; the candidate is not to blame.
    """

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        """Runs the gates that execute the program."""

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        """Trains the program once and scores it."""

    async def close(self) -> None:
        """Releases what is held."""


class SandboxLaboratory:
    """Gates and trials as sandbox jobs; scoring on the host."""

    def __init__(self, sandbox: Sandbox, *, memory_gib: float, cpus: float, warm: int = 0) -> None:
        """`warm`: for so many jobs at once, workers are kept started and waiting, as far as memory allows."""
        self._sandbox = sandbox
        self._limits = Limits(memory_bytes=int(memory_gib * 2**30), cpus=cpus)
        self.warm = sandbox.keep_warm(warm, self._limits) if warm else 0

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        """See `Laboratory.gates`. A program that passes and then ends its worker over the question of its identity is
        tried without it: to have none is no failure."""
        tier = tiers.get(request.track, request.tier)
        asked: dict[str, Any] = {
            "track": request.track,
            "tier": request.tier,
            "lengths": {tier.task(task).length for task in request.tasks},
            "max_exponent": request.max_exponent,
        }
        levels = [level.lower() for level in request.identity]
        passed: list[dict[str, Any]] = []
        outcome = await self._run(
            Job(label, gate_phases(source, **asked, identity=levels), self._limits), passed.append
        )
        nameless: tuple[FoundIdentity, ...] = ()
        if outcome.kind is OutcomeKind.CANDIDATE_FAILED and passed:
            nameless = tuple(FoundIdentity(level, None, _ended(outcome), outcome.wall_s) for level in request.identity)
            levels = []
            outcome = await self._run(Job(label, gate_phases(source, **asked), self._limits))
        if outcome.kind is OutcomeKind.CANDIDATE_FAILED:
            verdict = Verdict("sandbox", False, outcome.reason, outcome.message, outcome.line)
            return GateOutcome((verdict,), None, outcome.log)
        try:
            reply = _mapping(outcome.replies[0])
            report = read_gate_reply(reply)
            found = _found(read_identity_reply(reply, levels)) if levels and report.accepted else nameless
        except WireError as error:
            return GateOutcome((Verdict("sandbox", False, "protocol", str(error)),), None, outcome.log)
        return GateOutcome(report.verdicts, report.cost, outcome.log, report.warnings, found)

    async def identify(self, source: str, *, track: str, tier: str, label: str) -> tuple[FoundIdentity, ...]:
        """What the program is at the executed levels. One that fails at it is none; the failure is the reason."""
        outcome = await self._run(Job(label, identity_phases(source, track=track, tier=tier), self._limits))
        why = _ended(outcome)
        if outcome.kind is not OutcomeKind.CANDIDATE_FAILED:
            try:
                return _found(read_identity_reply(_mapping(outcome.replies[0])))
            except WireError as error:
                why = str(error)
        return tuple(FoundIdentity(level.upper(), None, why, outcome.wall_s) for level in EXECUTED_LEVELS)

    async def profile(self, source: str, *, track: str, tier: str, label: str) -> CostReport | str:
        """What the program costs, as measured in the sandbox; a sentence where it could not be measured."""
        phases = profile_phases(source, track=track, tier=tier)
        outcome = await self._run(Job(label, phases, self._limits, timed=True))
        if outcome.kind is OutcomeKind.CANDIDATE_FAILED:
            return outcome.message
        try:
            return read_profile_reply(_mapping(outcome.replies[0]))
        except WireError as error:
            return str(error)

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        """See `Laboratory.trial`."""
        phases = trial_phases(source, request)
        needs_gpu = tiers.get(request.track, request.tier).accelerator
        task = request.task.partition(":")[0]
        job = Job(label, phases, self._limits, task=task, accelerator=needs_gpu)
        outcome = await self._run(job, on_progress)
        environment: dict[str, Any] = {**fingerprint(), **outcome.provenance}
        log, device_s = outcome.log, outcome.wall_s
        if outcome.kind is OutcomeKind.CANDIDATE_FAILED:
            return TrialOutcome(
                False, outcome.reason, outcome.message, None, log=log, device_s=device_s, environment=environment
            )
        try:
            result = score_trial(request, outcome.replies, outcome.phase_wall_s)
        except WireError as error:
            return TrialOutcome(False, "protocol", str(error), None, {}, [], log, device_s, environment)
        environment["execution"] = result.claims
        metrics = dict(result.metrics)
        if outcome.peak_memory_bytes is not None:
            metrics["peak_memory_bytes"] = float(outcome.peak_memory_bytes)
        completed = result.status == "ok"
        return TrialOutcome(
            completed,
            result.reason,
            result.message,
            result.score if completed else None,
            metrics,
            result.curve,
            log,
            device_s,
            environment,
        )

    async def _run(self, job: Job, on_progress: Progress | None = None) -> JobOutcome:
        """Runs a job; infrastructure failures are retried and never blamed on the candidate.

        Raises:
            CampaignPaused: they went on.
            SandboxUnavailable: what no second try mends.
        """
        lost_s = 0.0
        reason = ""
        for pause_s in _PAUSES_S:
            if reason in _LOST:
                await asyncio.sleep(pause_s)
            outcome = await self._sandbox.run(job, on_progress=on_progress)
            if outcome.kind is not OutcomeKind.INFRASTRUCTURE_FAILED:
                return replace(outcome, wall_s=outcome.wall_s + lost_s)
            lost_s += outcome.wall_s
            reason = outcome.reason
        raise CampaignPaused(
            f"the {self._sandbox.level} sandbox failed {len(_PAUSES_S)} times on {job.job_id} "
            f"({outcome.reason}): {outcome.message}. `move37 doctor` says what is wrong."
        )

    async def require_gpu(self) -> str:
        """The name of the GPU that trials can have. Raises GpuUnavailable if they cannot."""
        return await self._sandbox.require_gpu(self._limits)

    async def close(self) -> None:
        """Closes the sandbox."""
        await self._sandbox.close()


def _ended(outcome: JobOutcome) -> str:
    return f"the sandbox ended it ({outcome.reason}): {outcome.message}"


def _found(identities: Mapping[str, Identity]) -> tuple[FoundIdentity, ...]:
    return tuple(FoundIdentity(level.upper(), one.key, one.reason, one.cost_s) for level, one in identities.items())


def _mapping(reply: object) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise WireError(f"the job answered with {type(reply).__name__} instead of a control frame")
    return reply


def require_accelerator(track: str, tier: str) -> None:
    """Raises GpuUnavailable where a tier needs a GPU and the host has none. The driver says, not torch."""
    if tiers.get(track, tier).accelerator and not Path("/dev/nvidiactl").exists():
        smaller = ", ".join(name for name in tiers.names(track) if not tiers.get(track, name).accelerator)
        why = f"tier '{tier}' needs a GPU and this machine shows none (no /dev/nvidiactl)"
        raise GpuUnavailable("chosen", why, f"Choose a smaller tier, one of {smaller}.")
