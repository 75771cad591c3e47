"""Runs the dynamic gates in order and stops at the first failure. Inside the sandbox only."""

from collections.abc import Callable
from typing import Any

from evaluator import tiers, verdict
from evaluator.gates import probes
from evaluator.gates.specimen import Specimen, blamed_on
from evaluator.gating import DYNAMIC_GATES
from evaluator.phases import MESSAGE_CAP
from evaluator.program import CandidateError, load, seed_generators
from evaluator.skeleton import build_model
from evaluator.text import printable
from evaluator.tiers import Tier
from evaluator.verdict import Verdict

_COST_VOCABULARY = 16


def run_gates(source: str, track: str, tier_name: str) -> dict[str, Any]:
    """The verdicts up to the first failure, and the cost of a program that passes. Runs the program's code."""
    tier = tiers.get(track, tier_name)
    verdicts: list[Verdict] = []
    specimen: Specimen | None = None
    cost: dict[str, float] | None = None
    seed_generators(0)
    for gate in DYNAMIC_GATES:
        try:
            if gate == "fake_build":
                from evaluator.gates.fake import fake_build

                message = fake_build(source, tier)
            else:
                specimen = specimen or _load(source, tier)
                message = _GATES[gate](specimen)
            if gate == DYNAMIC_GATES[-1]:
                from evaluator.cost import profile

                assert specimen is not None
                cost = profile(specimen, _COST_VOCABULARY)
        except CandidateError as error:
            text = printable(error.message[0].upper() + error.message[1:])[: MESSAGE_CAP - 1] + "."
            verdicts.append(verdict.failed(gate, error.reason, text, line=error.line))
            break
        verdicts.append(verdict.passed(gate, printable(message)[:MESSAGE_CAP]))
    return {"verdicts": [item.as_dict() for item in verdicts], "cost": cost}


def _load(source: str, tier: Tier) -> Specimen:
    # Loaded anew after the fake gate: a cache at module level would otherwise still hold fake tensors.
    with blamed_on("build_failed", "executing its top level"):
        builder, kind = load(source)
    return Specimen(builder, kind, tier)


def _budget(specimen: Specimen) -> str:
    with blamed_on("build_failed", "building the whole model"):
        _, sizes = build_model(specimen.builder, specimen.kind, specimen.tier, _COST_VOCABULARY, seed=0)
    widths = f"; MLP widths {', '.join(map(str, sizes.mlp_hidden))}" if sizes.mlp_hidden else ""
    return f"{sizes.total} parameters, {sizes.program} of them the program's{widths}."


_GATES: dict[str, Callable[[Specimen], str]] = {
    "budget": _budget,
    "shape": probes.shape,
    "repeatability": probes.repeatability,
    "batch_independence": probes.batch_independence,
    "causality": probes.causality,
    "finite_gradients": probes.finite_gradients,
}
