"""Answers an identity job: the keys of the executed levels, or why there are none. Inside the sandbox only."""

import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.nn import functional

from evaluator import tiers
from evaluator.identities import LEVELS, REASON_CAP
from evaluator.program import CandidateError
from evaluator.text import printable
from evaluator.tiers import Tier
from evaluator.tracing.function import function_key
from evaluator.tracing.graph import Untraceable
from evaluator.tracing.recorder import Recorder
from evaluator.tracing.trace import trace_key

_KEYS: dict[str, Callable[[str, Tier], str]] = {"l2": trace_key, "l3": function_key}


def run_identities(source: str, track: str, tier_name: str, levels: Collection[str] = LEVELS) -> dict[str, Any]:
    """The `identities` that `evaluator.identities.read_identity_reply` reads. Runs the program's code."""
    tier = tiers.get(track, tier_name)
    _warm_up()
    return {"identities": {level: _identity(_KEYS[level], source, tier) for level in LEVELS if level in levels}}


def _warm_up() -> None:
    """The first recorded operation imports much more of torch, which is not the program's time."""
    with Recorder():
        functional.linear(torch.empty(1, 2, 2), torch.empty(2, 2)).tril().sum()


def _identity(compute: Callable[[str, Tier], str], source: str, tier: Tier) -> dict[str, Any]:
    started = time.perf_counter()
    key, reason = None, ""
    try:
        key = compute(source, tier)
    except Untraceable as why:
        reason = str(why)
    except CandidateError as error:
        reason = error.message
    return {"key": key, "reason": printable(reason)[:REASON_CAP], "cost_s": time.perf_counter() - started}
