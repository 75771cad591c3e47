"""Does the embedded model search? Campaigns of it and of the random control, at equal budgets, with real training.

Campaigns of both arms start from the same two weak programs and run the loop of `move37 run`: gates, identities,
selection, prompts, analyses. Each of them is trained on the tasks of the objective, one seed. A trial is trained once
and remembered on disk (`benchmarks.embedded_campaigns`), so a run that was stopped goes on where it was.

What is reported of a campaign is what its search saw: the best of 40 scores on selection data. Winners are trained
again under seeds and data that no search saw, which shows how much of the gain was luck.

`flat` is an ablation: the embedded model without its priors from the literature.
"""

import argparse
import asyncio
import platform
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from agents.contexts import Message
from agents.embedded.model import answer
from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL
from agents.gateway import ChatModel, Completion, ModelKind
from agents.opening import open_model
from benchmarks.embedded_campaigns import Cache, MemoisingLaboratory, Run, campaign, fresh_score, retrained
from benchmarks.forked import PATIENCE, ForkedSandbox
from evaluator import compiling
from evaluator.statistics import expected_best_of, mean_interval, paired_difference
from evaluator.trial import TrialRequest
from move37.config import CampaignConfig, ModelConfig, ObjectiveConfig, SearchConfig
from move37.laboratory import SandboxLaboratory
from sandbox.process import ProcessSandbox

ARMS = {"grammar": EMBEDDED_MODEL, "random": RANDOM_MODEL, "flat": EMBEDDED_MODEL}
TASKS = ("selective_copying",)
FRESH_SEEDS = (101, 102, 103)
STARTERS = 2
CACHE = Path("runs") / "embedded_against_random"
OUTPUT = Path(__file__).with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="campaigns of every arm")
    parser.add_argument("--experiments", type=int, default=40, help="of every campaign, starters included")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=["grammar", "random"])
    parser.add_argument("--cache", type=Path, default=CACHE, help="what was trained before")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only-cache", action="store_true", help="train for the cache, write no table")
    asyncio.run(_main(parser.parse_args()))


async def _main(asked: argparse.Namespace) -> None:
    cache = Cache(asked.cache / "trained.jsonl")
    laboratory = MemoisingLaboratory(SandboxLaboratory(ForkedSandbox(), memory_gib=3.0, cpus=1.0), cache)
    compiling.TIMEOUT_S *= PATIENCE
    began = time.monotonic()
    try:
        runs: dict[str, list[Run]] = {arm: [] for arm in asked.arms}
        for seed in range(asked.seeds):
            for arm in asked.arms:
                runs[arm].append(await _run(arm, seed, asked, laboratory))
                run = runs[arm][-1]
                print(
                    f"{time.monotonic() - began:7.0f} s  {arm} {seed}: best {run.best:.4f}, "
                    f"trained {laboratory.trained} so far; {run.design}",
                    flush=True,
                )
        if asked.only_cache:
            return
        again = await _repeats(runs, asked, laboratory)
        request = TrialRequest("sequence", "smoke", asked.tasks[0], 0)
        usual = SandboxLaboratory(ProcessSandbox(), memory_gib=3.0, cpus=1.0)
        same = await retrained(usual, cache, runs, request, 4)
        await usual.close()
        fresh = {arm: [await _fresh(run, asked, laboratory) for run in one] for arm, one in runs.items()}
    finally:
        await laboratory.close()
    table = _table(runs, fresh, asked, again, same, cache)
    print(table)
    asked.output.write_text(table, encoding="utf-8")


class Uninformed:
    """The embedded model without its priors. A `ChatModel`."""

    name = EMBEDDED_MODEL
    kind: ModelKind = "grammar"

    def __init__(self, inner: ChatModel) -> None:
        self._inner = inner

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        found = await self._inner.complete(messages, schema=schema, seed=seed, deadline_s=deadline_s)
        return replace(found, text=answer(messages, seed, informed=False))

    async def close(self) -> None:
        await self._inner.close()


def config(arm: str, seed: int, tasks: Sequence[str], experiments: int) -> CampaignConfig:
    return CampaignConfig(
        experiments=experiments,
        seed=seed,
        objective=ObjectiveConfig(tasks=tuple(tasks), seeds=(0,), salt=""),
        model=ModelConfig(name=ARMS[arm]),
        search=SearchConfig(modes=("improve",)),  # the searchers themselves: modes would restrict one and not the other
    )


async def _run(arm: str, seed: int, asked: argparse.Namespace, laboratory: MemoisingLaboratory) -> Run:
    model: ChatModel = open_model(model=ARMS[arm])
    if arm == "flat":
        model = Uninformed(model)
    try:
        return await campaign(config(arm, seed, asked.tasks, asked.experiments), model, laboratory)
    finally:
        await model.close()


async def _repeats(
    runs: Mapping[str, Sequence[Run]], asked: argparse.Namespace, laboratory: MemoisingLaboratory
) -> bool:
    """Whether the first campaign of every arm, run again, makes the same experiments."""
    return all([await _run(arm, 0, asked, laboratory) == one[0] for arm, one in runs.items()])


async def _fresh(run: Run, asked: argparse.Namespace, laboratory: MemoisingLaboratory) -> float:
    scores = [
        await fresh_score(laboratory, run.winner, TrialRequest("sequence", "smoke", task, 0), FRESH_SEEDS)
        for task in asked.tasks
    ]
    return statistics.fmean(scores)


