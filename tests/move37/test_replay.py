"""Replay: a campaign without model or network, an experiment bit by bit, and what happens when they diverge."""

import asyncio
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.contexts import Message
from evaluator.trial import TrialRequest
from memory.records import Trial
from memory.store import Store, open_store
from move37.errors import ConfigError, NotThere, ReplayDiverged
from move37.laboratory import FoundIdentity, GateOutcome, GateRequest, Progress, TrialOutcome
from move37.replaying import ReplayModel, replay_campaign
from move37.retraining import ExperimentReplay, replay_experiment
from tests.move37.conftest import Cli, programs

pytestmark = pytest.mark.campaign


@pytest.fixture
def refused_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No connection leaves this process; attempts are kept."""
    attempts: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise ConnectionRefusedError(f"the test refuses {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    return attempts


def test_a_campaign_replays_to_the_same_programs_without_network(finished: Cli, refused_network: list[object]) -> None:
    store = finished.store()
    result = replay_campaign(store, store.campaign("tiny"))
    assert result.differences == []
    assert result.programs == programs(store, "tiny")
    assert result.calls_answered == len(store.exchanges(campaign_id=store.campaign("tiny").id))
    assert refused_network == []
    store.close()


@pytest.mark.thorough
def test_the_command_says_so(finished: Cli) -> None:
    assert "same programs, same order" in finished("replay", "tiny").stdout
    assert finished.json("replay", "tiny")["identical"] is True


def test_the_best_experiment_retrains_to_identical_bits(finished: Cli) -> None:
    best = finished.json("status")[0]["best"]["id"]
    result = finished.json("replay", best)
    compared = [m for m in result["metrics"] if m["compared"]]
    assert result["identical"]
    assert {"score", "accuracy", "loss", "accuracy at 10%"} <= {m["metric"] for m in compared}
    assert all(m["stored"] == m["replayed"] for m in compared)
    assert any(m["metric"] == "train_tokens_per_s" and not m["compared"] for m in result["metrics"])


def test_a_prompt_that_changed_is_a_divergence_that_shows_where(finished: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two experiments are in flight and both diverge at once: either may be the one that is told."""
    from move37 import briefing

    store = finished.store()
    monkeypatch.setattr(briefing.tracks, "contract", lambda track: "another contract")
    with pytest.raises(ReplayDiverged, match=r"differs from the stored one of tiny-000[23] .* at character") as raised:
        replay_campaign(store, store.campaign("tiny"))
    store.close()
    place, *diff = str(raised.value).splitlines()
    assert "(researcher, attempt 1, turn 0)" in place
    assert any(line.strip().startswith("-") for line in diff)
    assert "+another contract" in [line.strip() for line in diff]
    assert len(diff) <= 7
    assert max(map(len, diff)) < 170


def test_a_question_that_was_never_asked_is_told_with_the_stored_one_nearest_to_it(finished: Cli) -> None:
    store = finished.store()
    exchanges = store.exchanges(campaign_id=store.campaign("tiny").id)
    store.close()
    wanted = next(x for x in exchanges if (x.experiment_id, x.role) == ("tiny-0004", "analyst"))
    messages = [Message(m["role"], m["content"] + "\nand more") for m in wanted.request["messages"]]
    with pytest.raises(ReplayDiverged, match=r"never asked; .* tiny-0004 \(analyst, attempt 1, turn 0\)"):
        asyncio.run(ReplayModel(exchanges).complete(messages, seed=-1, deadline_s=1.0))
    with pytest.raises(ReplayDiverged, match="no exchange is stored"):
        asyncio.run(ReplayModel([]).complete(messages, seed=1, deadline_s=1.0))


def copied(finished: Cli, runs: Path, *statements: str) -> Cli:
    """A copy of the finished campaign, changed: finished rows cannot be, so the copy goes without its triggers."""
    runs.mkdir()
    with sqlite3.connect(finished.runs / "move37.db") as source, sqlite3.connect(runs / "move37.db") as target:
        source.backup(target)
        for (name,) in target.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            target.execute(f'drop trigger "{name}"')
        for statement in statements:
            target.execute(statement)
    return Cli(runs)


@pytest.mark.thorough
def test_a_metric_that_was_tampered_with_is_found(finished: Cli, tmp_path: Path) -> None:
    tampered = "update trials set score = score + 1e-9 where experiment_id = 'tiny-0000'"
    assert (
        "metrics differ by up to 1e-09"
        in copied(finished, tmp_path / "copy", tampered)("replay", "tiny-0000", expect=1).stderr
    )


