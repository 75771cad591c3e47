"""Runs the dynamic gates in order and stops at the first failure. Inside the sandbox only."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from evaluator import tiers, verdict
from evaluator.gates import gradients, learning, probes, trained
from evaluator.gates.cures import with_cure
from evaluator.gates.specimen import Specimen, blamed_on, jitter
from evaluator.gating import DYNAMIC_GATES, MAX_WARNINGS, WARNING_CAP
from evaluator.phases import MESSAGE_CAP
from evaluator.program import CandidateError, load, seed_generators
from evaluator.skeleton import build_model, solve_widths
from evaluator.text import printable
from evaluator.tiers import BUDGET_TOLERANCE, Tier
from evaluator.verdict import Verdict

_COST_VOCABULARY = 16
# A program so far above the budget is refused from its count on fake tensors, before memory is asked for.
_PLAINLY_TOO_LARGE = 4


def run_gates(
    source: str,
    track: str,
    tier_name: str,
    max_exponent: float | None = None,
    *,
    lengths: Collection[int] = (),
    seconds: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The verdicts up to the first failure, and the cost of a program that passes. Runs the program's code.

    Args:
        max_exponent: the campaign's limit on how the work may grow with length; None measures only.
        lengths: of sequences to look at beside those of the tier's ranking tasks.
        seconds: receives the CPU-seconds of each gate that ran.
    """
    climb = _Climb(source, tiers.get(track, tier_name).probing(lengths), max_exponent)
    seed_generators(0)
    verdicts: list[Verdict] = []
    for gate in DYNAMIC_GATES:
        started = time.thread_time()
        try:
            message = climb.gates[gate]()
        except CandidateError as error:
            verdicts.append(verdict.failed(gate, error.reason, with_cure(error), line=error.line))
            break
        finally:
            if seconds is not None:
                seconds[gate] = time.thread_time() - started
        verdicts.append(verdict.passed(gate, printable(message)[:MESSAGE_CAP]))
    passed = verdicts[-1].passed
    return {
        "verdicts": [item.as_dict() for item in verdicts],
        "cost": climb.cost() if passed else None,
        "warnings": [printable(text)[:WARNING_CAP] for text in climb.warnings[:MAX_WARNINGS]],
    }


@dataclass
class _Climb:
    """One program on its way up: each gate says in a sentence what it saw, or raises `CandidateError`."""

    source: str
    tier: Tier
    max_exponent: float | None
    warnings: list[str] = field(default_factory=list)
    _parameters: int | None = None  # counted on fake tensors
    _specimen: Specimen | None = None
    _growth: Any = None

    @property
    def gates(self) -> dict[str, Callable[[], str]]:
        return {
            "fake_build": self._fake_build,
            "budget": self._budget,
            "complexity": self._complexity,
            "shape": lambda: probes.shape(self._loaded()),
            "repeatability": lambda: probes.repeatability(self._loaded()),
            "batch_independence": lambda: probes.batch_independence(self._loaded()),
            "causality": lambda: probes.causality(self._loaded()),
            "prefix_consistency": lambda: probes.prefix_consistency(self._loaded()),
            "whole_model": self._whole_model,
            "precision": lambda: probes.precision(self._loaded()),
            "finite": lambda: gradients.finite(self._loaded()),
            "reach": self._reach,
            "learning": lambda: learning.learning(self._loaded()),
        }

    def cost(self) -> dict[str, float]:
        from evaluator.cost import profile

        return profile(self._loaded(), _COST_VOCABULARY, self._growth)

    def _loaded(self) -> Specimen:
        # Loaded anew after the fake gate: a cache at module level would otherwise still hold fake tensors.
        if self._specimen is None:
            with blamed_on("build_failed", "executing its top level"):
                builder, kind = load(self.source)
            self._specimen = Specimen(builder, kind, self.tier)
        return self._specimen

    def _fake_build(self) -> str:
        from evaluator.gates.fake import fake_build

        found = fake_build(self.source, self.tier)
        self._parameters = found.parameters
        if found.warning is not None:
            self.warnings.append(found.warning)
        return found.message

    def _budget(self) -> str:
        specimen = self._loaded()
        if self._parameters is not None and self._parameters > _PLAINLY_TOO_LARGE * self.tier.body_parameters:
            self._refuse(self._parameters)
        with blamed_on("build_failed", "building the whole model"):
            _, sizes = build_model(specimen.builder, specimen.kind, self.tier, _COST_VOCABULARY, seed=0)
        widths = f"; MLP widths {', '.join(map(str, sizes.mlp_hidden))}" if sizes.mlp_hidden else ""
        return f"{sizes.total} parameters, {sizes.program} of them the program's{widths}."

    def _refuse(self, parameters: int) -> None:
        if self._loaded().kind == "mixer":
            solve_widths(self.tier, parameters)
        most = math.floor(self.tier.body_parameters * (1 + BUDGET_TOLERANCE))
        raise CandidateError(
            "over_budget",
            f"the blocks take {parameters} parameters at d_model={self.tier.d_model}; all {self.tier.n_layers} layers "
            f"together may take {most}",
        )

    def _complexity(self) -> str:
        from evaluator.gates.complexity import complexity

        found = complexity(self._loaded(), self.max_exponent)
        self._growth = found.growth
        return found.message

    def _whole_model(self) -> str:
        specimen = self._loaded()
        with blamed_on("build_failed", "building the whole model"):
            model, _ = build_model(specimen.builder, specimen.kind, self.tier, _COST_VOCABULARY, seed=0)
        jitter(model, seed=1)
        trained.examine(model, max(self.tier.lengths), "before training")
        return "On tokens, the layers together are causal, independent across rows, and without state."

    def _reach(self) -> str:
        message, warning = gradients.reach(self._loaded())
        if warning is not None:
            self.warnings.append(warning)
        return message