def _table(
    runs: Mapping[str, Sequence[Run]],
    fresh: Mapping[str, Sequence[float]],
    asked: argparse.Namespace,
    again: bool,
    same: tuple[int, int],
    cache: Cache,
) -> str:
    n, half = asked.experiments, asked.experiments // 2
    lines = [
        "# The embedded model against the random control",
        "",
        f"Written by `benchmarks/embedded_against_random.py`; tier smoke, {', '.join(asked.tasks)}, one seed of "
        f"training per program;\n{asked.seeds} campaigns of {n} experiments per arm, {STARTERS} of them starters; "
        f"{platform.machine()}, torch {version('torch')}.",
        "",
        "Score: the best curve score of a campaign, on selection data, as its search saw it. Fresh: its program under "
        f"seeds {', '.join(map(str, FRESH_SEEDS))}\nand claim data. Intervals are 95 %.",
        "",
        "| arm | score | fresh | after half the experiments | trained | repeats | refused or failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, one in runs.items():
        best, again_fresh = [run.best for run in one], fresh[arm]
        at_half = [run.best_after(half) for run in one]
        statuses = Counter(status.partition(":")[0] for run in one for status in run.statuses)
        lines.append(
            f"| {arm} | {_interval(best)} | {_interval(again_fresh)} | {_interval(at_half)} | "
            f"{statuses['completed']} | {statuses['duplicate']} | {statuses['rejected'] + statuses['failed']} |"
        )
    if {"grammar", "random"} <= runs.keys():
        lines += ["", *_comparison(runs, fresh, n)]
    lines += ["", "## Campaigns", "", "| seed | " + " | ".join(f"{arm}, fresh, best design" for arm in runs) + " |"]
    lines.append("|---|" + "---|" * len(runs))
    for seed in range(asked.seeds):
        cells = [f"{one[seed].best:.3f}, {fresh[arm][seed]:.3f}, `{one[seed].design}`" for arm, one in runs.items()]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    trained = len(cache.trials())
    lines += [
        "",
        f"The first campaign of every arm, run again, made the same experiments: {'yes' if again else '**no**'}. "
        f"{same[0]} of {same[1]} winners, trained again in the process sandbox, scored the same to the last bit. "
        f"{trained} trials were trained in all.",
        "",
        "The embedded model's priors follow the literature on such tasks, so part of its lead is reading and not",
        "search; the arm `flat` (`--arms grammar random flat`) is the same searcher without them. Its constants were",
        "set on made-up scores, some of them against the priors; the scores of this table took no part in that. Both",
        "arms are asked for improvements only (`search.modes`): other modes would restrict one and not the other. One",
        "seed of training per program means that a campaign's best is partly the luckiest: hence the column `fresh`.",
    ]
    return "\n".join(lines) + "\n"


def _comparison(runs: Mapping[str, Sequence[Run]], fresh: Mapping[str, Sequence[float]], n: int) -> list[str]:
    ours, blind = runs["grammar"], runs["random"]
    gain = paired_difference([run.best for run in ours], [run.best for run in blind])
    fresh_gain = paired_difference(fresh["grammar"], fresh["random"])
    needed = [run.first_at_least(other.best) for run, other in zip(ours, blind, strict=True)]
    reached = sorted(count for count in needed if count is not None)
    mean = statistics.fmean(run.best for run in blind)
    curve = [statistics.fmean(run.best_after(k) for run in ours) for k in range(1, n + 1)]
    crossing = next((k for k, value in enumerate(curve, 1) if value >= mean), None)
    pool = [score for run in blind for score in run.scores[STARTERS:] if score is not None]
    wins = sum(run.best > other.best for run, other in zip(ours, blind, strict=True))
    lines = [
        f"- Grammar minus random: **{gain.interval.estimate:+.3f}** "
        f"({gain.interval.low:+.3f} to {gain.interval.high:+.3f}; p = {gain.p or 0:.4f}), "
        f"better in {wins} of {len(ours)}.",
        f"- The same of the winners under fresh seeds: **{fresh_gain.interval.estimate:+.3f}** "
        f"({fresh_gain.interval.low:+.3f} to {fresh_gain.interval.high:+.3f}).",
        f"- The random arm's best of {n}, of the same seed, was reached in {len(reached)} of {len(ours)} campaigns, by "
        f"{sum(count <= n // 2 for count in reached)} within {n // 2} experiments"
        + (f" (median {statistics.median(reached):g})." if reached else "."),
        f"- The mean best of the embedded model passed the random arm's final mean ({mean:.3f}) after "
        f"**{crossing if crossing else 'more than ' + str(n)}** experiments.",
        f"- Expected best of k random programs, out of the {len(pool)} drawn: "
        + ", ".join(f"{expected_best_of(pool, k):.3f} (k = {k})" for k in (1, 5, 10, 20, 38, 100) if k <= len(pool))
        + f"; the best of all {max(pool):.3f}.",
    ]
    lines += ["", "| mean best after | " + " | ".join(str(k) for k in _STEPS if k <= n) + " |"]
    lines.append("|---|" + "---|" * sum(k <= n for k in _STEPS))
    for arm, one in runs.items():
        cells = [f"{statistics.fmean(run.best_after(k) for run in one):.3f}" for k in _STEPS if k <= n]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


_STEPS = (2, 5, 10, 15, 20, 25, 30, 35, 40)


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    found = mean_interval(values)
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    main()
