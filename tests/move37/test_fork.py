"""Forks: what they see of the campaign they go on from, and that it is nothing that came later."""

import hashlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from memory.records import Campaign, Experiment
from memory.store import Store
from move37 import forking, launch
from move37.loop import Visibility
from move37.replaying import replay_campaign
from move37.workspace import Workspace
from tests.move37.conftest import Cli, programs
from tests.move37.scripted import ScriptedServer, fenced

pytestmark = pytest.mark.campaign

NODE = "tiny-0003"  # proposed with two in flight: it saw the starters, and not tiny-0002
VISIBLE = ("tiny-0000", "tiny-0001", "tiny-0003")
LATER = ("tiny-0002", "tiny-0004", "tiny-0005")
MARK = "zzlaterzz"


@dataclass
class Bench:
    """A store to fork in, in this process."""

    workspace: Workspace
    store: Store
    notices: list[str] = field(default_factory=list)

    def fork(self, experiment: str, **overrides: Any) -> Campaign:
        settings = {"parallel": 1, **{key.replace("__", "."): value for key, value in overrides.items()}}
        planned = forking.plan(self.store, experiment, settings)
        config = launch.resolved(planned.config)
        launched = launch.execute(
            self.workspace,
            self.store,
            config,
            notify=lambda kind, payload: None,
            announce=self.notices.append,
            fork_of=planned.node,
        )
        assert launched.ending.state == "finished", launched.ending
        return launched.campaign

    def experiments(self, campaign: Campaign) -> list[Experiment]:
        return self.store.experiments(campaign.id)

    def prompts(self, campaign: Campaign) -> list[str]:
        return [json.dumps(x.request, ensure_ascii=False) for x in self.store.exchanges(campaign_id=campaign.id)]


