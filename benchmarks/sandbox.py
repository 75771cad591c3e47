"""What isolation costs, and what is left after everything goes wrong: the sandbox's figures.

    python -m benchmarks.sandbox                     all of it, about half an hour
    python -m benchmarks.sandbox --only dispatch soak

- dispatch: from handing a job over until the answer of the evaluator's own worker, warm beside cold. The job is a
  program that is refused as soon as it has been read, so that nothing else takes time. After the answer come the
  worker's last words, its exit and what is removed of it: the last column.
- trial: one smoke trial of about 20 s, in every backend beside a bare warm process, interleaved.
- hardening: the same trial in a container with every flag and in one with none, cold, interleaved.
- killed: from `kill -9` of an orchestrator with two jobs at work and two workers waiting until no container of it is
  left.
- soak: trials in a row through docker while a neighbour kills containers at random and the engine is killed and
  started again once. On a private engine (root only), so that no other container suffers.

Wall-clock medians; A and B alternate within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docker.types import LogConfig

from evaluator import catalogue
from evaluator.trial import TrialRequest, trial_phases
from move37.laboratory import SandboxLaboratory
from sandbox import containers, ownership
from sandbox import engine as engines
from sandbox.bubblewrap import BubblewrapSandbox
from sandbox.conversation import Conversation
from sandbox.environment import worker_environment
from sandbox.errors import SandboxUnavailable
from sandbox.landlock import LandlockSandbox
from sandbox.pooled import PooledSandbox
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, Limits
from tests.sandbox import private_engine

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("dispatch", "trial", "hardening", "killed", "soak")
LIMITS = Limits()
RATES = (1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 1e-2)  # a sweep: one trial of about 20 s
SOAK_PROGRAM = "short_convolution"


def backends(names: tuple[str, ...] = ("docker", "bubblewrap", "landlock", "process")) -> dict[str, PooledSandbox]:
    """Those that this machine has."""
    openers: dict[str, Callable[[], PooledSandbox]] = {
        "docker": containers.open_docker,
        "bubblewrap": BubblewrapSandbox,
        "landlock": LandlockSandbox,
        "process": ProcessSandbox,
    }
    found = {}
    for name in names:
        try:
            found[name] = openers[name]()
        except SandboxUnavailable as unavailable:
            sys.stderr.write(f"{unavailable}\n")
    return found


async def waiting(sandbox: PooledSandbox) -> None:
    """Until a worker of the pool waits, and nothing else of the pool takes the CPU."""
    while not all(task.done() for task in sandbox._pool._workers):  # noqa: ASYNC110 - tasks come and go meanwhile
        await asyncio.sleep(0.05)


def table(title: str, columns: str, rows: list[list[str]]) -> str:
    heads = columns.split(" | ")
    lines = [f"## {title}", f"| {columns} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


async def dispatch(rounds: int) -> str:
    job = Job("dispatch", trial_phases("def (", TrialRequest("sequence", "smoke", "recall", 0)))
    answered: list[float] = []
    original = Conversation._failed

    def failed(conversation: Conversation, message: dict[str, Any]) -> Any:
        answered.append(time.perf_counter())
        return original(conversation, message)

    rows = []
    for name, sandbox in backends().items():
        warm: list[float] = []
        cold: list[float] = []
        gone: list[float] = []
        Conversation._failed = failed  # type: ignore[method-assign]
        try:
            for keep in (0, 1):
                if keep:
                    sandbox.keep_warm(1, LIMITS)
                for _ in range(rounds):
                    await waiting(sandbox)
                    answered.clear()
                    began = time.perf_counter()
                    outcome = await sandbox.run(job)
                    if "SyntaxError" not in outcome.message:
                        raise RuntimeError(f"an unexpected answer: {outcome}")
                    if bool(keep) is not outcome.provenance["warm"]:
                        raise RuntimeError("the pool did not do what is measured")
                    (warm if keep else cold).append(answered[0] - began)
                    gone.append(time.perf_counter() - answered[0])
        finally:
            Conversation._failed = original  # type: ignore[method-assign]
            await sandbox.close()
        rows.append(
            [
                name,
                f"{1000 * statistics.median(warm):.1f}",
                f"{1000 * max(warm):.1f}",
                f"{statistics.median(cold):.2f}",
                f"{1000 * statistics.median(gone):.0f}",
            ]
        )
    return table(
        f"Dispatch, {rounds} jobs each",
        "backend | warm, median ms | warm, slowest ms | cold, median s | until the worker is gone, median ms",
        rows,
    )


def smoke(rates: tuple[float, ...] = RATES) -> Job:
    request = TrialRequest("sequence", "smoke", "recall", 0, learning_rates=rates)
    return Job("smoke", trial_phases(catalogue.source("gated_recurrence"), request), LIMITS)


async def trial(rounds: int) -> str:
    sandboxes = backends()
    for sandbox in sandboxes.values():
        sandbox.keep_warm(1, LIMITS)
    walls: dict[str, list[float]] = {name: [] for name in sandboxes}
    inside: dict[str, list[float]] = {name: [] for name in sandboxes}
    job = smoke()
    try:
        for number in range(rounds):
            for name, sandbox in sandboxes.items():
                await asyncio.gather(*map(waiting, sandboxes.values()))
                began = time.perf_counter()
                outcome = await sandbox.run(Job("smoke", job.phases, job.limits, timed=True))
                walls[name].append(time.perf_counter() - began)
                if not (outcome.completed and outcome.provenance["warm"]):
                    raise RuntimeError(f"{name}: {outcome}")
                inside[name].append(sum(outcome.phase_wall_s))
                sys.stderr.write(f"trial {number + 1}/{rounds} {name}: {walls[name][-1]:.2f} s\n")
    finally:
        for sandbox in sandboxes.values():
            await sandbox.close()
    bare = statistics.median(walls["process"])
    rows = []
    for name in sandboxes:
        ratios = [one / other for one, other in zip(walls[name], walls["process"], strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(walls[name]):.2f}",
                f"{statistics.median(inside[name]):.2f}",
                f"{100 * (statistics.median(ratios) - 1):+.1f} %" if name != "process" else "",
            ]
        )
    return table(
        f"A smoke trial of {bare:.0f} s, warm, {rounds} rounds",
        "backend | whole, median s | in its phases, median s | over a bare warm process",
        rows,
    )


class PlainSandbox(containers.DockerSandbox):
    """A container as `docker run -i` makes it, without any of the flags. For comparison only."""

    level = "plain"
    isolated = False


async def hardening(rounds: int) -> str:
    hardened = containers.open_docker()
    settings = containers.container_settings

    def plain(limits: Limits, labels: dict[str, str], **_: str) -> dict[str, Any]:
        environment = worker_environment(limits, scratch="/tmp")
        return {"stdin_open": True, "environment": environment, "labels": labels, "log_config": LogConfig(type="none")}

    job = smoke(RATES[:1])
    totals: dict[str, list[float]] = {"plain": [], "hardened": []}
    phases: dict[str, list[float]] = {"plain": [], "hardened": []}
    try:
        for number in range(rounds):
            for name, how in (("plain", plain), ("hardened", settings)):
                containers.container_settings = how
                began = time.perf_counter()
                outcome = await hardened.run(job)
                totals[name].append(time.perf_counter() - began)
                if not outcome.completed:
                    raise RuntimeError(f"{name}: {outcome}")
                phases[name].append(sum(outcome.phase_wall_s))
                sys.stderr.write(f"hardening {number + 1}/{rounds} {name}: {totals[name][-1]:.2f} s\n")
    finally:
        containers.container_settings = settings
        await hardened.close()
    ratio = statistics.median(a / b for a, b in zip(totals["hardened"], totals["plain"], strict=True))
    rows = [
        [name, f"{statistics.median(totals[name]):.2f}", f"{statistics.median(phases[name]):.2f}"] for name in totals
    ]
    rows[1].append(f"{100 * (ratio - 1):+.1f} %")
    rows[0].append("")
    return table(
        f"Hardening, a cold container and a short trial, {rounds} rounds",
        "container | whole, median s | in its phases, median s | over plain",
        rows,
    )


ORCHESTRATOR = """
import asyncio, sys
from benchmarks.sandbox import LIMITS, waiting
from sandbox.containers import open_docker
from sandbox.protocol import Job
from evaluator.trial import TrialRequest, trial_phases
PROGRAM = "import torch\\ndef build_mixer(d_model, layer_index, n_layers):\\n    while True: pass\\n"
async def main():
    sandbox = open_docker()
    sandbox.keep_warm(2, LIMITS)
    await waiting(sandbox)
    job = Job("spin", trial_phases(PROGRAM, TrialRequest("sequence", "smoke", "recall", 0)))
    jobs = [asyncio.create_task(sandbox.run(job)) for _ in range(2)]
    await asyncio.sleep(0.5)
    await waiting(sandbox)
    print("ready", flush=True)
    await asyncio.gather(*jobs)
