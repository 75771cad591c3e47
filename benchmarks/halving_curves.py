"""Records the learning curves that successive halving is replayed on: 24 programs, three tasks, one seed.

Candidates: reference programs, and random walks through the embedded grammar's own changes, from a random core. They
were fixed before any curve was seen. Every trial takes the path of a campaign's trial: gates, its own worker process,
frames over pipes, labels on the host. A drawn program that a gate or an audit rejects is replaced by the next one, as a
campaign would halve only what can be trained; the file says how many were.

What is stored is raw: accuracy and loss at 10, 25, 50 and 100 % of the steps, and the seconds that training took.
"""

import asyncio
import json
import platform
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents.embedded.changes import CORES, MINOR_CORES, changes
from agents.embedded.genome import Mixer, design_text, leaf, per_layer
from agents.embedded.library import catalogue_library
from agents.embedded.render import Heading, program
from evaluator import catalogue, tiers
from evaluator.gating import gate_phases, read_gate_reply
from evaluator.objective import SCORER_VERSION, objective_hash
from evaluator.trial import TrialRequest, score_trial, trial_phases
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job

TRACK, TIER, SEED = "sequence", "smoke", 0
TASKS = ("recall", "mqar", "selective_copying")
REFERENCES = (
    "attention_with_convolution",
    "gated_delta_net",
    "delta_net",
    "linear_attention_with_convolution",
    "softmax_attention",
    "gated_linear_attention",
    "gated_recurrence",
    "diagonal_ssm",
)
RANDOM = 16
MOST_CHANGES = 4
WALK_SEED = 20
RECORDED = Path(__file__).with_name("data") / "halving_curves.json"


@dataclass(frozen=True)
class Candidate:
    name: str
    design: str
    source: str


def candidates() -> Iterator[Candidate]:
    """The references, then random programs without end, no design twice."""
    for name in REFERENCES:
        yield Candidate(name, "reference", catalogue.source(name))
    rng = random.Random(WALK_SEED)
    seen: set[tuple[str, ...]] = set()
    number = 0
    while True:
        mixer = _walk(rng)
        key = per_layer(mixer, tiers.get(TRACK, TIER).n_layers)
        if key in seen:
            continue
        seen.add(key)
        number += 1
        heading = Heading(f"Random walk {number}", "Drawn at random from the grammar.", "Starts a line of its own.")
        yield Candidate(f"walk_{number:02d}", design_text(mixer), program(mixer, heading, catalogue_library()))


def _walk(rng: random.Random) -> Mixer:
    """A random core, and one to four of the grammar's changes, each drawn evenly."""
    tier = tiers.get(TRACK, TIER)
    mixer = Mixer(leaf(rng.choice((*CORES, *MINOR_CORES))))
    for _ in range(rng.randint(1, MOST_CHANGES)):
        mixer = rng.choice(changes(mixer, [], tier.d_model, tier.n_layers)).mixer
    return mixer


def record(out: Path = RECORDED) -> None:
    """Trains until there are enough candidates, and writes the file."""
    data = asyncio.run(_recorded())
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}", file=sys.stderr)


async def _recorded() -> dict[str, Any]:
    sandbox = ProcessSandbox()
    kept: dict[str, Any] = {}
    rejected: dict[str, str] = {}
    for candidate in candidates():
        if len(kept) == len(REFERENCES) + RANDOM:
            break
        curves = await _curves(sandbox, candidate)
        if isinstance(curves, str):
            rejected[candidate.name] = curves
            print(f"{candidate.name}: {curves}", flush=True)
            continue
        kept[candidate.name] = {"design": candidate.design, "tasks": curves}
        ends = " ".join(f"{task} {one['accuracy'][-1]:.2f}" for task, one in curves.items())
        print(f"{candidate.name}: {ends}", flush=True)
    tier = tiers.get(TRACK, TIER)
    return {
        "track": TRACK,
        "tier": TIER,
        "seed": SEED,
        "scorer": SCORER_VERSION,
        "objective": objective_hash(TRACK, TIER, TASKS, [SEED]),
        "measured_with": f"{platform.machine()}, one thread per trial, Python {platform.python_version()}, "
        f"torch {version('torch')}",
        "fractions": list(tiers.FRACTIONS),
        "chance": {task: tier.task(task).chance for task in TASKS},
        "rejected": rejected,
        "candidates": kept,
    }


async def _curves(sandbox: ProcessSandbox, candidate: Candidate) -> dict[str, Any] | str:
    """Curves by task, or why the candidate cannot be trained."""
    outcome = await sandbox.run(Job(f"{candidate.name}: gates", gate_phases(candidate.source, track=TRACK, tier=TIER)))
    if not outcome.completed:
        return f"gates {outcome.reason}"
    report = read_gate_reply(outcome.replies[0])
    if report.first_failure is not None:
        return f"gate {report.first_failure.reason}"
    curves: dict[str, Any] = {}
    for task in TASKS:
        request = TrialRequest(TRACK, TIER, task, SEED)
        outcome = await sandbox.run(Job(f"{candidate.name}: {task}", trial_phases(candidate.source, request)))
        if not outcome.completed:
            return f"{task} {outcome.reason}"
        result = score_trial(request, outcome.replies, outcome.phase_wall_s)
        if result.status != "ok":
            return f"{task} {result.reason}"
        curves[task] = {
            "accuracy": [round(point["accuracy"], 6) for point in result.curve],
            "loss": [round(point["loss"], 6) for point in result.curve],
            "train_s": round(outcome.phase_wall_s[0], 2),
        }
    return curves
