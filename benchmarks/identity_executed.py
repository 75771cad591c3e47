"""What the levels of the identity ladder merge, wrongly merge and cost, on labelled pairs of programs.

    python -m benchmarks.identity_executed [--references NAMES] [--output benchmarks/identity_executed.md]

Pairs: `benchmarks.identity_labelled`. Every program is hashed once at each level, all in one warm process with one
torch thread. Rates have Wilson 95 % intervals over pairs; pairs made from one reference or by one change are not
independent, so the intervals are narrower than the truth. Costs are wall and CPU time per program: on a busy machine
the CPU time is the better figure.
"""

import argparse
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import identity_labelled
from benchmarks.identity_labelled import Pair, pairs
from evaluator import tiers
from evaluator.statistics import wilson
from evaluator.tracing import function, levels
from memory.identity import l0
from memory.syntax import l1

TIER = "smoke"
LEVELS = ("L0", "L1", "L2", "L3")
LIMITS_MS = {"L0": None, "L1": 25, "L2": 100, "L3": 1000}
_WARM_UP = 3
_MARGIN_PAIRS = 25


def executed(level: str) -> Callable[[str], str | None]:
    """A level's key in this process, None where it does not apply."""

    def key(source: str) -> str | None:
        found = levels.run_identities(source, "sequence", TIER, [level])["identities"][level]
        if found["key"] is None:
            refusals[f"{level}: {found['reason'][:90]}"] += 1
        return found["key"]  # type: ignore[no-any-return]

    return key


refusals: Counter[str] = Counter()
KEYS: dict[str, Callable[[str], str | None]] = {
    "L0": l0, "L1": lambda source: l1(source).key, "L2": executed("l2"), "L3": executed("l3"),
}  # fmt: skip


def hashed(sources: Sequence[str]) -> tuple[dict[str, dict[str, str | None]], dict[str, list[tuple[float, float]]]]:
    """Keys by level and source, and (wall, CPU) milliseconds by level."""
    keys: dict[str, dict[str, str | None]] = {level: {} for level in LEVELS}
    costs: dict[str, list[tuple[float, float]]] = {level: [] for level in LEVELS}
    for number, source in enumerate([*sources[:_WARM_UP], *sources]):
        for level, key in KEYS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            keys[level][source] = key(source)
            spent = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
            if number >= _WARM_UP:
                costs[level].append(spent)
    return keys, costs


def merged(pair: Pair, keys: Mapping[str, str | None]) -> bool:
    """Whether a level calls the two the same."""
    return keys[pair.one] is not None and keys[pair.one] == keys[pair.other]


def rate(hits: int, of: int) -> str:
    """A share in percent with its Wilson 95 % interval."""
    if not of:
        return "none"
    interval = wilson(hits, of)
    return f"{hits} of {of}: {100 * hits / of:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def margins(labelled: Sequence[Pair]) -> tuple[float, float]:
    """The largest difference of an unrounded number of L3 between rewrites, and the smallest largest one between
    changed programs whose shapes and initialisations are alike. Relative to each tensor's norm."""
    digits = function._DIGITS
    function._DIGITS = 15
    tier, agree, differ = tiers.get("sequence", TIER), 0.0, float("inf")
    memo: dict[str, list[Any]] = {}

    def numbers(source: str) -> list[Any]:
        if source not in memo:
            memo[source] = function.function_numbers(source, tier)
        return memo[source]

    try:
        for pair in labelled:
            one, other = numbers(pair.one), numbers(pair.other)
            gap = distance(one[3:], other[3:])
            if pair.same and one[:3] == other[:3] and gap is not None:
                agree = max(agree, gap)
            elif not pair.same and one[:3] == other[:3] and gap is not None:
                differ = min(differ, gap)
    finally:
        function._DIGITS = digits
    return agree, differ


def distance(one: Any, other: Any) -> float | None:
    """The largest difference between the numbers in two nested lists; None if something else differs."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [distance(a, b) for a, b in zip(one, other, strict=True)]
        return None if None in parts else max((p for p in parts if p is not None), default=0.0)
    try:
        a, b = float(one), float(other)
    except (TypeError, ValueError):
        return 0.0 if one == other else None
    return abs(a - b) / max(1.0, abs(a)) if isinstance(one, str) else abs(a - b)


def report(labelled: Sequence[Pair]) -> str:
    """The tables as Markdown."""
    sources = sorted({source for pair in labelled for source in (pair.one, pair.other)})
    keys, costs = hashed(sources)
    same, different = [p for p in labelled if p.same], [p for p in labelled if not p.same]
    lines = [
        "# Identity levels on labelled pairs",
        "",
        f"{len(labelled)} pairs from {len(identity_labelled.REFERENCES)} references: {len(same)} rewrites and "
        f"{len(different)} changed programs; {len(sources)} programs. Tier {TIER}, {platform.machine()}, torch "
        f"{torch.__version__}, one thread, load {os.getloadavg()[0]:.1f}. Wilson 95 % intervals over pairs.",
        "",
        "| level | rewrites merged | changed programs merged | median wall | median CPU | p95 CPU | limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for level in LEVELS:
        hit = [rate(sum(merged(p, keys[level]) for p in group), len(group)) for group in (same, different)]
        wall, cpu = ([cost[i] for cost in costs[level]] for i in (0, 1))
        limit = LIMITS_MS[level]
        shown = [f"{statistics.median(v):.3g} ms" for v in (wall, cpu)] + [
            f"{sorted(cpu)[int(0.95 * len(cpu))]:.3g} ms"
        ]
        lines.append(f"| {level} | {' | '.join([*hit, *shown])} | {f'{limit} ms' if limit else '-'} |")
    seen = [any(merged(p, keys[level]) for level in LEVELS) for p in same]
    lines += ["", f"Rewrites merged at some level: {rate(sum(seen), len(same))}.", ""]
    agree, differ = margins(
        [*same[:: max(1, len(same) // _MARGIN_PAIRS)], *different[:: max(1, len(different) // _MARGIN_PAIRS)]]
    )
    lines += [
        f"L3's numbers before rounding, on every {max(1, len(same) // _MARGIN_PAIRS)}th pair: rewrites differ by at "
        f"most {agree:.1e}; changed programs of the same shapes and initialisation by at least {differ:.1e}.",
        "",
        *by_change(same, keys, "Rewrites"),
        *by_change(different, keys, "Changes"),
    ]
    if refusals:
        lines += ["", "No key:", *(f"- {count} x {why}" for why, count in refusals.most_common())]
    return "\n".join(lines) + "\n"


def by_change(labelled: Sequence[Pair], keys: Mapping[str, Mapping[str, str | None]], title: str) -> list[str]:
    """How many pairs of each change every level merges."""
    lines = [f"| {title} | pairs | {' | '.join(LEVELS)} |", "|---|---|---|---|---|---|"]
    for change in dict.fromkeys(pair.change for pair in labelled):
        group = [pair for pair in labelled if pair.change == change]
        counts = [str(sum(merged(pair, keys[level]) for pair in group)) for level in LEVELS]
        lines.append(f"| {change} | {len(group)} | {' | '.join(counts)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", default="", help="some of them, by commas")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.references:
        identity_labelled.REFERENCES = tuple(arguments.references.split(","))
    text = report(pairs())
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
