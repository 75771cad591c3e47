"""Replay: a campaign without model or network, an experiment bit by bit, and what happens when they diverge."""

import socket
import sqlite3

import pytest

from memory.store import Store
from move37.errors import ReplayDiverged
from move37.replaying import replay_campaign
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
    with pytest.raises(ReplayDiverged, match=r"differs from the stored one of tiny-000[23] .* at character"):
        replay_campaign(store, store.campaign("tiny"))
    store.close()


def test_a_metric_that_was_tampered_with_is_found(finished: Cli, tmp_path: object) -> None:
    """Finished rows cannot be changed in place, so the tampering is done on a copy without the triggers."""
    copy = Cli(tmp_path / "copy")  # type: ignore[operator]
    copy.runs.mkdir()
    with sqlite3.connect(finished.runs / "move37.db") as source, sqlite3.connect(copy.runs / "move37.db") as target:
        source.backup(target)
    with sqlite3.connect(copy.runs / "move37.db") as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f'drop trigger "{name}"')
        database.execute("update trials set score = score + 1e-9 where experiment_id = 'tiny-0000'")
    assert "metrics differ by up to 1e-09" in copy("replay", "tiny-0000", expect=1).stderr


def test_an_experiment_that_was_never_trained_cannot_be_replayed(finished: Cli) -> None:
    store: Store = finished.store()
    campaign = store.campaign("tiny")
    untrained = [e.id for e in store.experiments(campaign.id) if e.status in {"rejected", "duplicate"}]
    store.close()
    for experiment in untrained:
        assert "was never trained" in finished("replay", experiment, expect=1).stderr
    assert "There are: tiny" in finished("replay", "nothing", expect=2).stderr
