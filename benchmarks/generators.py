"""How long the task generators take per example, beside the published ones at the same sizes.

Medians of interleaved runs of one batch each, one thread; prints a markdown table. The factor is that of CPU time,
which other work on the machine disturbs less than wall time.

The published rates are those of the reference code of Poli et al. 2024 (arXiv 2403.17844) and, for multi-query recall,
of Arora et al. 2024 (arXiv 2312.04927): wall time on one core of a 2.5 GHz Xeon in a quiet phase, measured before the
project began. They were not measured again here, so a factor also holds the difference between two machines. Text tasks
have no published rate; their windows are cut from memory.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np

from evaluator.tasks.compression import Compression
from evaluator.tasks.fuzzy_recall import FuzzyRecall
from evaluator.tasks.memorisation import Memorisation
from evaluator.tasks.mqar import MultiQueryRecall
from evaluator.tasks.recall import InContextRecall, NoisyRecall
from evaluator.tasks.selective_copying import SelectiveCopying
from evaluator.tasks.state_tracking import StateTracking
from evaluator.tasks.task import Batch, Task

# (task at the published size, published microseconds per example or None, factor that is asked for or None)
CASES: tuple[tuple[Task, float | None, float | None], ...] = (
    (InContextRecall(vocabulary=16, length=128), 1_225.0, 100.0),
    (InContextRecall(vocabulary=128, length=128), 1_745.0, None),
    (InContextRecall(vocabulary=16, length=1024), 6_485.0, None),
    (NoisyRecall(vocabulary=32, length=128, noise=0.2), 973.0, 100.0),
    (FuzzyRecall(vocabulary=16, length=128, motif=3), 3_511.0, None),
    (FuzzyRecall(vocabulary=128, length=128, motif=3), 3_736_634.0, 100.0),
    (MultiQueryRecall(vocabulary=8192, length=64, pairs=4), 382.0, None),
    (MultiQueryRecall(vocabulary=8192, length=256, pairs=64), 406.0, 100.0),
    (MultiQueryRecall(vocabulary=128, length=64, pairs=8), 194.0, None),
    (Memorisation(vocabulary=256, length=32), 711.0, None),
    (Memorisation(vocabulary=8192, length=32), 15_914.0, None),
    (Compression(vocabulary=16, length=32), 21.0, None),
    (SelectiveCopying(vocabulary=16, length=256, copied=16), 99.0, None),
    (StateTracking(group="A5", length=128), None, None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--batch", type=int, default=1000)
    arguments = parser.parse_args()
    wall, cpu = measure(arguments.runs, arguments.batch)
    print(
        f"{arguments.runs} interleaved runs of {arguments.batch} examples; NumPy {np.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.\n"
    )
    print("| generator | CPU µs per example | wall µs | published µs | factor | asked for |\n|---|---|---|---|---|---|")
    for (task, published, wanted), cpu_us, wall_us in zip(CASES, cpu, wall, strict=True):
        sizes = ", ".join(f"{name} {value}" for name, value in task.sizes().items())
        theirs, factor = ("", "") if published is None else (f"{published:,.0f}", f"{published / cpu_us:,.0f}")
        asked = "" if wanted is None else f"{wanted:.0f}"
        print(f"| {task.name}: {sizes} | {cpu_us:.2f} | {wall_us:.2f} | {theirs} | {factor} | {asked} |")


def measure(runs: int, batch: int) -> tuple[list[float], list[float]]:
    """Medians over the runs, in microseconds per example, by case: wall time and CPU time."""
    rng = np.random.default_rng(0)
    tables = [task.table(rng) for task, _, _ in CASES]
    wall: list[list[float]] = [[] for _ in CASES]
    cpu: list[list[float]] = [[] for _ in CASES]
    kept: list[Batch | None] = [None] * len(CASES)  # as training keeps its batch while the next one is drawn
    for run in range(runs + 1):
        for index, (task, _, _) in enumerate(CASES):
            began = time.perf_counter(), time.process_time()
            kept[index] = task.batch(rng, batch, tables[index])
            if run:  # the first one warms up
                wall[index].append(1e6 * (time.perf_counter() - began[0]) / batch)
                cpu[index].append(1e6 * (time.process_time() - began[1]) / batch)
    return [statistics.median(values) for values in wall], [statistics.median(values) for values in cpu]


if __name__ == "__main__":
    main()
