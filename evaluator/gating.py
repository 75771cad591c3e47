"""The dynamic gates as the host sees them: the conversation, and a strict reading of the answer. No torch here.

The gates run in the sandbox (`evaluator.gates`), since they execute the program. Their answer is the container's word:
it decides only whether compute is spent, and what it says is bounded and made printable here. What a trial is worth is
decided by `evaluator.trial`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluator import tiers
from evaluator.errors import WireError
from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.text import bounded_message, line_number, quoted
from evaluator.verdict import Verdict
from evaluator.wire import Frame, FrameKind, control

DYNAMIC_GATES = (
    "fake_build",
    "budget",
    "shape",
    "repeatability",
    "batch_independence",
    "causality",
    "finite_gradients",
)
DYNAMIC_REASONS = frozenset(
    {
        "ok",
        "fake_build_failed",
        "build_failed",
        "forward_failed",
        "out_of_memory",
        "over_budget",
        "wrong_shape",
        "wrong_dtype",
        "stateful",
        "batch_dependent",
        "not_causal",
        "non_finite",
    }
)


_MOST = 2**62  # more than any program that a sandbox can run


@dataclass(frozen=True)
class CostProfile:
    """What a program costs, as the container claims it.

    Attributes:
        flops_per_token: forward matrix products and convolutions of the whole model per token, at the tier's longest
            sequence, attention counted under the math backend. Elementwise work is not in it.
        length_exponent: how the mixers' work grows with L between L = 256 and 512: 1 is linear, 2 quadratic. The larger
            of the exponents of FLOPs and of elements written.
    """

    parameters: int
    mixer_parameters: int
    mlp_hidden: int
    flops_per_token: float
    length_exponent: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class GateReport:
    """All verdicts up to the first failure. `cost` is None when a gate failed."""

    verdicts: tuple[Verdict, ...]
    accepted: bool
    first_failure: Verdict | None
    cost: CostProfile | None


def gate_phases(source: str, *, track: str, tier: str) -> tuple[Phase, ...]:
    """The single phase of a gates job.

    Raises:
        UnknownTrack, UnknownTier: a name that does not exist.
    """
    job = control({"type": "job", "kind": "gates", "protocol": PROTOCOL_VERSION, "track": track, "tier": tier})
    program = Frame(FrameKind.PROGRAM, source.encode("utf-8"))
    return (Phase("gates", (job, program), None, tiers.get(track, tier).gates_timeout_s),)


def read_gate_reply(reply: Mapping[str, Any]) -> GateReport:
    """The report in the `done` message of a gates job.

    Raises:
        WireError: verdicts that are not those of the gates in their order, or a cost that is not numbers.
    """
    items = reply.get("verdicts")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise WireError("a gate reply carries no list of verdicts")
    verdicts = tuple(_cleaned(Verdict.from_dict(item)) for item in items[: len(DYNAMIC_GATES) + 1])
    if tuple(verdict.gate for verdict in verdicts) != DYNAMIC_GATES[: len(verdicts)]:
        raise WireError(
            f"a gate reply has verdicts of {quoted([v.gate for v in verdicts])}, expected {list(DYNAMIC_GATES)}"
        )
    if unknown := {verdict.reason for verdict in verdicts} - DYNAMIC_REASONS:
        raise WireError(f"a gate reply has unknown reasons: {quoted(sorted(unknown))}")
    failures = [verdict for verdict in verdicts if not verdict.passed]
    if any(verdict is not verdicts[-1] for verdict in failures):
        raise WireError("a gate reply goes on after a failed gate")
    if not failures and len(verdicts) != len(DYNAMIC_GATES):
        raise WireError("a gate reply stops early without a failure")
    cost = _read_cost(reply.get("cost")) if not failures else None
    return GateReport(verdicts, accepted=not failures, first_failure=failures[0] if failures else None, cost=cost)


def _cleaned(verdict: Verdict) -> Verdict:
    """`verdict` without what a container could hide in it; honest gates put nothing into `detail`."""
    return replace(verdict, message=bounded_message(verdict.message), line=line_number(verdict.line), detail={})


def _read_cost(value: object) -> CostProfile:
    names = {"parameters": int, "mixer_parameters": int, "mlp_hidden": int}
    if not isinstance(value, dict) or set(value) != {*names, "flops_per_token", "length_exponent"}:
        raise WireError("a gate reply carries no cost profile")
    if any(type(value[name]) is not int for name in names):
        raise WireError("a cost profile's counts must be integers")
    if any(type(value[name]) not in (int, float) for name in ("flops_per_token", "length_exponent")):
        raise WireError("a cost profile's rates must be numbers")
    if not all(abs(number) <= _MOST for number in value.values()):  # false for NaN too
        raise WireError("a cost profile's numbers must be finite and of a possible size")
    if min(value[name] for name in names) < 0:
        raise WireError("a cost profile's counts must not be negative")
    return CostProfile(
        parameters=value["parameters"],
        mixer_parameters=value["mixer_parameters"],
        mlp_hidden=value["mlp_hidden"],
        flops_per_token=float(value["flops_per_token"]),
        length_exponent=float(value["length_exponent"]),
    )
