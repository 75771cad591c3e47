"""How often is a program of the embedded models valid at once, and how often after a fault was planted in it?

Two kinds of campaigns, through the real loop and the real gates; only training is left out (a made-up score stands for
it, so that the searches go somewhere). In the first, whatever the models write is gated as it is. In the second, the
coder's first reply of every experiment is replaced by a program with one fault, and what counts is whether its
repairs, shown the gate's verdict and nothing else, come through.
"""

import argparse
import asyncio
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from agents.contexts import Message
from agents.embedded.genome import Gate, Mixer, Parallel, Serial, leaf
from agents.embedded.library import catalogue_library
from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL
from agents.embedded.priors import expected_score
from agents.embedded.program import read_program
from agents.embedded.render import Heading, program
from agents.gateway import ChatModel, Completion, ModelKind
from agents.opening import open_model
from benchmarks.embedded_campaigns import Cache, MemoisingLaboratory, Run, campaign
from benchmarks.forked import PATIENCE, ForkedSandbox
from evaluator import compiling
from evaluator.statistics import wilson
from evaluator.trial import TrialRequest
from move37.config import CampaignConfig, ModelConfig, ObjectiveConfig
from move37.laboratory import Progress, SandboxLaboratory, TrialOutcome
from move37.novelty import GATE

OUTPUT = Path(__file__).with_suffix(".md")
TASKS = ("selective_copying",)
REPAIRS = 3


def _forward(statement: str, *, built: str = "") -> Callable[[str], str]:
    """A fault in the forward pass: the mixer is wrapped, and `y` is what it returns."""

    def planted(source: str) -> str:
        init = f"\n        {built}" if built else ""
        wrapper = (
            "class Wrapped(nn.Module):\n"
            "    def __init__(self, inner: nn.Module, d_model: int) -> None:\n"
            f"        super().__init__()\n        self.inner = inner{init}\n\n"
            "    def forward(self, x: torch.Tensor) -> torch.Tensor:\n"
            f"        y = self.inner(x)\n        {statement}\n\n\n"
        )
        entry = source.index("def build_mixer(")
        body = source[entry:].replace("def build_mixer(", "def honest_mixer(", 1)
        new = (
            "\n\ndef build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:\n"
            "    return Wrapped(honest_mixer(d_model, layer_index, n_layers), d_model)\n"
        )
        return _with_torch(source[:entry]) + wrapper + body + new

    return planted


def _with_torch(head: str) -> str:
    return (
        head if "\nimport torch\n" in head else head.replace("from torch import", "import torch\nfrom torch import", 1)
    )


def _replaced(pattern: str, by: str) -> Callable[[str], str]:
    return lambda source: re.sub(pattern, by, source, count=1, flags=re.MULTILINE)


def _in_entry(pattern: str, by: str) -> Callable[[str], str]:
    """The same, in `build_mixer` only."""

    def planted(source: str) -> str:
        entry = source.index("def build_mixer(")
        return source[:entry] + re.sub(pattern, by, source[entry:], count=1)

    return planted


def _too_large(source: str) -> str:
    """A design over the budget, written as the grammar writes: what was meant is at fault."""
    mixer = read_program(source, 32)
    assert mixer is not None
    more = Serial(leaf("DeltaRule", gated=True), leaf("RWKVTimeMix"))
    larger = Mixer(Gate(Parallel(mixer.tree, more, "gate")))
    return program(larger, Heading("Too large", "-", "-"), catalogue_library())


FAULTS: Mapping[str, Callable[[str], str]] = {
    "wrong width": _forward("return y[..., :-1]"),
    "wrong length": _forward("return y[:, :-1]"),
    "a tuple": _forward("return y, None"),
    "leak of the next token": _forward("return y + x.roll(-1, 1)"),
    "leak of the mean": _forward("return y + 0.1 * x.mean(1, keepdim=True)"),
    "mean over the batch": _forward("return y + 0.1 * x.mean(0, keepdim=True)"),
    "dropout": _forward("return nn.functional.dropout(y, 0.1, self.training)"),
    "NaN": _forward("return y * float('nan')"),
    "NaN at times": _forward("return y / (x.abs() > 0.1)"),
    "always float32": _forward("return y.float()"),
    "raises": _forward("raise RuntimeError('not implemented')"),
    "too many parameters": _forward(
        "return y + 0 * self.more.sum()", built="self.more = nn.Parameter(torch.zeros(100_000))"
    ),
    "missing import": _replaced(r"^from torch import .*$", ""),
    "forbidden import": _replaced(r"^from torch import", "import os\nfrom torch import"),
    "syntax error": _replaced(r"^def build_mixer\(", "def build_mixer(("),
    "prose instead of code": lambda source: "I would combine attention with a convolution.\n",
    "wrong entry point": _replaced(r"^def build_mixer\(", "def make_mixer("),
    "wrong signature": _replaced(r"^def build_mixer\(d_model: int, ", "def build_mixer("),
    "a class that does not exist": _in_entry(r"return (\w+)\(", r"return Better\1("),
    "a setting that does not exist": _in_entry(r"\w+=(?=\w|\")", "depth="),
    "over budget by design": _too_large,
}


class Faulty:
    """The embedded model with a fault in the coder's first reply of every experiment. A `ChatModel`."""

    name = EMBEDDED_MODEL
    kind: ModelKind = "grammar"

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner
        self.planted: list[str] = []

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        found = await self._inner.complete(messages, schema=schema, seed=seed, deadline_s=deadline_s)
        if schema is not None or "## Verdict" in messages[-1].content:
            return found
        fault = tuple(FAULTS)[len(self.planted) % len(FAULTS)]
        self.planted.append(fault)
        start = found.text.index("```python\n") + len("```python\n")
        source = found.text[start : found.text.rindex("```")]
        return replace(found, text=f"A program.\n\n```python\n{FAULTS[fault](source)}```\n")

    async def close(self) -> None:
        await self._inner.close()


