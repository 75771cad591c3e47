"""The gate ladder from the host's side: static gates, identity by text, the gates that run the program in a sandbox,
identity by what it computes.

One climb for campaigns and for `move37 gates`. It stops at the first failure; the measured cost comes with a program
that is accepted. What "tried before" means is the caller's business: it passes the identity gates in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluator.compiling import complaint
from evaluator.gating import CostProfile
from evaluator.static_gate import read_text, static_gates
from evaluator.verdict import Verdict
from move37.laboratory import FoundIdentity, GateRequest, Laboratory

Identity = Callable[[], Awaitable[Verdict]]
Equivalence = Callable[[Sequence[FoundIdentity]], Awaitable[Verdict]]


@dataclass(frozen=True)
class Climb:
    """How far a program came. `warnings` are what the gates noticed and let pass."""

    verdicts: tuple[Verdict, ...]
    cost: CostProfile | None = None
    warnings: tuple[str, ...] = ()

    @property
    def failure(self) -> Verdict | None:
        """The verdict that stopped it, if any."""
        return next((verdict for verdict in self.verdicts if not verdict.passed), None)

    @property
    def accepted(self) -> bool:
        return self.failure is None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `move37 gates`."""
        failure = self.failure
        return {
            "accepted": failure is None,
            "reason": "ok" if failure is None else failure.reason,
            "message": "accepted by every gate" if failure is None else failure.message,
            "line": None if failure is None else failure.line,
            "warnings": list(self.warnings),
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "cost": None if self.cost is None else self.cost.as_dict(),
        }


async def static(source: str | bytes, *, track: str = "sequence") -> tuple[Verdict, ...]:
    """The static gates. The compiler, in a process of its own, is waited for in a thread: a hostile text may take its
    whole allowance of seconds, and others are at work. It is parsed here, in this thread (`static_gates`)."""
    text = read_text(source)
    found = None if isinstance(text, Verdict) else await asyncio.to_thread(complaint, text)
    return static_gates(source, track=track, compiles=lambda _: found)


async def climb(
    source: str | bytes,
    laboratory: Laboratory,
    request: GateRequest,
    *,
    label: str,
    identity: Identity,
    equivalence: Equivalence | None = None,
) -> Climb:
    """Up the ladder to the first failure. What the program is at the executed levels of identity is found out in the
    gates' job, for `equivalence` to judge."""
    verdicts = list(await static(source, track=request.track))
    if all(verdict.passed for verdict in verdicts):
        verdicts.append(await identity())
    if not all(verdict.passed for verdict in verdicts):
        return Climb(tuple(verdicts))
    text = source if isinstance(source, str) else source.decode("utf-8")
    outcome = await laboratory.gates(text, request, label=label)
    verdicts.extend(outcome.verdicts)
    if outcome.failure is None and equivalence is not None:
        verdicts.append(await equivalence(outcome.identities))
    cost = {"cost": asdict(outcome.cost)} if outcome.cost is not None else {}
    verdicts[-1] = replace(verdicts[-1], detail={**verdicts[-1].detail, **cost})
    return Climb(tuple(verdicts), outcome.cost, outcome.warnings)
