"""How long the command line takes to answer: `--help` and `status`, beside a bare interpreter.

Interleaved, medians of N runs of real processes; prints a markdown table. `status` and `lineage` read a store with one
campaign. Seconds of a processor stand beside those of the clock: other work on the machine makes the clock wait.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory.store import open_store

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(f"sqlite:///{directory}/move37.db", create=True)
        store.create_campaign(
            name="one", config={}, config_hash="", objective={}, objective_hash="", seed=0, arms=["starters"]
        )
        store.close()
        python = [sys.executable]
        commands = {
            "python -c pass": [*python, "-c", "pass"],
            "move37 --help": [*python, "-m", "move37", "--help"],
            "move37 status": [*python, "-m", "move37", "status", "--runs-dir", directory],
            "move37 lineage": [*python, "-m", "move37", "lineage", "--runs-dir", directory],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        processor: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                started, used = time.perf_counter(), _children_s()
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - started)
                processor[name].append(_children_s() - used)
    print("| command | median s | fastest s | CPU s | limit s |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        limit = f"{LIMIT_S}" if name in {"move37 --help", "move37 status"} else ""
        cpu_s = statistics.fmean(processor[name])  # its clock ticks every hundredth of a second
        print(f"| `{name}` | {statistics.median(values):.3f} | {min(values):.3f} | {cpu_s:.3f} | {limit} |")


def _children_s() -> float:
    """What the processes that were waited for used of a processor."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
