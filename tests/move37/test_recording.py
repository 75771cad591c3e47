"""`--cassette` at the command line: a campaign is recorded, and runs again without a model."""

from pathlib import Path

import pytest

from tests.move37.conftest import TINY, Cli, results

pytestmark = pytest.mark.campaign


@pytest.mark.thorough
def test_a_recorded_campaign_runs_again_from_the_cassette(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    campaign = (*TINY, "--experiments", "3", "--seed", "5", "--cassette", str(path))
    refused = cli("run", *campaign, "--cassette-mode", "record", expect=2)  # a file can be edited: no trust
    assert "--accept-unsafe" in refused.stderr
    assert not path.exists()
    cli("run", *campaign, "--cassette-mode", "record", "--accept-unsafe", "--name", "first")
    content = path.read_bytes()
    assert len(content.splitlines()) > 3
    cli("run", *campaign, "--cassette-mode", "replay", "--accept-unsafe", "--name", "again")
    assert path.read_bytes() == content
    store = cli.store()
    assert results(store, "first") == results(store, "again")
    announced = store.campaign("again").announcements
    assert any("every reply comes from it" in notice for notice in announced)
    assert any("not a language model" in notice for notice in announced)
    store.close()
    missed = cli(
        "run", *campaign, "--seed", "6", "--cassette-mode", "replay", "--accept-unsafe", "--name", "other", expect=4
    )
    assert "holds no reply to this request; nearest of its" in missed.stderr


def test_a_cassette_that_cannot_be_used_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    for flags, says in (
        (["--cassette", str(path), "--cassette-mode", "replay"], "--cassette-mode record"),
        (["--cassette", str(path)], "record, replay or off"),
        (["--cassette-mode", "record"], "--cassette"),
        (["--cassette", str(path), "--cassette-mode", "erase"], "no cassette mode"),
    ):
        assert says in cli("run", *TINY, *flags, expect=2).stderr
    assert cli.json("status") == []
