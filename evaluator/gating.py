"""The dynamic gates as the host sees them: the conversation, and a strict reading of the answer. No torch here.

The gates run in the sandbox (`evaluator.gates`), since they execute the program. Their answer is the container's word:
it decides only whether compute is spent, and what it says is bounded and made printable here. What a trial is worth is
decided by `evaluator.trial`.
"""

from collections.abc import Collection, Mapping
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
    "complexity",
    "shape",
    "repeatability",
    "batch_independence",
    "causality",
    "prefix_consistency",
    "whole_model",
    "precision",
    "finite",
    "reach",
    "learning",
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
        "length_dependent",
        "unstable",
        "non_finite",
        "modifies_input",
        "device_mismatch",
        "too_complex",
        "too_slow",
        "dead_parameters",
        "does_not_learn",
    }
)
MAX_WARNINGS = 8
WARNING_CAP = 400  # characters

_MOST = 2**62  # more than any program that a sandbox can run


@dataclass(frozen=True)
class CostProfile:
    """What a program costs, as the container claims it.

    Attributes:
        flops_per_token: forward matrix products and convolutions of the whole model per token, at the tier's longest
            sequence, attention counted under the math backend. Elementwise work is not in it.
        length_exponent: how the mixers' work grows with L between L = 256 and 512: 1 is linear, 2 quadratic. The
            largest over layers of the exponents of FLOPs, of elements written, and of either by a single operation.
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
    """All verdicts up to the first failure. `cost` is None when a gate failed.

    `warnings` are what the gates noticed and let pass: at most `MAX_WARNINGS` printable texts.
    """

    verdicts: tuple[Verdict, ...]
    accepted: bool
    first_failure: Verdict | None
    cost: CostProfile | None
    warnings: tuple[str, ...] = ()


def gate_phases(
    source: str,
    *,
    track: str,
    tier: str,
    lengths: Collection[int] = (),
    max_exponent: float | None = None,
    identity: Collection[str] = (),
) -> tuple[Phase, ...]:
    """The single phase of a gates job.

    Args:
        lengths: to look at beside those of the tier's ranking tasks.
        identity: the executed levels of identity (`evaluator.identities.LEVELS`) to be told of a program that passes.
        max_exponent: the campaign's limit on `CostProfile.length_exponent`; None measures without a limit.

    Raises:
        UnknownTrack, UnknownTier: a name that does not exist.
    """
    message: dict[str, Any] = {"type": "job", "kind": "gates", "protocol": PROTOCOL_VERSION, "track": track}
    message |= {"tier": tier, "lengths": sorted(lengths)}
    if max_exponent is not None:
        message["max_exponent"] = max_exponent
    if identity:
        message["identity"] = sorted(identity)
    job = control(message)
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
    return GateReport(
        verdicts,
        accepted=not failures,
        first_failure=failures[0] if failures else None,
        cost=_read_cost(reply.get("cost")) if not failures else None,
        warnings=_read_warnings(reply.get("warnings", [])),
    )


def _cleaned(verdict: Verdict) -> Verdict:
    """`verdict` without what a container could hide in it; honest gates put nothing into `detail`."""
    return replace(verdict, message=bounded_message(verdict.message), line=line_number(verdict.line), detail={})


def _read_warnings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_WARNINGS or not all(isinstance(item, str) for item in value):
        raise WireError(f"a gate reply's warnings must be at most {MAX_WARNINGS} texts")
    return tuple(bounded_message(item)[:WARNING_CAP] for item in value)


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
