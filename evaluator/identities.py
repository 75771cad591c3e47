"""The executed levels of program identity as the host sees them: the conversation, and a strict reading. No torch here.

L2 and L3 run the program, so they are computed in the sandbox (`evaluator.tracing`). What comes back is the container's
word, and a program could say anything about itself, another's key included: a key decides only what is *called* equal,
never a score.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evaluator import tiers
from evaluator.errors import WireError
from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.text import printable, quoted
from evaluator.wire import Frame, FrameKind, control

LEVELS = ("l2", "l3")
REASON_CAP = 400  # characters

_PATTERNS = {"l2": re.compile(r"o1-[0-9a-f]{40}"), "l3": re.compile(r"f1-[0-9a-f]{40}")}
_MOST_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Identity:
    """A program at one level: its key, or None and why. `cost_s` is wall time, the container's claim."""

    key: str | None
    reason: str
    cost_s: float


def identity_phases(source: str, *, track: str, tier: str, levels: Collection[str] = LEVELS) -> tuple[Phase, ...]:
    """The single phase of an identity job.

    Raises:
        UnknownTrack, UnknownTier: a name that does not exist.
        ValueError: a level that is not executed.
    """
    if unknown := set(levels) - set(LEVELS):
        raise ValueError(f"there is no executed level {sorted(unknown)}; there are {LEVELS}")
    asked = [level for level in LEVELS if level in levels]
    message: dict[str, Any] = {"type": "job", "kind": "identity", "protocol": PROTOCOL_VERSION, "track": track}
    job = control(message | {"tier": tier, "levels": asked})
    program = Frame(FrameKind.PROGRAM, source.encode("utf-8"))
    return (Phase("identity", (job, program), None, tiers.get(track, tier).gates_timeout_s),)


def read_identity_reply(reply: Mapping[str, Any], levels: Collection[str] = LEVELS) -> dict[str, Identity]:
    """The identities in the `done` message of an identity job, by level.

    Raises:
        WireError: other levels than were asked for, a key of another form, a key with a reason or neither.
    """
    found = reply.get("identities")
    if not isinstance(found, dict) or set(found) != set(levels):
        raise WireError(f"an identity reply must hold exactly the levels {sorted(levels)}")
    return {level: _read(level, found[level]) for level in LEVELS if level in levels}


def _read(level: str, value: object) -> Identity:
    if not isinstance(value, dict) or set(value) != {"key", "reason", "cost_s"}:
        raise WireError(f"an identity at {level} must hold a key, a reason and a cost")
    key, reason, cost_s = value["key"], value["reason"], value["cost_s"]
    if key is not None and not (isinstance(key, str) and _PATTERNS[level].fullmatch(key)):
        raise WireError(f"an identity at {level} has a key of another form: {quoted(key)}")
    if not isinstance(reason, str) or bool(reason) == (key is not None):
        raise WireError(f"an identity at {level} must hold either a key or a reason")
    if type(cost_s) not in (int, float) or not math.isfinite(cost_s) or not 0 <= cost_s <= _MOST_SECONDS:
        raise WireError(f"an identity at {level} has an impossible cost: {quoted(cost_s)}")
    return Identity(key, printable(reason[:REASON_CAP])[:REASON_CAP], float(cost_s))
