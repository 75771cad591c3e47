"""How much of a training step is spent inside torch, and what the rest is, reference by reference.

Usage, from the repository's root:
    python -m benchmarks.torch_share [--steps 30] [--tier smoke] [--tasks ...] [--only NAME ...]

`evaluator.trainer.train` itself runs, one thread, on real tasks, three times per reference and task:
1. as it is, with a clock around the generator of batches and around the optimiser;
2. with a clock around every outermost call of a torch function, operators and `backward` included. The clock's own
   time falls between calls and the share is of the time of run 1, so it is neither too low nor too high by much;
3. under torch's profiler: self time of all it reports (operations and the C++ of autograd) over the profiled time. The
   profiler lengthens what lies between operations, so this share is too low: a lower bound that knows no Python of
   torch's own.

All three begin with the first batch: what comes before (flattening the parameters) is paid once
per run and stands in a column of its own. Times are CPU seconds but for run 3, where a busy machine stretches both
sides alike.
Not covered: threads, accelerators, what an operation itself wastes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from benchmarks.reference_mixers import machine
from evaluator import catalogue, tiers, trainer
from evaluator.program import load
from evaluator.skeleton import build_model
from evaluator.tasks import streams
from evaluator.tiers import Tier
from evaluator.warmup import one_step

TRACK = "sequence"
TARGET = 0.85
_WARM_UP_STEPS = 5
_ROUNDS = 2  # of each measurement; the faster one counts


@dataclass(frozen=True)
class Shares:
    """One reference on one task: milliseconds, then shares of a step's time, then a ratio."""

    once_ms: float
    step_ms: float
    calls: float
    profiled: float
    aten: float
    data: float
    optimiser: float
    profiler_slowdown: float


