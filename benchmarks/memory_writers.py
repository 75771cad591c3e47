"""How many writes per second eight processes get through one store, and whether any is lost.

Usage, from the repository's root:
    python -m benchmarks.memory_writers [--store URL ...] [--writers 8] [--seconds 10] [--output FILE.md]

Every writer is a process of its own with its own connection pool. It does what a campaign does, through the store's
methods, one transaction each: opens experiments, stores their program, attempt, verdicts, identity, an exchange, a
trial and an event, and finishes them. Afterwards every writer reads back each row that it was told is stored, and the
table's rows are counted from outside. Two ways: every writer in a campaign of its own, and all of them in one campaign.
Without --store: SQLite in a temporary directory, and the PostgreSQL that MOVE37_TEST_POSTGRES names, if it does.

Durability is the store's own: SQLite in WAL mode, PostgreSQL with its defaults (fsync and synchronous_commit on).
Not covered: power cuts, replication, a server on another machine.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory.records import Campaign, Usage
from memory.store import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"sqlite": 200, "postgresql": 1_000}
PROGRAM = "import torch\n\n\n" + "    x = self.layer(x) * 0.5\n" * 60
VERDICTS = [{"gate": gate, "passed": True, "reason": "ok"} for gate in ("size", "syntax", "shape", "causality")]


@dataclass
class Writer:
    """One writer: what it did is in `told`, a row at a time, after the store's method has returned."""

    store: Store
    campaign: Campaign
    number: int
    writers: int
    told: Counter[str]
    seconds: dict[str, list[float]]

    def run(self, until: float) -> None:
        """Experiments, one after the other, whose indices no other writer has."""
        index = self.number
        while time.time() < until:
            self.experiment(index)
            index += self.writers

    def experiment(self, index: int) -> None:
        """Ten writes, each a transaction."""
        store, campaign = self.store, self.campaign
        settings: dict[str, Any] = {"arm": "agents", "kind": "proposal", "track": "sequence", "tier": "smoke"}
        key = self.timed("open_experiment", lambda: store.open_experiment(campaign.id, index, **settings)).id
        sha = self.timed("put_program", lambda: store.put_program(f"{PROGRAM}# {key}\n"))
        self.timed("put_attempt", lambda: store.put_attempt(key, 1, origin="proposal", program_sha256=sha))
        self.timed("reserve", lambda: store.reserve(campaign.id, "L0", sha, key))
        self.timed("put_verdicts", lambda: store.put_verdicts(key, 1, VERDICTS))
        self.timed("put_exchange", lambda: self.exchange(key))
        place: dict[str, Any] = {"task": "recall", "tier": "smoke", "seed": 0, "data": "selection"}
        trial = self.timed("open_trial", lambda: store.open_trial(key, **place, objective_hash="o0"))
        result: dict[str, Any] = {"state": "completed", "score": 0.5, "metrics": {"accuracy": 0.5}, "device_s": 1.0}
        self.timed("finish_trial", lambda: store.finish_trial(trial.id, **result))
        self.timed("put_event", lambda: store.put_event(campaign.id, "trained", {"n": index}, experiment_id=key))
        ending: dict[str, Any] = {"status": "completed", "score": 0.5, "program_sha256": sha}
        self.timed("finish_experiment", lambda: store.finish_experiment(key, **ending))

    def exchange(self, key: str) -> Any:
        """A model's answer of a kilobyte."""
        return self.store.put_exchange(
            key,
            "researcher",
            1,
            0,
            request_key=key,
            template_hashes={"researcher": "a" * 64},
            model="m",
            request={"messages": [{"role": "user", "content": "x" * 1_000}]},
            response=None,
            text="y" * 1_000,
            usage=Usage(100, 20, estimated=False),
            cost_usd=0.001,
            latency_s=1.0,
            finish_reason="stop",
        )

    def timed(self, method: str, call: Callable[[], Any]) -> Any:
        """The result of a write, counted once the store has answered."""
        began = time.perf_counter()
        result = call()
        self.seconds.setdefault(method, []).append(time.perf_counter() - began)
        self.told[method] += 1
        return result

    def verify(self) -> int:
        """Rows that are missing or differ from what was written: read back from the store, experiment by experiment."""
        lost = 0
        events = {event.experiment_id for event in self.store.events(self.campaign.id, kind="trained")}
        for index in range(self.number, self.number + self.told["open_experiment"] * self.writers, self.writers):
            key = f"{self.campaign.name}-{index:04d}"
            experiment = self.store.experiment(key)
            holder = self.store.identity(self.campaign.id, "L0", str(experiment.program_sha256))
            lost += experiment.status != "completed" or experiment.score != 0.5
            lost += not self.store.program(str(experiment.program_sha256)).source.endswith(f"# {key}\n")
            lost += [one.number for one in self.store.attempts(key)] != [1]
            lost += holder is None or holder.experiment_id != key
            lost += len(self.store.verdicts(key)) != len(VERDICTS)
            lost += [one.text for one in self.store.exchanges(key)] != ["y" * 1_000]
            lost += [(one.state, one.device_s) for one in self.store.trials(key)] != [("completed", 1.0)]
            lost += key not in events
        return lost


