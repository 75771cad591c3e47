"""Fixtures for the campaign's tests: the real command line, in a process of its own or in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from memory.store import Store, open_store
from move37 import keys, launch
from move37.config import CampaignConfig, load
from move37.workspace import Workspace
from tests.move37.scripted import ScriptedServer

ROOT = Path(__file__).resolve().parents[2]
# The cheapest real campaign: one task and one seed of the micro tier, two starters, process sandbox.
TINY = ("--tier", "micro", "--tasks", "recall", "--trial-seeds", "0", "--sandbox", "process", "--parallel", "2")


@pytest.fixture(autouse=True)
def no_key_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launching takes keys out of the environment and remembers them, for as long as a process lives."""
    monkeypatch.setattr(keys, "_withdrawn", {})


@dataclass
class Cli:
    """Runs `move37` as a user would."""

    runs: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MOVE37_", "OPENAI_"))}
        return {**kept, "MOVE37_RUNS": str(self.runs), "COLUMNS": "140"}

    @property
    def outside(self) -> Path:
        """Where no `.env` of a developer lies that could reach a test."""
        self.runs.parent.mkdir(parents=True, exist_ok=True)
        return self.runs.parent

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "move37", *arguments]

    def __call__(self, *arguments: str, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.outside,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.outside,
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def store(self) -> Store:
        return open_store(f"sqlite:///{self.runs / 'move37.db'}", create=False)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A command line with a runs directory of its own, whose path would break careless quoting."""
    return Cli(tmp_path / "runs with 'quotes' & spaces")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A finished tiny campaign named `tiny`, shared by the tests that only read."""
    shared = Cli(tmp_path_factory.mktemp("finished") / "runs")
    shared("run", *TINY, "--experiments", "6", "--seed", "5", "--name", "tiny")
    return shared


@pytest.fixture
def tiny_config() -> Callable[..., CampaignConfig]:
    """Configurations of tiny campaigns, with overrides by dotted key."""

    def make(**overrides: Any) -> CampaignConfig:
        settings: dict[str, Any] = {
            "name": "tiny",
            "experiments": 4,
            "objective.tier": "micro",
            "objective.tasks": ["recall"],
            "objective.seeds": [0],
        }
        settings.update({key.replace("__", "."): value for key, value in overrides.items()})
        return load(None, settings)

    return make


def programs(store: Store, campaign: str) -> list[str | None]:
    """The programs of a campaign in index order."""
    return [e.program_sha256 for e in store.experiments(store.campaign(campaign).id)]


def outcomes(store: Store, campaign: str) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: everything that was decided or measured, but no clock."""
    return [
        (e.id, e.status, e.reason, e.score, e.parent_id, tuple(e.exemplar_ids), e.program_sha256, e.name)
        for e in store.experiments(store.campaign(campaign).id)
    ]


def results(store: Store, campaign: str) -> list[tuple[Any, ...]]:
    """As `outcomes`, without the ids, which hold the campaign's name."""
    experiments = store.experiments(store.campaign(campaign).id)
    return [(e.index, e.status, e.reason, e.score, e.program_sha256, e.name) for e in experiments]


@pytest.fixture(scope="session")
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


Play = Callable[..., tuple[Store, str, launch.Launched]]


@pytest.fixture
def play(scripted: ScriptedServer, tiny_config: Callable[..., CampaignConfig], tmp_path: Path) -> Iterator[Play]:
    """Runs a campaign of one starter and one proposal whose coder says what the script says."""
    stores: list[Store] = []

    def run(*replies: str | Response, **overrides: Any) -> tuple[Store, str, launch.Launched]:
        scripted.replies, scripted.asked = list(replies), []
        settings = {
            "experiments": 2,
            "search__starters": ["mlp"],
            "model__name": "scripted",
            "model__base_url": f"http://127.0.0.1:{scripted.port}/v1",
            "sandbox__backend": "process",
            "sandbox__accept_unsafe": True,
            **overrides,
        }
        config = launch.resolved(tiny_config(**settings))
        workspace = Workspace(tmp_path / f"runs-{len(stores)}", f"sqlite:///{tmp_path}/store-{len(stores)}.db")
        store = workspace.open(create=True)
        stores.append(store)
        launched = launch.execute(
            workspace, store, config, notify=lambda kind, payload: None, announce=lambda notice: None
        )
        return store, "tiny-0001", launched

    yield run
    for store in stores:
        store.close()