class Clock:
    """Seconds spent in parts of a run, from the first batch to the last step."""

    def __init__(self, at_start: Callable[[], None] = lambda: None) -> None:
        self._at_start = at_start
        self.data_s = self.optimiser_s = self.cpu_s = self.wall_s = self.before_s = 0.0

    def batches(self, original: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        source = original(*arguments)
        self._at_start()
        started, wall = time.process_time(), time.perf_counter()
        self.before_s = started - self.before_s
        while True:
            began = time.process_time()
            batch = next(source, None)
            self.data_s += time.process_time() - began
            if batch is None:
                self.cpu_s, self.wall_s = time.process_time() - started, time.perf_counter() - wall
                return
            yield batch

    def optimise(self, original: Callable[..., None], *arguments: Any) -> None:
        began = time.process_time()
        original(*arguments)
        self.optimiser_s += time.process_time() - began

    def time(self, run: Callable[[int], None], steps: int) -> "Clock":
        with self.running():
            self.before_s = time.process_time()
            run(steps)
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """The trainer's generator and optimiser go through this clock."""
        batches, step = trainer.batches, trainer.Optimiser.step
        trainer.batches = lambda *arguments: self.batches(batches, *arguments)
        trainer.Optimiser.step = lambda *arguments: self.optimise(step, *arguments)  # type: ignore[method-assign]
        try:
            yield
        finally:
            trainer.batches = batches
            trainer.Optimiser.step = step  # type: ignore[method-assign]


class CallClock(TorchFunctionMode):
    """CPU seconds inside outermost calls of torch functions: the mode is off while one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self.inside_s = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        began = time.process_time()
        out = func(*args, **kwargs)
        self.inside_s += time.process_time() - began
        return out


def prepared(name: str, tier: Tier, task_name: str) -> Callable[[int], None]:
    """A function that trains a fresh model of the reference for so many steps."""
    task = tier.task(task_name)
    model, _ = build_model(*load(catalogue.source(name)), tier, task.vocabulary, seed=0)
    stream = streams.words("train", task=task_name, seed=0, data="selection")
    table = task.table(streams.generator(streams.words("table", task=task_name, seed=0, data="selection")))

    def run(steps: int) -> None:
        trainer.train(model, tier, task_name, stream, table, lambda *_: None, steps=steps)

    run(_WARM_UP_STEPS)
    return run


def measure(name: str, tier: Tier, task_name: str, steps: int) -> Shares:
    run = prepared(name, tier.for_task(task_name), task_name)
    plain = min((Clock().time(run, steps) for _ in range(_ROUNDS)), key=lambda clock: clock.cpu_s)
    calls = max(_inside_calls(run, steps) for _ in range(_ROUNDS))
    inside, aten, clock = min((_profiled(run, steps) for _ in range(_ROUNDS)), key=lambda found: found[2].cpu_s)
    return Shares(
        once_ms=1e3 * plain.before_s,
        step_ms=1e3 * plain.cpu_s / steps,
        calls=calls,
        profiled=inside / clock.wall_s,
        aten=aten / clock.wall_s,
        data=plain.data_s / plain.cpu_s,
        optimiser=plain.optimiser_s / plain.cpu_s,
        profiler_slowdown=clock.cpu_s / plain.cpu_s,
    )


def _inside_calls(run: Callable[[int], None], steps: int) -> float:
    """Share of CPU time inside torch functions, from the first batch to the last step of one and the same run."""
    with CallClock() as calls:
        clock = Clock(calls.restart).time(run, steps)
    return calls.inside_s / clock.cpu_s


def _profiled(run: Callable[[int], None], steps: int) -> tuple[float, float, Clock]:
    """Seconds in everything torch reports, and in `aten` operations; and how long the run took."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        clock = Clock().time(run, steps)
    events = profiler.key_averages()
    inside = sum(event.self_cpu_time_total for event in events) / 1e6
    aten = sum(event.self_cpu_time_total for event in events if event.key.startswith("aten::")) / 1e6
    return inside, aten, clock


def median(found: Sequence[Shares]) -> Shares:
    """Field by field."""
    return Shares(*(statistics.median(values) for values in zip(*map(astuple, found), strict=True)))


def table(rows: dict[str, Shares], *, tier: str, tasks: Sequence[str], steps: int) -> str:
    everything = median(list(rows.values()))
    verdict = "met" if everything.calls >= TARGET else "missed"
    lines = [
        f"# Time inside torch during training at tier `{tier}`",
        "",
        f"Written by `benchmarks/torch_share.py`; {machine()};",
        f"{steps} steps, best of {_ROUNDS} rounds, median over {', '.join(tasks)}.",
        "",
        f"At the median reference **{everything.calls:.1%}** of the time is spent inside torch (target {TARGET:.0%}: "
        f"{verdict}).",
        "",
        "Once: CPU time before the first step of a run. Torch calls: inside calls of torch functions, which are",
        "intercepted, and that adds to the rest: a lower bound.",
        "Profiled: the lower bound by torch's profiler, which lengthens what lies between operations by the factor in",
        "the last column; `aten` are the operations alone, without the C++ of autograd. Data and optimiser: shares of",
        "the step at plain speed (the optimiser is torch too).",
        "",
        "| reference | once, ms | ms/step | torch calls | profiled | `aten` | data | optimiser | profiler slows by |",
        "|---" * 9 + "|",
    ]
    for name, row in [*sorted(rows.items(), key=lambda item: -item[1].calls), ("**median**", everything)]:
        shares = " | ".join(f"{getattr(row, one.name):.1%}" for one in fields(Shares)[2:-1])
        lines.append(f"| {name} | {row.once_ms:.0f} | {row.step_ms:.1f} | {shares} | {row.profiler_slowdown:.2f}x |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tier", default="smoke", choices=tiers.names(TRACK))
    parser.add_argument("--tasks", nargs="+", help="default: those that rank at the tier")
    parser.add_argument("--only", nargs="+", choices=catalogue.names(), help="these references only")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one_step()
    tier = tiers.get(TRACK, arguments.tier)
    tasks = arguments.tasks or list(tier.ranking_tasks)
    rows: dict[str, Shares] = {}
    for name in arguments.only or catalogue.names():
        found = {task: measure(name, tier, task, arguments.steps) for task in tasks}
        rows[name] = median(list(found.values()))
        shown = " ".join(f"{task} {one.calls:.1%}" for task, one in found.items())
        print(f"{name:44s} {rows[name].step_ms:6.1f} ms  {shown}", flush=True)
    text = table(rows, tier=arguments.tier, tasks=tasks, steps=arguments.steps)
    arguments.output.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
