"""What the gate ladder stops, whom it accuses wrongly, and what it costs.

Planted programs, each wrong in one way, at the smoke tier: the static gates, the dynamic ones, and for those that wait
for training a real training followed by the probe of the trained model. False alarms over all references and over
random designs of the embedded model's grammar. Every program runs in a forked process of its own, with limits.
CPU-seconds exclude start-up and imports, which a warm worker has behind it.
"""

import argparse
import json
import os
import resource
import select
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.honest import grammar_programs, references
from benchmarks.planted import PLANTED, Planted
from evaluator import tiers
from evaluator.gates import trained
from evaluator.gates.fake import fake_build
from evaluator.gates.ladder import run_gates
from evaluator.gating import DYNAMIC_GATES
from evaluator.program import CandidateError, load
from evaluator.skeleton import build_model
from evaluator.static_gate import static_gates
from evaluator.tasks import streams
from evaluator.trainer import train

TRACK, TIER, TASK = "sequence", "smoke", "recall"
_MEMORY_BYTES = 8 << 30
_DEADLINE_S = 120.0
_MINIMAL = "import torch\ndef build_mixer(d, i, n): return torch.nn.Linear(d, d)\n"


def climb(source: str) -> dict[str, Any]:
    """Static and dynamic gates: where it stopped (gate None: nowhere), warnings, CPU-seconds by gate."""
    seconds: dict[str, float] = {}
    last = static_gates(source)[-1]
    if not last.passed:
        return {"gate": last.gate, "reason": last.reason, "stage": "static", "seconds": seconds, "warnings": []}
    report = run_gates(source, TRACK, TIER, seconds=seconds)
    verdict = report["verdicts"][-1]
    gate = None if verdict["passed"] else verdict["gate"]
    return {"gate": gate, "reason": verdict["reason"], "stage": "gates", "seconds": seconds,
            "warnings": report["warnings"], "message": verdict["message"]}  # fmt: skip


def trained_probe(source: str) -> dict[str, Any]:
    """A whole training run, then the probe of the trained model."""
    tier = tiers.get(TRACK, TIER).for_task(TASK)
    task = tier.task(TASK)
    builder, kind = load(source)
    model, _ = build_model(builder, kind, tier, task.vocabulary, seed=0)
    words = {role: streams.words(role, task=TASK, seed=0, data="selection") for role in ("train", "table")}
    train(model, tier, TASK, words["train"], task.table(streams.generator(words["table"])), lambda *_: None)
    started = time.thread_time()
    try:
        trained.probe(model, tier)
    except CandidateError as error:
        return {"reason": error.reason, "probe_s": time.thread_time() - started}
    return {"reason": "ok", "probe_s": time.thread_time() - started}


def apart(work: Callable[[str], dict[str, Any]], source: str) -> dict[str, Any]:
    """`work(source)` in a forked process. One that dies or outlasts its deadline answers nothing: `{}`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        os.write(writing, json.dumps(work(source)).encode())
        os._exit(0)
    os.close(writing)
    answer = b""
    ready, _, _ = select.select([reading], [], [], _DEADLINE_S)
    if ready:
        answer = os.read(reading, 1 << 16)
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    return dict(json.loads(answer)) if answer else {}


def judge(planted: Planted) -> tuple[str, bool]:
    """Where a planted program was stopped, and whether that is where and why it should be."""
    found = apart(climb, planted.source)
    if found.get("gate") is None and planted.stage in ("trained", "audit") and found:
        reason = apart(trained_probe, planted.source).get("reason", "died")
        return ("not caught" if reason == "ok" else "trained model"), reason == planted.reason
    return found.get("gate") or "not caught", (found.get("gate"), found.get("reason")) == (planted.gate, planted.reason)


def planted_table() -> None:
    where: Counter[str] = Counter()
    surprises = []
    for planted in PLANTED:
        stopped, expected = judge(planted)
        where[stopped] += 1
        if not expected:
            surprises.append(f"{planted.name} ({planted.stage}): {stopped}")
    caught = sum(where.values()) - where["not caught"]
    for_gates = [planted for planted in PLANTED if planted.stage != "audit"]
    print(f"Caught {caught} of {len(PLANTED)} planted programs; {len(for_gates)} are for these checks to catch.\n")
    print("| stopped by | programs |\n|---|---|")
    for name, number in sorted(where.items(), key=lambda item: -item[1]):
        print(f"| {name} | {number} |")
    print(f"\nOtherwise than expected: {'; '.join(surprises) or 'none'}.\n")


def honest_table(designs: int) -> None:
    groups = {"references": list(references()), f"grammar ({designs} designs)": list(grammar_programs(designs))}
    print("| honest programs | rejected | warned | CPU-s without learning: median, p90 | with it: median, p90 |")
    print("|---|---|---|---|---|")
    everything: list[dict[str, float]] = []
    rejected = []
    for title, programs in groups.items():
        found = [(name, apart(climb, source)) for name, source in programs]
        refused = [(name, one) for name, one in found if one.get("gate") or not one]
        rejected += [f"{name}: {one.get('gate')} {one.get('message')}" for name, one in refused]
        seconds = [one["seconds"] for _, one in found if one]
        warned = sum(bool(one.get("warnings")) for _, one in found)
        without = [sum(value for gate, value in one.items() if gate != "learning") for one in seconds]
        whole = [sum(one.values()) for one in seconds]
        print(f"| {title} | {len(refused)} of {len(found)} | {warned} | {_spread(without)} | {_spread(whole)} |")
        everything += seconds
    print("\n| gate | median ms | p90 ms | share of the whole |\n|---|---|---|---|")
    total = sum(sum(one.values()) for one in everything)
    for gate in DYNAMIC_GATES:
        values = [one[gate] for one in everything if gate in one]
        share = sum(values) / total
        print(f"| {gate} | {1e3 * statistics.median(values):.1f} | {1e3 * _p90(values):.1f} | {share:.0%} |")
    for line in rejected:
        print(f"\nRejected: {line}")


def _p90(values: Sequence[float]) -> float:
    return sorted(values)[int(0.9 * (len(values) - 1))]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}, {_p90(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", type=int, default=200)
    designs = parser.parse_args().designs
    torch.set_num_threads(1)
    run_gates(_MINIMAL, TRACK, TIER)  # imports and first calls, once for all the forks
    fake_build(_MINIMAL, tiers.get(TRACK, TIER))
    planted_table()
    honest_table(designs)


if __name__ == "__main__":
    main()