@pytest.fixture(scope="module")
def bench(finished: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A copy of the finished campaign in which everything that `NODE` did not see bears a mark wherever it has text."""
    runs = tmp_path_factory.mktemp("forks")
    with sqlite3.connect(finished.runs / "move37.db") as source, sqlite3.connect(runs / "move37.db") as target:
        source.backup(target)
        _mark(target)
    workspace = Workspace(runs, f"sqlite:///{runs / 'move37.db'}")
    store = workspace.open()
    yield Bench(workspace, store)
    store.close()


def _mark(database: sqlite3.Connection) -> None:
    """Finished rows cannot be changed: this is a copy without its triggers."""
    for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        database.execute(f'drop trigger "{name}"')
    later = ", ".join(f"'{experiment}'" for experiment in LATER)
    for table, column in [("experiments", "hypothesis"), ("lessons", "body"), ("analyses", "body")]:
        key = "id" if table == "experiments" else "experiment_id"
        rows = database.execute(f"select rowid, {column} from {table} where {key} in ({later})").fetchall()
        assert rows
        for rowid, text in rows:
            marked = _marked(json.loads(text))
            database.execute(f"update {table} set {column} = ? where rowid = ?", (json.dumps(marked), rowid))
    database.execute(f"update experiments set name = name || '{MARK}', message = '{MARK}' where id in ({later})")
    database.execute(f"update lessons set claim = claim || '{MARK}' where experiment_id in ({later})")
    for (sha256,) in database.execute(f"select program_sha256 from experiments where id in ({later})").fetchall():
        (source,) = database.execute("select source from programs where sha256 = ?", (sha256,)).fetchone()
        marked = f"{source}\n# {MARK}\n"
        digest = hashlib.sha256(marked.encode()).hexdigest()
        database.execute("update programs set source = ?, sha256 = ? where sha256 = ?", (marked, digest, sha256))
        for table in ("experiments", "attempts", "program_keys"):
            database.execute(f"update {table} set program_sha256 = ? where program_sha256 = ?", (digest, sha256))


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        return value + MARK
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def fork(bench: Bench) -> Campaign:
    return bench.fork(NODE, experiments=2, seed=3, name="left")


def test_a_fork_goes_on_from_its_node_with_what_that_node_saw(bench: Bench, fork: Campaign) -> None:
    assert (fork.forked_from, fork.forked_at) == (bench.store.campaign("tiny").id, NODE)
    assert [e.id for e in Visibility.of(bench.store, fork).experiments(4)] == list(VISIBLE)
    first, second = bench.experiments(fork)
    assert [(first.index, first.kind), (second.index, second.kind)] == [(4, "proposal"), (5, "proposal")]
    assert first.parent_id == NODE
    assert set(first.exemplar_ids) <= set(VISIBLE)
    assert {second.parent_id, *second.exemplar_ids} <= {*VISIBLE, first.id}
    assert any("sees 3 earlier experiments and nothing after them" in notice for notice in bench.notices)


def test_nothing_later_reaches_any_prompt_of_the_fork(bench: Bench, fork: Campaign) -> None:
    asked = bench.prompts(fork)
    assert len(asked) >= 6  # a researcher, a coder and an analyst for each
    assert not [text for text in asked if MARK in text]
    node = bench.store.experiment(NODE)
    claims = [x.claim for x in bench.store.lessons(node.campaign_id) if x.experiment_id == NODE]
    research = [x for x in bench.store.exchanges(campaign_id=fork.id) if x.role == "researcher"]
    for exchange in research:  # what is visible does reach them, or the search above would find nothing by itself
        text = exchange.request["messages"][-1]["content"]
        assert node.name in text
        assert all(claim in text for claim in claims)
        assert "exp-0002" not in text


def test_the_mark_is_found_where_later_experiments_are_visible(bench: Bench) -> None:
    """The control of the test above: forked at the last experiment, the fork sees the marks."""
    control = bench.fork("tiny-0005", experiments=1, name="control")
    assert any(MARK in text for text in bench.prompts(control))


@pytest.mark.thorough
def test_the_seed_decides_what_a_fork_proposes(bench: Bench, fork: Campaign) -> None:
    bench.fork(NODE, experiments=2, seed=3, name="right")
    other = bench.fork(NODE, experiments=2, seed=4, name="other")
    assert programs(bench.store, "right") == programs(bench.store, "left")
    assert programs(bench.store, "other") != programs(bench.store, "left")
    assert other.objective_hash == fork.objective_hash == bench.store.campaign("tiny").objective_hash
    assert other.config_hash != fork.config_hash


def test_a_fork_and_a_fork_of_it_replay(bench: Bench, fork: Campaign) -> None:
    node = bench.experiments(fork)[1]
    again = bench.fork(node.id, experiments=1)
    assert again.name == "left-fork-1"
    seen = [e.id for e in Visibility.of(bench.store, again).experiments(6)]
    assert seen == [*VISIBLE, "left-0004", "left-0005"]
    (only,) = bench.experiments(again)
    assert (only.index, only.parent_id) == (6, node.id)
    for campaign in (fork, again):
        result = replay_campaign(bench.store, campaign)
        assert result.differences == []
        assert result.programs == programs(bench.store, campaign.name)


def test_what_the_visible_ones_tried_is_a_repetition_and_what_others_tried_is_not(
    bench: Bench, scripted: ScriptedServer, finished: Cli
) -> None:
    store = finished.store()
    known, unseen = (store.program(store.experiment(e).program_sha256 or "").source for e in (NODE, "tiny-0005"))
    store.close()
    scripted.replies, scripted.asked = [fenced(known), fenced(unseen)], []
    campaign = bench.fork(
        NODE,
        experiments=1,
        name="repeats",
        model__name="scripted",
        model__base_url=f"http://127.0.0.1:{scripted.port}/v1",
        sandbox__accept_unsafe=True,
    )
    (experiment,) = bench.experiments(campaign)
    first, second = bench.store.attempts(experiment.id)
    assert (first.outcome, first.detail["duplicate_of"]) == ("duplicate", NODE)
    assert second.outcome == "accepted"
    told = bench.store.find_exchange(experiment.id, "researcher", 2, 0)
    score = bench.store.experiment(NODE).score
    assert told is not None
    assert score is not None
    repeated = told.request["messages"][-1]["content"].split("## ")
    assert any("exp-0003" in part and f"{score:.3f}" in part and "repeat" in part.lower() for part in repeated)
    assert any("no secret salt" in notice for notice in campaign.announcements)


@pytest.mark.thorough
def test_a_killed_fork_resumes_as_if_undisturbed(bench: Bench, fork: Campaign, finished: Cli, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "killed")
    cli.runs.mkdir()
    with sqlite3.connect(finished.runs / "move37.db") as source, sqlite3.connect(cli.runs / "move37.db") as target:
        source.backup(target)
    process = cli.start("fork", NODE, "--experiments", "2", "--seed", "3", "--parallel", "1", "--name", "left")
    store = cli.store()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [c for c in store.campaigns() if c.name == "left"]
        if found and any(e.status == "completed" for e in store.experiments(found[0].id)):
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len([e for e in store.experiments(store.campaign("left").id) if e.finished]) < 2
    cli("resume", "left")
    assert programs(store, "left") == programs(bench.store, "left")
    exchanges = store.exchanges(campaign_id=store.campaign("left").id)
    assert [x.request_key for x in exchanges] == [x.request_key for x in bench.store.exchanges(campaign_id=fork.id)]
    store.close()
