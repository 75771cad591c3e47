"""The frozen objective of a campaign and its hash: results under different hashes are never compared silently."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from evaluator import tiers
from evaluator.scoring import BLIND_Z, FLIPPED_FRACTION, GAP_ABOVE, MOVED_ABOVE, MOVED_FRACTION

# Raise it whenever the same program could get another number: generators, skeleton, trainer, scorer.
SCORER_VERSION = "2"


def objective(track: str, tier: str, tasks: Sequence[str], seeds: Sequence[int], *, salt: str = "") -> dict[str, Any]:
    """Everything that decides a score but the program: track, tier, tasks with their sizes, seeds, recipe, scorer.

    A salt enters as its hash only.

    Raises:
        UnknownTrack, UnknownTier, UnknownTask: a name that does not exist.
    """
    chosen = tiers.get(track, tier)
    return {
        "track": track,
        "tier": tier,
        "tier_settings": chosen.describe(),
        "tasks": {
            name: {
                "sizes": chosen.task(name).parameters(),
                "steps": chosen.plan(name).steps,
                "chance": chosen.task(name).chance,
            }
            for name in tasks
        },
        "seeds": [int(seed) for seed in seeds],
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


def objective_hash(track: str, tier: str, tasks: Sequence[str], seeds: Sequence[int], *, salt: str = "") -> str:
    """SHA-256 of the objective's canonical JSON. The order of tasks does not matter, that of seeds does."""
    value = objective(track, tier, tasks, seeds, salt=salt)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
