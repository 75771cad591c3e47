"""The frozen objective of a campaign and its hash: results under different hashes are never compared silently."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from evaluator import tiers
from evaluator.scoring import BLIND_Z, FLIPPED_FRACTION, GAP_ABOVE, MOVED_ABOVE, MOVED_FRACTION

# Raise it whenever the same program could get another number: generators, skeleton, trainer, scorer.
SCORER_VERSION = "3"


def objective(
    track: str,
    tier: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    *,
    salt: str = "",
    learning_rates: Sequence[float] = (),
) -> dict[str, Any]:
    """Everything that decides a score but the program: track, tier, tasks with their sizes, seeds, recipe, scorer.

    A salt enters as its hash only.

    Raises:
        UnknownTrack, UnknownTier, UnknownTask: a name that does not exist.
        ImpossibleSize: a task cannot be made at the size asked for.
    """
    return {
        "track": track,
        "tier": tier,
        "tasks": {name: task_settings(track, tier, name) for name in tasks},
        "selects_on": list(selects_on(track, tier, tasks)),
        "seeds": [int(seed) for seed in seeds],
        "learning_rates": [float(rate) for rate in learning_rates],
        "scorer": SCORER_VERSION,
        "audit": {
            "gap_above": GAP_ABOVE,
            "moved_above": MOVED_ABOVE,
            "moved_fraction": MOVED_FRACTION,
            "flipped_fraction": FLIPPED_FRACTION,
            "blind_z": BLIND_Z,
        },
        "salt": hashlib.sha256(salt.encode("utf-8")).hexdigest() if salt else "",
    }


def task_settings(track: str, tier: str, task: str) -> dict[str, Any]:
    """What decides a score on one task, seed and program apart: its sizes, its training, the tier's settings for it."""
    chosen = tiers.get(track, tier)
    made = chosen.task(task)
    return {
        "sizes": made.parameters(),
        "chance": made.chance,
        "measure": made.measure,
        "plan": chosen.plan(task).describe(),
        "tier_settings": chosen.for_task(task).describe(),
    }


def selects_on(track: str, tier: str, tasks: Sequence[str]) -> tuple[str, ...]:
    """Those of `tasks` whose scores a search selects on. The others are trained and reported only: at this tier they
    do not rank architectures as longer training does (docs/evaluation.md)."""
    chosen = tiers.get(track, tier)
    return tuple(task for task in tasks if chosen.plan(task).ranks)


def objective_hash(
    track: str,
    tier: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    *,
    salt: str = "",
    learning_rates: Sequence[float] = (),
) -> str:
    """SHA-256 of the objective's canonical JSON. The order of tasks does not matter, that of seeds does."""
    value = objective(track, tier, tasks, seeds, salt=salt, learning_rates=learning_rates)
    value["selects_on"] = sorted(value["selects_on"])
    return _digest(value)


def task_hash(track: str, tier: str, task: str) -> str:
    """A short hash of `task_settings` and the scorer: scores under one such hash, seed by seed, may be compared."""
    return _digest({"task": task, "settings": task_settings(track, tier, task), "scorer": SCORER_VERSION})[:16]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