class WithoutTraining(MemoisingLaboratory):
    """Real gates; a score made up from the priors and the program's text."""

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        mixer = read_program(source, 32)
        known = 0.0 if mixer is None else 0.5 * expected_score(mixer, 2, [request.task])
        luck = random.Random(hashlib.sha256(source.encode()).digest()).gauss(0.0, 0.1)
        score = min(1.0, max(0.0, known + luck))
        curve = [{"fraction": f, "step": 1, "accuracy": score, "loss": 1.0} for f in (0.1, 0.25, 0.5, 1.0)]
        return TrialOutcome(True, "ok", "", score, {}, curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=102, help="of the campaigns without faults, per model")
    parser.add_argument("--rounds", type=int, default=4, help="how often every fault is planted")
    parser.add_argument("--cache", type=Path, default=Path("runs") / "embedded_validity")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asyncio.run(_main(parser.parse_args()))


async def _main(asked: argparse.Namespace) -> None:
    compiling.TIMEOUT_S *= PATIENCE
    inner = SandboxLaboratory(ForkedSandbox(), memory_gib=3.0, cpus=1.0)
    laboratory = WithoutTraining(inner, Cache(asked.cache / "gated.jsonl"))
    try:
        plain = {}
        for name in (EMBEDDED_MODEL, RANDOM_MODEL):
            plain[name] = await _campaign(name, asked.experiments, laboratory, open_model(model=name))
            print(f"{name}: done", flush=True)
        faulty = Faulty(open_model())
        count = asked.rounds * len(FAULTS)
        repaired = await _campaign(EMBEDDED_MODEL, count + 2, laboratory, faulty)
    finally:
        await laboratory.close()
    table = _table(plain, repaired, faulty.planted)
    print(table)
    asked.output.write_text(table, encoding="utf-8")


async def _campaign(name: str, experiments: int, laboratory: WithoutTraining, model: ChatModel) -> Run:
    objective = ObjectiveConfig(tasks=TASKS, seeds=(0,), salt="")
    config = CampaignConfig(experiments=experiments, objective=objective, model=ModelConfig(name=name))
    try:
        return await campaign(config, model, laboratory)
    finally:
        await model.close()


def _table(plain: Mapping[str, Run], repaired: Run, planted: Sequence[str]) -> str:
    lines = [
        "# Programs of the embedded models: valid at once, and after repair",
        "",
        "Written by `benchmarks/embedded_validity.py`: whole campaigns at tier smoke with the real gates and without",
        "training. Intervals are 95 %.",
        "",
        "| model | programs | valid at the first attempt | repeats among them | refused for |",
        "|---|---|---|---|---|",
    ]
    for name, run in plain.items():
        first = [attempts[0] for attempts in _written(run)]
        refused = [one for one in first if one.startswith(("gate_failed", "malformed"))]
        repeats = sum(one.startswith("duplicate") for one in first)
        reasons = ", ".join(sorted(set(refused))) or "-"
        lines.append(
            f"| {name} | {len(first)} | {_share(len(first) - len(refused), len(first))} | {repeats} | {reasons} |"
        )
    by_fault: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    # A reproposal asks the coder again, and gets a fault again: experiments are matched by their first attempt.
    faults = iter(planted)
    for attempts in _written(repaired):
        fresh = 1 + sum(one.startswith("duplicate") for one in attempts[:-1])
        names = [next(faults) for _ in range(fresh)]
        by_fault[names[0]].append(attempts)
    counted = [attempts for one in by_fault.values() for attempts in one if attempts[0] != "accepted"]
    lines += ["", "| repairs allowed | valid in the end |", "|---|---|"]
    for k in range(1, REPAIRS + 1):
        lines.append(f"| {k} | {_share(sum('accepted' in one[: k + 1] for one in counted), len(counted))} |")
    lines += ["", "| planted fault | planted | refused by | repaired |", "|---|---|---|---|"]
    for fault in FAULTS:
        one = by_fault[fault]
        reasons = ", ".join(sorted({attempts[0].partition(": ")[2] or attempts[0] for attempts in one}))
        lines.append(f"| {fault} | {len(one)} | {reasons} | {sum('accepted' in attempts[1:] for attempts in one)} |")
    lines += [
        "",
        "A repair is shown the rejected program, the verdict and the hypothesis, as a language model is. The embedded",
        "coder can repair because it knows what it meant: where the text is not what it writes for the stated design,",
        "it writes the design again, and where it is, it makes the design smaller or simpler. So this says that the",
        "loop of gate, verdict and repair works, and little about how hard the faults are.",
    ]
    return "\n".join(lines) + "\n"


def _written(run: Run) -> list[tuple[str, ...]]:
    """The attempts of every proposal for which a program was written: not those whose hypothesis repeats another."""
    kept = (tuple(one for one in attempts if f": {GATE}/" not in one) for attempts in run.attempts[2:])
    return [attempts for attempts in kept if attempts]


def _share(good: int, of: int) -> str:
    interval = wilson(good, of)
    return f"**{100 * good / of:.1f} %** ({good} of {of}; {100 * interval.low:.1f} to {100 * interval.high:.1f})"


if __name__ == "__main__":
    main()
