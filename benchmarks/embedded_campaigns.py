"""Whole campaigns for benchmarks: the loop of `move37 run`, with a laboratory that trains every program once.

Notable: what a gate or a trial says of a program is kept on disk under the program's syntax (L1: without docstrings and
names of locals), the task and the seed, and shared by all arms and seeds. Training repeats to the last bit on one
machine, so that this changes nothing but the time taken (`retrained` looks at a sample), and makes a run resumable.
"""

import json
import random
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agents.gateway import ChatModel
from evaluator.gating import CostProfile
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.records import Attempt
from memory.store import open_store
from memory.syntax import l1
from move37 import briefing, launch
from move37.budget import Budget
from move37.campaign import drive
from move37.config import CampaignConfig
from move37.laboratory import FoundIdentity, GateOutcome, GateRequest, Laboratory, Progress, TrialOutcome
from move37.loop import Loop, Visibility
from move37.turnstile import Turnstile
from prompts.loader import Prompts


class Cache:
    """Answers by key, one JSON line each, appended as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, value = json.loads(line)
                self._known[key] = value
        path.parent.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Any:
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        self._known[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, value]) + "\n")

    def trials(self) -> list[tuple[str, dict[str, Any]]]:
        """Key and answer of every trial."""
        return [(key, value) for key, value in self._known.items() if key.startswith("trial ")]


class MemoisingLaboratory:
    """Implements `Laboratory`: asks another one what the cache does not know."""

    def __init__(self, inner: Laboratory, cache: Cache) -> None:
        self.inner, self._cache = inner, cache
        self.trained = 0

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        key = f"gates {_identity(source)} {json.dumps(asdict(request), sort_keys=True, default=list)}"
        if (known := self._cache.get(key)) is None:
            known = asdict(await self.inner.gates(source, request, label=label))
            _require_time({verdict["reason"] for verdict in known["verdicts"]})
            self._cache.put(key, known)
        cost = known["cost"]
        return GateOutcome(
            tuple(Verdict(**one) for one in known["verdicts"]),
            None if cost is None else CostProfile(**cost),
            known["log"],
            tuple(known["warnings"]),
            tuple(FoundIdentity(**one) for one in known["identities"]),
        )

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        key = trial_key(source, request)
        if (known := self._cache.get(key)) is None:
            known = asdict(await self.inner.trial(source, request, label=label, on_progress=on_progress))
            _require_time({known["reason"]})
            self._cache.put(key, known)
            self.trained += 1
        return TrialOutcome(**known)

    async def close(self) -> None:
        await self.inner.close()


def _require_time(reasons: Set[str]) -> None:
    if reasons & {"too_slow", "timeout"}:
        raise RuntimeError("a program ran out of time: the machine is too busy for this benchmark; run it again")


def trial_key(source: str, request: TrialRequest) -> str:
    return f"trial {_identity(source)} {json.dumps(asdict(request), sort_keys=True)}"


def _identity(source: str) -> str:
    key = l1(source).key
    assert key is not None, "a program of the grammar always has a syntax"
    return key


@dataclass(frozen=True)
class Run:
    """A finished campaign: what every experiment scored (None: it was not completed), and the best one's program.

    `attempts` holds "accepted", or why not, for every attempt of every experiment.
    """

    scores: tuple[float | None, ...]
    statuses: tuple[str, ...]
    attempts: tuple[tuple[str, ...], ...]
    winner: str
    design: str

    @property
    def best(self) -> float:
        return max(score for score in self.scores if score is not None)

    def best_after(self, experiments: int) -> float:
        return max(score for score in self.scores[:experiments] if score is not None)

    def first_at_least(self, score: float) -> int | None:
        """How many experiments it took to reach a score."""
        reached = (n for n, one in enumerate(self.scores, 1) if one is not None and one >= score)
        return next(reached, None)


async def campaign(config: CampaignConfig, model: ChatModel, laboratory: Laboratory) -> Run:
    """Runs a campaign in a memory of its own, which is thrown away."""
    with tempfile.TemporaryDirectory(prefix="move37-bench-") as folder:
        store = open_store(f"sqlite:///{folder}/move37.db")
        try:
            record = launch.start(store, config)
            loop = Loop(
                store=store,
                campaign=record,
                config=config,
                brief=briefing.brief(config),
                prompts=Prompts(),
                model=model,
                laboratory=laboratory,
                budget=Budget(config.budget, lambda: store.spent(record.id)),
                turnstile=Turnstile(Visibility.of(store, record).first),
                notify=lambda event, fields: None,
            )
            ending = await drive(loop, checkpoint_file=None)
            if ending.state != "finished":
                raise RuntimeError(f"a campaign stopped: {ending.because}: {ending.error}")
            found = store.experiments(record.id)
            best = max((e for e in found if e.score is not None), key=lambda e: (e.score or 0.0, -e.index))
            assert best.program_sha256 is not None
            return Run(
                tuple(e.score for e in found),
                tuple(e.status if e.status != "rejected" else f"rejected: {e.reason}" for e in found),
                tuple(tuple(_outcome(a) for a in store.attempts(e.id)) for e in found),
                store.program(best.program_sha256).source,
                str((best.hypothesis or {}).get("design", best.name)),
            )
        finally:
            store.close()


def _outcome(attempt: Attempt) -> str:
    if attempt.outcome == "accepted":
        return "accepted"
    return f"{attempt.outcome}: {attempt.detail.get('gate', '-')}/{attempt.detail.get('reason', '-')}"


async def retrained(
    laboratory: Laboratory, cache: Cache, runs: Mapping[str, Sequence[Run]], request: TrialRequest, sample: int
) -> tuple[int, int]:
    """How many winners, trained again by `laboratory`, scored the same to the last bit, and how many were tried."""
    sources = sorted({run.winner for one in runs.values() for run in one})
    chosen = random.Random(0).sample(sources, min(sample, len(sources)))
    same = 0
    for source in chosen:
        again = await laboratory.trial(source, request, label="again")
        known = cache.get(trial_key(source, request))
        same += known is not None and again.score == known["score"] and again.curve == known["curve"]
    return same, len(chosen)


async def fresh_score(laboratory: Laboratory, source: str, request: TrialRequest, seeds: Sequence[int]) -> float:
    """The mean score of a program on claim data under other seeds."""
    scores = []
    for seed in seeds:
        outcome = await laboratory.trial(source, replace(request, seed=seed, data="claim"), label="fresh")
        scores.append(outcome.score if outcome.score is not None else 0.0)
    return sum(scores) / len(scores)
