"""An imported campaign does nothing with this machine and its keys that its configuration alone asks for."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from memory.records import Campaign
from memory.store import Store, open_store
from memory.testing import completed
from move37 import brought, launch, retraining
from move37.cli import exchanging, forking, replaying, running
from move37.config import CampaignConfig, validate
from sandbox import selection

ENDPOINT = {"name": "m", "base_url": "http://127.0.0.1:9/v1"}
TINY = {"objective": {"tier": "micro", "tasks": ["recall"], "seeds": [0], "salt": ""}, "search": {"starters": ["mlp"]}}

app = typer.Typer()
app.command("export")(exchanging.export)
app.add_typer(exchanging.import_app, name="import")
for command in (running.resume, forking.fork, replaying.replay):
    app.command(command.__name__)(command)


class Stopped(Exception):
    """Instead of a sandbox."""


def configured(**sections: Any) -> CampaignConfig:
    return validate({"name": "tiny", **TINY, **sections})


def store_in(runs: Path, *, create: bool = False) -> Store:
    runs.mkdir(exist_ok=True)
    return open_store(f"sqlite:///{runs / 'move37.db'}", create=create)


def invoke(runs: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--runs-dir", str(runs)], env={"MOVE37_STORE": ""})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, bool, bool]]:
    """Which sandboxes were asked for: backend, whether programs are trusted, whether unsafe running is accepted."""
    asked: list[tuple[str, bool, bool]] = []

    async def open_it(choice: str, *, programs_trusted: bool, accept_unsafe: bool, equipment: object) -> None:
        asked.append((choice, programs_trusted, accept_unsafe))
        raise Stopped

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selection, "open_sandbox", open_it)
    monkeypatch.setattr(launch, "open_sandbox", open_it)
    monkeypatch.setattr(retraining, "require_retrainable", lambda *_: None)  # the stored experiments have no trials
    return asked


def imported(tmp_path: Path, config: CampaignConfig, announcement: str = "") -> Path:
    """The runs directory of somebody who imported a campaign of this configuration."""
    here, there = tmp_path / "here", tmp_path / "there"
    with closing(store_in(here, create=True)) as store:
        campaign = launch.start(store, config)
        if announcement:
            store.set_campaign_state(campaign.id, "running", announcement=announcement)
        completed(store, campaign, 0)
    assert invoke(here, "export", "tiny", "--out", str(tmp_path / "a.zip")).exit_code == 0
    assert invoke(there, "import", str(tmp_path / "a.zip")).exit_code == 0
    return there


def the_campaign(runs: Path) -> Campaign:
    with closing(store_in(runs)) as store:
        return store.campaign("tiny")


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"sandbox": {"backend": "process"}}, "without isolation"),
        ({"model": ENDPOINT, "sandbox": {"accept_unsafe": True}}, "without isolation"),
        ({"model": ENDPOINT}, "your API key go to http://127.0.0.1:9/v1"),
        ({"model": {**ENDPOINT, "others": [{"name": "o", "api_key_env": "HUB_TOKEN"}]}}, "holds as HUB_TOKEN"),
        ({"embeddings": {"model": "e", "base_url": "http://127.0.0.1:8/v1", "dimensions": 4}}, "http://127.0.0.1:8/v1"),
    ],
)
@pytest.mark.parametrize("command", [("resume", "tiny"), ("fork", "tiny-0000", "--experiments", "1")])
def test_what_an_archive_asks_of_the_machine_needs_the_users_word(
    opened: list[Any], tmp_path: Path, sections: dict[str, Any], says: str, command: tuple[str, ...]
) -> None:
    done = invoke(imported(tmp_path, configured(**sections)), *command)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "--trust" in done.stderr
    assert not opened


def test_it_goes_on_where_it_asks_for_nothing_and_its_programs_are_not_our_own(
    opened: list[Any], tmp_path: Path
) -> None:
    there = imported(tmp_path, configured())
    assert isinstance(invoke(there, "resume", "tiny").exception, Stopped)
    assert isinstance(invoke(there, "resume", "tiny").exception, Stopped)  # to have tried changes nothing
    assert isinstance(invoke(there, "resume", "tiny", "--trust").exception, Stopped)
    assert isinstance(invoke(there, "resume", "tiny").exception, Stopped)  # the word is remembered
    assert [trusted for _, trusted, _ in opened] == [False, False, True, True]


def test_a_fork_with_a_model_and_a_sandbox_of_its_own_needs_no_word(opened: list[Any], tmp_path: Path) -> None:
    there = imported(tmp_path, configured(model=ENDPOINT, sandbox={"backend": "process"}))
    own = ("--model", "move37-grammar", "--sandbox", "bubblewrap", "--experiments", "1")
    assert isinstance(invoke(there, "fork", "tiny-0000", *own).exception, Stopped)
    assert opened == [("bubblewrap", True, False)]
    assert "9/v1" in invoke(there, "fork", "tiny-0000", "--model", "n", "--sandbox", "auto").stderr


def test_an_experiment_of_an_archive_is_trained_again_in_isolation(opened: list[Any], tmp_path: Path) -> None:
    there = imported(tmp_path, configured(sandbox={"backend": "process", "accept_unsafe": True}))
    assert isinstance(invoke(there, "replay", "tiny-0000").exception, Stopped)
    assert "--trust" in invoke(there, "replay", "tiny-0000", "--sandbox", "process").stderr
    assert isinstance(invoke(there, "replay", "tiny-0000", "--trust").exception, Stopped)
    assert opened == [("auto", False, False), ("process", True, True)]


def test_what_a_cassette_said_is_nobodys_later_either(opened: list[Any], tmp_path: Path) -> None:
    there = imported(tmp_path, configured(), "cassette c.jsonl: every reply comes from it, and no model is asked")
    invoke(there, "replay", "tiny-0000", "--trust")
    invoke(there, "resume", "tiny")
    assert [trusted for _, trusted, _ in opened] == [False, False]


def test_a_campaign_of_this_runs_directory_goes_on_as_ever(opened: list[Any], tmp_path: Path) -> None:
    there = imported(tmp_path, configured(sandbox={"backend": "process"}))
    here = tmp_path / "here"
    assert the_campaign(here) == the_campaign(there)
    assert isinstance(invoke(here, "replay", "tiny-0000").exception, Stopped)
    assert isinstance(invoke(here, "resume", "tiny").exception, Stopped)
    assert opened == [("process", True, False)] * 2
    assert invoke(here, "import", str(tmp_path / "a.zip")).exit_code == 0  # already there: nothing changed
    invoke(here, "resume", "tiny")
    assert opened[2:] == [("process", True, False)]


def test_an_experiment_takes_no_cassette_and_no_prompts(opened: list[Any], tmp_path: Path) -> None:
    there = imported(tmp_path, configured())
    for option in ("--cassette", "--prompts"):
        done = invoke(there, "replay", "tiny-0000", option, "x")
        assert done.exit_code == 2
        assert "for campaigns" in done.stderr
    assert not opened


def test_nothing_is_asked_of_a_plain_campaign() -> None:
    assert brought.asked(configured(), configured()) == []