asyncio.run(main())
"""


def killed(rounds: int) -> str:
    engine = engines.connect()
    seconds = []
    try:
        for _ in range(rounds):
            orchestrator = subprocess.Popen(
                [sys.executable, "-c", ORCHESTRATOR], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            assert orchestrator.stdout is not None
            if orchestrator.stdout.readline() != "ready\n":
                raise RuntimeError("the orchestrator did not start its jobs")
            start = ownership.process_start_time(orchestrator.pid)
            owner = f"{orchestrator.pid}:{start}:{ownership.boot_id()}"
            mine = {"label": f"{ownership.OWNER_LABEL}={owner}"}
            if len(engine.client.api.containers(all=True, filters=mine)) != 4:
                raise RuntimeError("not the four containers that were to be there")
            orchestrator.send_signal(signal.SIGKILL)
            began = time.perf_counter()
            while engine.client.api.containers(all=True, filters=mine):
                time.sleep(0.005)
            seconds.append(time.perf_counter() - began)
            orchestrator.wait()
            orchestrator.stdout.close()
    finally:
        engine.close()
    return table(
        f"After kill -9 of the orchestrator, {rounds} times four containers",
        "until none is left, median s | slowest s",
        [[f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]],
    )


async def soak(trials: int, parallel: int = 2) -> str:
    if why := private_engine.unavailable():
        return f"## Soak\nNot run: {why}.\n"
    private = private_engine.PrivateEngine(Path(tempfile.mkdtemp(prefix="move37-engine-")))
    before = os.environ.get("DOCKER_HOST")
    try:
        private.start()
        private.load(engines.IMAGE)
        os.environ["DOCKER_HOST"] = private.address
        return await _soak(private, trials, parallel)
    finally:
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        private.close()


async def _soak(private: private_engine.PrivateEngine, trials: int, parallel: int) -> str:
    rng = random.Random(0)
    left_at_start, files_at_start = temporary(), open_files()
    sandbox = await asyncio.to_thread(containers.open_docker)
    laboratory = SandboxLaboratory(sandbox, memory_gib=4, cpus=1.0, warm=parallel)
    source = catalogue.source(SOAK_PROGRAM)
    outcomes: list[str] = []
    scores: set[float] = set()
    kills = 0
    memory: dict[int, int] = {}
    todo = iter(range(trials))
    restarted = asyncio.Event()

    async def work() -> None:
        for number in todo:
            request = TrialRequest("sequence", "micro", "recall", 0)
            outcome = await laboratory.trial(source, request, label=f"soak {number}")
            outcomes.append("completed" if outcome.completed else outcome.reason)
            if outcome.score is not None:
                scores.add(outcome.score)
            done = len(outcomes)
            if done % 20 == 0:
                gc.collect()
                memory[done] = resident()
                sys.stderr.write(f"soak {done}/{trials}: {dict(Counter(outcomes))}, {memory[done] >> 20} MiB\n")
            if done == trials // 2 and not restarted.is_set():
                restarted.set()
                await asyncio.to_thread(private.stop, signal.SIGKILL)
                await asyncio.to_thread(private.start)

    async def disturb() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(rng.uniform(2.0, 8.0))
            listed = await asyncio.to_thread(docker, private, "ps", "-q", "--filter", f"label={ownership.LABEL}")
            if listed:
                await asyncio.to_thread(docker, private, "kill", rng.choice(listed))
                kills += 1

    disturbing = asyncio.create_task(disturb())
    try:
        await asyncio.gather(*(work() for _ in range(parallel)))
    finally:
        disturbing.cancel()
        await asyncio.wait((disturbing,))
        await laboratory.close()
    early, late = memory[40 if trials >= 80 else min(memory)], memory[max(memory)]
    rows = [
        ["trials handed in", str(trials)],
        ["outcomes", ", ".join(f"{count} {reason}" for reason, count in Counter(outcomes).items())],
        ["distinct scores of the one program and seed", str(len(scores))],
        ["containers killed by the neighbour", str(kills)],
        ["restarts of the engine (SIGKILL)", str(int(restarted.is_set()))],
        ["containers left", str(len(docker(private, "ps", "-aq", "--filter", f"label={ownership.LABEL}")))],
        ["files left in the temporary directory", str(len(temporary() - left_at_start))],
        ["open files, before and after", f"{files_at_start}, {open_files()}"],
        ["child processes left", str(len(children() - {private.pid}))],
        ["resident memory, early and late", f"{early >> 20} MiB, {late >> 20} MiB ({100 * (late / early - 1):+.1f} %)"],
    ]
    return table(f"Soak: {trials} micro trials, {parallel} at a time", "what | seen", rows)


def temporary() -> set[str]:
    """What lies in the temporary directory and is ours by its name."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("move37-*")}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[int]:
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def docker(private: private_engine.PrivateEngine, *command: str) -> list[str]:
    """The words that the docker command prints; none when the engine is away, or the container has just gone."""
    done = subprocess.run(["docker", "-H", private.address, *command], capture_output=True, text=True, check=False)
    return done.stdout.split()


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=200, help="of the soak")
    parser.add_argument("--output", type=Path, help="also write the tables here")
    arguments = parser.parse_args()
    tables = []
    for part in arguments.only:
        match part:
            case "dispatch":
                tables.append(asyncio.run(dispatch(3 * arguments.rounds)))
            case "trial":
                tables.append(asyncio.run(trial(arguments.rounds)))
            case "hardening":
                tables.append(asyncio.run(hardening(2 * arguments.rounds)))
            case "killed":
                tables.append(killed(arguments.rounds))
            case "soak":
                tables.append(asyncio.run(soak(arguments.trials)))
        print(tables[-1], flush=True)
    if arguments.output is not None:
        arguments.output.write_text("\n".join(["# The sandbox", "", *tables]))


if __name__ == "__main__":
    main()