def write(url: str, campaign_id: str, number: int, writers: int, seconds: float) -> None:
    """The process of one writer: waits for the word, writes, verifies, says what it saw as one line of JSON."""
    store = open_store(url, create=False)
    writer = Writer(store, store.campaign(campaign_id), number, writers, Counter(), {})
    store.campaigns()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    writer.run(began + seconds)
    ended = time.time()
    sys.stdin.readline()  # everybody has stopped writing
    medians = {name: statistics.median(values) for name, values in writer.seconds.items()}
    every = sorted(value for values in writer.seconds.values() for value in values)
    seen = {
        "told": writer.told,
        "took": ended - began,
        "medians": medians,
        "p99": every[int(len(every) * 0.99)],
        "lost": writer.verify(),
    }
    print(json.dumps(seen), flush=True)
    store.close()


@dataclass(frozen=True)
class Outcome:
    """What the writers of one round did together."""

    database: str
    way: str
    writes: int
    per_second: float
    medians: dict[str, float]
    p99_s: float
    lost: int
    counted: int
    told: int


def together(url: str, *, one_campaign: bool, writers: int, seconds: float) -> Outcome:
    """A round: all writers at once."""
    store = open_store(url)
    round_ = secrets.token_hex(3)
    shared = _campaign(store, f"all-{round_}") if one_campaign else None
    campaigns = [shared or _campaign(store, f"own-{round_}-{number}") for number in range(writers)]
    command = [sys.executable, "-m", "benchmarks.memory_writers", "--writer"]
    processes = [
        subprocess.Popen(
            [*command, url, campaign.id, str(number), str(writers if one_campaign else 1), str(seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, campaign in enumerate(campaigns)
    ]
    _each(processes, expect="ready")
    _each(processes, say="go")
    time.sleep(seconds)
    _each(processes, say="verify")
    seen = [json.loads(process.communicate()[0]) for process in processes]
    told = sum((Counter(one["told"]) for one in seen), Counter[str]())
    outcome = Outcome(
        database=url.partition(":")[0].partition("+")[0],
        way="one campaign" if one_campaign else "a campaign each",
        writes=told.total(),
        per_second=told.total() / max(one["took"] for one in seen),
        medians={name: statistics.median(one["medians"][name] for one in seen) for name in told},
        p99_s=max(one["p99"] for one in seen),
        lost=sum(one["lost"] for one in seen),
        counted=sum(_rows(store, campaign) for campaign in {c.id: c for c in campaigns}.values()),
        told=told["open_experiment"] * 5,
    )
    store.close()
    return outcome


def _rows(store: Store, campaign: Campaign) -> int:
    """Rows of a campaign that the writers were told of: experiments, attempts, exchanges, trials, events."""
    counts = store.counts(campaign.id)
    return counts.completed + counts.attempts + counts.exchanges + counts.trials + len(store.events(campaign.id))


def _campaign(store: Store, name: str) -> Campaign:
    return store.create_campaign(
        name, config={}, config_hash="", objective={}, objective_hash="o0", seed=0, arms=["agents"]
    )


def _each(processes: list["subprocess.Popen[str]"], *, say: str = "", expect: str = "") -> None:
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        if expect and process.stdout.readline().strip() != expect:
            raise RuntimeError(f"a writer did not start: {process.args}")
        if say:
            process.stdin.write(f"{say}\n")
            process.stdin.flush()


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Markdown."""
    yield "| database | campaigns | writes | writes/s | asked for | median ms | p99 ms | rows counted of told | lost |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in outcomes:
        yield (
            f"| {one.database} | {one.way} | {one.writes:,} | **{one.per_second:,.0f}** | {TARGETS[one.database]:,} "
            f"| {1e3 * statistics.median(one.medians.values()):.1f} | {1e3 * one.p99_s:.1f} "
            f"| {one.counted:,} of {one.told:,} | {one.lost} |"
        )
    yield ""
    yield "Median milliseconds by method:"
    yield ""
    yield "| method | " + " | ".join(f"{one.database}, {one.way}" for one in outcomes) + " |"
    yield "|---|" + "---|" * len(outcomes)
    for name in outcomes[0].medians:
        yield f"| `{name}` | " + " | ".join(f"{1e3 * one.medians[name]:.1f}" for one in outcomes) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", default=[], help="URL of a database; more than one may be given")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--writer", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.writer:
        url, campaign, number, writers, seconds = arguments.writer
        write(url, campaign, int(number), int(writers), float(seconds))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        given = [f"sqlite:///{directory}/move37.db", os.environ.get("MOVE37_TEST_POSTGRES", "")]
        outcomes = [
            together(url, one_campaign=one_campaign, writers=arguments.writers, seconds=arguments.seconds)
            for url in arguments.store or filter(None, given)
            for one_campaign in (False, True)
        ]
    text = "\n".join([f"{arguments.writers} writers, {os.cpu_count()} cores.", "", *table(outcomes), ""])
    print(text)
    if arguments.output:
        arguments.output.write_text(f"# Concurrent writers\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
