"""`kill -9` of the campaign's process at random moments loses nothing and repeats nothing."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.move37.conftest import TINY, Cli, outcomes

pytestmark = pytest.mark.campaign

CAMPAIGN = (*TINY, "--experiments", "8", "--seed", "11", "--name", "victim")


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("wanted", [2, 5])
def test_kills_leave_the_campaign_as_if_undisturbed(cli: Cli, tmp_path: object, wanted: int) -> None:
    undisturbed = Cli(tmp_path / "undisturbed")  # type: ignore[operator]
    started = time.monotonic()
    undisturbed("run", *CAMPAIGN)
    whole_s = time.monotonic() - started

    rng = random.Random(20261123)
    command: tuple[str, ...] = ("run", *CAMPAIGN)
    kills = 0
    while kills < wanted:
        process = cli.start(*command)
        time.sleep(rng.uniform(0.05, 0.3) * whole_s)  # anywhere from start-up to some experiments later
        assert process.poll() is None, "the campaign ended before it could be killed often enough"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        if (cli.runs / "move37.db").exists() and cli.json("status"):
            assert cli.json("status")[0]["state"] == "interrupted"
            command = ("resume", "victim")
    cli("resume", "victim")

    ours, theirs = cli.store(), undisturbed.store()
    assert outcomes(ours, "victim") == outcomes(theirs, "victim")
    campaign = ours.campaign("victim").id
    exchanges = [(x.experiment_id, x.role, x.attempt, x.turn, x.text) for x in ours.exchanges(campaign_id=campaign)]
    expected = [
        (x.experiment_id, x.role, x.attempt, x.turn, x.text)
        for x in theirs.exchanges(campaign_id=theirs.campaign("victim").id)
    ]
    assert sorted(exchanges) == sorted(expected)
    assert len(exchanges) == len({x[:4] for x in exchanges})
    trials = [(t.experiment_id, t.task, t.seed, t.data) for t in ours.trials(campaign_id=campaign)]
    assert len(trials) == len(set(trials)) == len(theirs.trials(campaign_id=theirs.campaign("victim").id))
    assert all(t.state == "completed" for t in ours.trials(campaign_id=campaign))
    assert max(2, kills - 2) <= len(ours.sessions(campaign)) <= kills + 1  # a kill during start-up leaves none
    ours.close()
    theirs.close()


def test_ctrl_c_stops_cleanly_says_how_to_resume_and_a_second_resume_is_refused(cli: Cli) -> None:
    process = cli.start("run", *CAMPAIGN)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (cli.runs / "move37.db").exists() and (rows := cli.json("status")) and rows[0]["experiments"]["completed"]:
            break
        time.sleep(0.2)
    busy = cli("resume", "victim", expect=2)
    assert f"running in process {process.pid}" in busy.stderr
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    (row,) = cli.json("status")
    assert row["state"] == "stopped"
    assert row["stopped_because"] == "interrupted"
    children = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == process.pid]
    assert children == []


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None
