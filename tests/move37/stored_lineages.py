"""A small store of measured experiments for the tests of `lineage` and `diff`, and the commands run in this process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner, Result

from evaluator import catalogue
from memory.records import Experiment
from memory.store import Store, open_store
from memory.testing import Ticking, new_campaign, new_experiment, trial
from move37.cli import comparing, inspecting

HOSTILE = '[bold]x[/bold]\x1b[31m"]; </script><img src=x>\u202e`\ufffe'
Scores = dict[str, dict[int, float]]

_app = typer.Typer()
_app.command("lineage")(inspecting.lineage)
_app.command("diff")(comparing.diff)


@dataclass
class Stored:
    """A runs directory with a store, filled by `make`."""

    runs: Path

    def open(self) -> Store:
        return open_store(f"sqlite:///{self.runs / 'move37.db'}", clock=Ticking())

    def run(self, *arguments: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(_app, [*arguments, "--runs-dir", str(self.runs)], catch_exceptions=False)
        assert done.exit_code == expect, done.output
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


def experiment(
    store: Store,
    campaign: Any,
    index: int,
    parent: str | None,
    scores: Scores,
    program: str,
    name: str = "",
) -> Experiment:
    """A completed experiment whose score is the mean of its trials."""
    made = new_experiment(store, campaign, index, name=name or f"Number {index}")
    store.select(made.id, parent, [], {})
    for task, seeds in scores.items():
        for seed, value in seeds.items():
            opened = trial(store, made, seed, task=task, objective_hash=campaign.objective_hash)
            store.finish_trial(
                opened.id, state="completed", reason="ok", message="", score=value, metrics={}, curve=[], log="",
                device_s=1.0,
            )  # fmt: skip
    values = [value for seeds in scores.values() for value in seeds.values()]
    return store.finish_experiment(
        made.id,
        status="completed",
        score=sum(values) / len(values),
        program_sha256=store.put_program(program),
        name=name or f"Number {index}",
    )


def unmeasured(
    store: Store, campaign: Any, index: int, parent: str | None, *, score: float | None = None, name: str = ""
) -> Experiment:
    """A finished experiment with neither trials nor a program."""
    made = new_experiment(store, campaign, index, name=name)
    store.select(made.id, parent, [], {})
    return store.finish_experiment(made.id, status="failed", reason="exception", message="boom", score=score, name=name)


PROGRAMS = {
    0: catalogue.source("gated_delta_net"),
    1: catalogue.source("delta_net"),
    2: "def build_mixer(:\n",
    3: catalogue.source("delta_net"),
}
PARENTS = {0: None, 1: "demo-0000", 2: "demo-0000", 3: "demo-0001"}
SCORES: dict[int, Scores] = {
    0: {"recall": {0: 0.2, 1: 0.22, 2: 0.25}, "mqar": {0: 0.1, 1: 0.12, 2: 0.1}},
    1: {"recall": {0: 0.3, 1: 0.35, 2: 0.33}, "mqar": {0: 0.1, 1: 0.2, 2: 0.15}},
    2: {"recall": {0: 0.3, 5: 0.3}, "mqar": {0: 0.1, 5: 0.2}},
    3: {"recall": {0: 0.5, 1: 0.55, 2: 0.53}, "mqar": {0: 0.3, 1: 0.4, 2: 0.35}},
}


def make(runs: Path) -> Stored:
    """Campaign `demo`: 0 ─ 1 ─ 3 ─ {4, 5} and 0 ─ 2, two tasks, three seeds; 4 and 5 have no trials and no program."""
    stored = Stored(runs)
    runs.mkdir(parents=True, exist_ok=True)
    store = stored.open()
    campaign = new_campaign(store, objective={"selects_on": ["mqar", "recall"]})
    for index, parent in PARENTS.items():
        name = HOSTILE if index == 3 else ""
        experiment(store, campaign, index, parent, SCORES[index], PROGRAMS[index], name)
    unmeasured(store, campaign, 4, "demo-0003", name=HOSTILE)
    unmeasured(store, campaign, 5, "demo-0003", score=0.7)
    store.close()
    return stored