@pytest.mark.thorough
def test_another_environment_is_shown_and_excuses_a_small_difference(finished: Cli, tmp_path: Path) -> None:
    """Trained on this machine; what is stored says that it was another one, and a little else."""
    copy = copied(
        finished,
        tmp_path / "copy",
        "update trials set score = score + 1e-3, environment = json_set(environment, '$.processor', 'Another One', "
        "'$.hello.torch', '1.0', '$.level', 'elsewhere') where experiment_id = 'tiny-0000'",
    )
    result = copy.json("replay", "tiny-0000")
    assert (result["reproduced"], result["identical"], result["same_environment"]) == (True, False, False)
    assert set(result["decisive_differences"]) == {"processor", "hello.torch"}
    assert result["environment_differences"]["processor"][0] == "Another One"
    assert result["environment_differences"]["level"] == ["elsewhere", "process"]
    by_name = {m["metric"]: m for m in result["metrics"]}
    assert by_name["score"]["within"] is True
    assert by_name["score"]["tolerance"] == result["tolerance"]["score"] > 1e-3
    assert by_name["parameters"]["tolerance"] == 0.0
    refused = copy("replay", "tiny-0000", "--tolerance", "1e-4", expect=1)
    assert "more than the tolerance for another environment" in refused.stderr
    assert "environment: processor was Another One, is" in refused.stdout


class OtherMachine:
    """A laboratory whose trials come out as stored but for what is changed."""

    def __init__(self, trial: Trial, environment: dict[str, Any], **changes: Any) -> None:
        self._trial = replace(trial, environment={**trial.environment, **environment})
        self._changes = changes

    async def trial(
        self, source: str, request: TrialRequest, *, label: str, on_progress: Progress | None = None
    ) -> TrialOutcome:
        row = self._trial
        metrics = {**row.metrics, **self._changes.get("metrics", {})}
        score = self._changes.get("score", row.score)
        reason = self._changes.get("reason", row.reason)
        return TrialOutcome(True, reason, "", score, metrics, row.curve, "", 0.0, row.environment)

    async def gates(self, source: str, request: GateRequest, *, label: str) -> GateOutcome:
        raise NotImplementedError

    async def identify(self, source: str, *, track: str, tier: str, label: str) -> tuple[FoundIdentity, ...]:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("environment", "changes", "reproduced"),
    [
        ({}, {}, True),
        ({"platform": "Linux-9.9-x86_64-with-glibc2.36", "level": "docker"}, {"metrics": {"loss": 9.0}}, False),
        ({"processor": "other"}, {"score": -0.01}, True),
        ({"processor": "other"}, {"score": 0.5}, False),
        ({"processor": "other"}, {"score": None}, False),
        ({"processor": "other"}, {"metrics": {"canary_z": 9.0, "prefix_gap": 1e-6}}, True),
        ({"processor": "other"}, {"metrics": {"parameters": 6417.0}}, False),
        ({"processor": "other"}, {"reason": "diverged"}, False),
        ({"device": "cuda"}, {"metrics": {"loss": 9.0}}, False),
        ({}, {"metrics": {"train_tokens_per_s": 1.0}}, True),
    ],
)
def test_where_the_bits_have_to_agree_and_where_not(
    finished: Cli, environment: dict[str, Any], changes: dict[str, Any], reproduced: bool
) -> None:
    store = finished.store()
    experiment = store.experiment("tiny-0000")
    (trial,) = store.trials(experiment.id)
    if "platform" in environment:  # another kernel, the same C library
        environment = {**environment, "platform": f"Linux-9.9-with-{trial.environment['platform'].split('-with-')[1]}"}
    laboratory = OtherMachine(trial, environment, **changes)
    result: ExperimentReplay = asyncio.run(replay_experiment(store, experiment, laboratory))
    store.close()
    assert result.reproduced is reproduced
    assert set(environment) <= set(result.environment_differences)


def test_what_has_no_result_to_compare_with_is_told_what_to_do(finished: Cli) -> None:
    store, real = open_store("sqlite://"), finished.store()
    config, (trial,) = real.campaign("tiny").config, real.trials("tiny-0000")
    real.close()
    objective = {"config_hash": "", "objective": {}, "objective_hash": "", "seed": 0, "arms": ["grammar"]}
    kind = {"arm": "grammar", "kind": "proposal", "track": "sequence", "tier": "micro"}
    ours = store.create_campaign("ours", config=config, **objective)
    running = store.open_experiment(ours.id, 0, **kind)
    laboratory = OtherMachine(trial, {})
    with pytest.raises(NotThere, match=r"not finished: .* `move37 resume ours`"):
        asyncio.run(replay_experiment(store, running, laboratory))
    failed = store.finish_experiment(running.id, status="failed", reason="reply_malformed")
    with pytest.raises(NotThere, match=r"never trained .* `move37 replay ours`"):
        asyncio.run(replay_experiment(store, failed, laboratory))
    foreign = store.create_campaign("foreign", config={}, **objective)
    with pytest.raises(ConfigError, match="was not run by Move37"):
        asyncio.run(replay_experiment(store, store.open_experiment(foreign.id, 0, **kind), laboratory))
    with pytest.raises(ConfigError, match="was not run by Move37"):
        replay_campaign(store, foreign)
    store.close()


def test_an_experiment_that_was_never_trained_cannot_be_replayed(finished: Cli) -> None:
    store: Store = finished.store()
    campaign = store.campaign("tiny")
    untrained = [e.id for e in store.experiments(campaign.id) if e.status in {"rejected", "duplicate"}]
    store.close()
    for experiment in untrained:
        assert "was never trained" in finished("replay", experiment, expect=2).stderr
    unknown = finished("replay", "nothing", expect=2).stderr
    assert "no experiment 'nothing'" in unknown
    assert "There are: tiny" in unknown
