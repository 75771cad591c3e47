"""The text levels of the identity ladder: what they cost beside other hashes, what they merge, what they catch.

Cost: programs of 250 and of 520 lines, put together from the definitions of the references and of random designs of
the embedded model's grammar. All hashes take turns on every program; CPU time of the thread, garbage collection off.
Merges: `benchmarks.identity_pairs`, programs that differ in what they do. Catches: `benchmarks.identity_copies`.
"""

import argparse
import ast
import gc
import platform
import random
import re
import statistics
import time
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

from benchmarks.honest import grammar_programs, references
from benchmarks.identity_copies import Copy, layout_copies, renamed_copies
from benchmarks.identity_pairs import Pair, different_pairs, observe
from evaluator.statistics import wilson
from memory.identity import l0
from memory.syntax import l1

_LENGTHS = {250: 0.2, 520: 0.5}  # lines: limit of the 99th percentile, ms


def regex_hash(source: str) -> str:
    """The literature's hash as published. Source: `uuid4` in ab/nn/util/Util.py of nn-dataset (LEMUR)."""
    return md5(re.sub(r"\s", "", source).encode(), usedforsecurity=False).hexdigest()


def tree_hash(source: str) -> str:
    """The plainest hash of a syntax tree."""
    return md5(ast.dump(ast.parse(source)).encode(), usedforsecurity=False).hexdigest()


OWN = "L0"
OTHERS: dict[str, Callable[[str], object]] = {"regex hash": regex_hash, "`ast.dump`": tree_hash, "L1": l1}


def sources() -> dict[str, str]:
    return dict(references()) | dict(grammar_programs(20))


def long_programs(lines: int, count: int, material: dict[str, str]) -> list[str]:
    """Programs of `lines` lines: whole definitions in random order, each as it is written, comments and all."""
    rng = random.Random(lines)
    blocks = sorted({block for source in material.values() for block in _blocks(source)})
    programs: list[str] = []
    while len(programs) < count:
        rng.shuffle(blocks)
        parts, left = ["import torch\nfrom torch import nn\nfrom torch.nn import functional as F"], lines - 3
        for block in blocks:
            length = block.count("\n") + 3
            if length <= left:
                parts.append(block)
                left -= length
        program = "\n\n\n".join(parts) + "\n" + "\n" * left
        if l1(program).key is not None:
            programs.append(program)
    return programs


def _blocks(source: str) -> list[str]:
    lines = source.split("\n")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes]


def costs(programs: list[str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call; the other hashes take every tenth turn, for a ratio of medians needs fewer calls."""
    found: dict[str, list[float]] = {name: [] for name in (OWN, *OTHERS)}
    gc.disable()
    try:
        for turn in range(rounds):
            gc.collect()
            for program in programs:
                found[OWN].append(_timed(l0, program))
                if turn % 10 == 0:
                    for name, function in OTHERS.items():
                        found[name].append(_timed(function, program))
    finally:
        gc.enable()
    return found


def _timed(function: Callable[[str], object], program: str) -> float:
    started = time.thread_time_ns()
    function(program)
    return (time.thread_time_ns() - started) / 1e6


def cost_table(material: dict[str, str], count: int, rounds: int) -> list[str]:
    rows = [
        "| program | hash | p50 ms | p99 ms | p99 asked for | " + " | ".join(f"{name} takes" for name in OTHERS) + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for lines, limit in _LENGTHS.items():
        programs = long_programs(lines, count, material)
        size = statistics.mean(len(program.encode()) for program in programs)
        found = costs(programs, rounds)
        for name, values in found.items():
            median, late = statistics.median(values), statistics.quantiles(values, n=100)[98]
            own = name == OWN
            ratios = [f"{statistics.median(found[other]) / median:.1f}x" if own else "" for other in OTHERS]
            asked = f"< {limit}" if own else ""
            program = f"{lines} lines, {size / 1000:.1f} kB"
            rows.append(f"| {program} | {name} | {median:.3f} | {late:.3f} | {asked} | {' | '.join(ratios)} |")
    return rows


def merge_table(pairs: list[Pair]) -> list[str]:
    """How many pairs of every kind each hash merges. A program without a key is merged with nothing."""
    same = [pair for pair in pairs if observe(pair.left) == observe(pair.right)]
    if same:
        raise AssertionError(f"{len(same)} pairs do not differ, the first: {same[0]}")
    rows = ["| difference | pairs | differences | L0 merges | L1 merges | literature's hash merges |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for kind in [*sorted({pair.kind for pair in pairs}), "all"]:
        own = [pair for pair in pairs if kind in (pair.kind, "all")]
        merged = [sum(_merged(function, pair) for pair in own) for function in (l0, _l1_key, regex_hash)]
        names = len({(pair.kind, pair.name) for pair in own})
        rows.append(f"| {kind} | {len(own)} | {names} | {merged[0]} | {merged[1]} | {merged[2]} |")
    return rows


def _l1_key(source: str) -> str | None:
    return l1(source).key


def _merged(function: Callable[[str], str | None], pair: Pair) -> bool:
    key = function(pair.left)
    return key is not None and key == function(pair.right)


def catch_table(copies: list[tuple[str, Copy]]) -> list[str]:
    rows = ["| copies | number | L0 | L1 | literature's hash |", "|---|---|---|---|---|"]
    for kind in [*sorted({(group, copy.kind) for group, copy in copies}), ("layout", ""), ("rewrites", "")]:
        own = [copy for group, copy in copies if group == kind[0] and kind[1] in (copy.kind, "")]
        cells = []
        for function in (l0, _l1_key, regex_hash):
            caught = sum(_merged(function, Pair("", "", "", copy.source, copy.copy)) for copy in own)
            rate = wilson(caught, len(own))
            cells.append(f"{caught / len(own):.0%} [{rate.low:.0%}, {rate.high:.0%}]")
        rows.append(f"| {kind[0]}: {kind[1] or 'all'} | {len(own)} | {' | '.join(cells)} |")
    return rows


def report(count: int, rounds: int) -> str:
    material = sources()
    copies = [("layout", copy) for copy in layout_copies(material)]
    copies += [("rewrites", copy) for copy in renamed_copies(material)]
    parts = [
        "# Text levels of the identity ladder",
        f"`python -m benchmarks.identity_text`. Python {platform.python_version()}, one thread; {count} programs of "
        f"each length, {rounds} calls of L0 on each, of the others a tenth, in turns; CPU time of the thread.",
        "## Cost",
        "Regex hash: the literature's MD5 of the text without whitespace, found by a pattern. `ast.dump`: MD5 of the "
        "plain syntax tree. L1: its canonical form. Asked for of L0: to be 10 times as fast as the first and 100 "
        "times as fast as a canonical tree. Nothing is remembered from one call to the next.",
        "\n".join(cost_table(material, count, rounds)),
        "## Pairs that differ in what they do",
        "Each difference is set into up to four surroundings, and every pair was run and seen to differ.",
        "\n".join(merge_table(different_pairs())),
        "## Copies that mean the same", "With Wilson intervals at 95 %.", "\n".join(catch_table(copies)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    settings = parser.parse_args()
    page = report(settings.programs, settings.rounds)
    print(page, end="")
    if settings.output:
        settings.output.write_text(page)


if __name__ == "__main__":
    main()
