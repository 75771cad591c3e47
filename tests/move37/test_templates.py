"""A user's directory of templates: tried before the campaign begins, recorded with it, required when it goes on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memory.store import Store, open_store
from move37 import launch, templates
from move37.cli.main import app
from move37.config import load
from move37.errors import ConfigError, TemplatesDiffer
from prompts.errors import TemplateBroken, TemplateMissing, TemplatesChanged
from prompts.loader import PACKAGED, Prompts

MINE = "analyst.md.j2"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory with one template that differs from the packaged one."""
    directory = tmp_path / "my prompts"
    directory.mkdir()
    text = (PACKAGED / MINE).read_text(encoding="utf-8")
    (directory / MINE).write_text(f"{text}\nBe brief.\n", encoding="utf-8")
    return directory


def spoil(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ nobody }}", r"analyst\.md\.j2 lacks nobody"),
        ("{{ parent.nothing }}", r"analyst\.md\.j2"),
        ("{% if %}", r"analyst\.md\.j2, line 1"),
        ("{{ source | shout }}", r"shout"),
        ("{% include 'elsewhere.md.j2' %}", r"elsewhere\.md\.j2"),
    ],
)
def test_a_template_that_fails_is_told_before_anything_begins(own: Path, text: str, said: str) -> None:
    spoil(own, MINE, text)
    with pytest.raises(ConfigError, match=said):
        templates.tried(own)


def test_a_name_that_replaces_nothing_is_an_error_with_the_nearest(own: Path) -> None:
    spoil(own, "reseacher.md.j2", "Hello.")
    with pytest.raises(ConfigError, match=r"reseacher\.md\.j2 replaces no template.*Did you mean researcher\.md\.j2"):
        templates.tried(own)
    with pytest.raises(ConfigError, match="no directory"):
        templates.tried(own / "nowhere")


def test_a_template_of_ones_own_may_be_included(own: Path) -> None:
    spoil(own, "house_rules.md.j2", "Be brief.")
    spoil(
        own, "coder_system.md.j2", (PACKAGED / "coder_system.md.j2").read_text() + "{% include 'house_rules.md.j2' %}"
    )
    templates.tried(own)


def test_the_packaged_templates_can_be_used() -> None:
    assert set(templates.tried(None).hashes()) == {path.name for path in PACKAGED.glob("*.md.j2")}


def test_hashes_name_what_changed(own: Path) -> None:
    recorded = Prompts(own).hashes()
    Prompts(own).require(recorded)
    with pytest.raises(TemplatesChanged) as caught:
        Prompts().require(recorded)
    assert caught.value.templates == (MINE,)


def test_a_change_of_what_is_included_changes_the_hash(own: Path) -> None:
    before = Prompts(own).hashes()
    spoil(own, "scores.md.j2", (PACKAGED / "scores.md.j2").read_text() + "\n")
    changed = {name for name, digest in Prompts(own).hashes().items() if before[name] != digest}
    assert {"scores.md.j2", "researcher.md.j2", MINE} <= changed
    assert "coder_system.md.j2" not in changed


def test_errors_of_templates_are_typed(own: Path) -> None:
    spoil(own, "corrective.md.j2", "{{ why // asked }}")
    with pytest.raises(TemplateBroken):
        Prompts(own).render("corrective.md.j2", why="a", asked="b")
    spoil(own, "corrective.md.j2", "{% include 'gone.md.j2' %}{{ why }}{{ asked }}")
    with pytest.raises(TemplateMissing):
        Prompts(own).render("corrective.md.j2", why="a", asked="b")


@pytest.fixture
def store() -> Any:
    opened = open_store("sqlite://", create=True)
    yield opened
    opened.close()


def test_a_campaign_keeps_to_the_templates_it_began_with(store: Store, own: Path) -> None:
    campaign = launch.start(store, load(None, {"name": "mine"}))
    templates.of_campaign(store, campaign, own)
    assert templates.recorded_directory(store, campaign.id) == own.resolve()
    assert templates.of_campaign(store, campaign).hashes() == Prompts(own).hashes()
    moved = own.with_name("moved")
    shutil.move(own, moved)
    assert templates.of_campaign(store, campaign, moved).hashes() == Prompts(moved).hashes()
    spoil(moved, MINE, (moved / MINE).read_text() + "And polite.")
    with pytest.raises(TemplatesDiffer, match=MINE) as caught:
        templates.of_campaign(store, campaign, moved)
    assert caught.value.templates == (MINE,)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="no directory"):
        templates.of_campaign(store, campaign)


def test_a_campaign_from_before_is_not_checked(store: Store, own: Path) -> None:
    campaign = launch.start(store, load(None, {"name": "old"}))
    store.open_experiment(campaign.id, 0, arm="starters", kind="starter", track="sequence", tier="smoke")
    assert templates.of_campaign(store, campaign).hashes() == Prompts().hashes()
    assert store.events(campaign.id, kind="prompts") == []


@pytest.mark.parametrize("command", [["run", "--name", "never"], ["resume"], ["fork", "x"], ["replay", "x"]])
def test_the_commands_take_a_directory(command: list[str]) -> None:
    assert "--prompts" in CliRunner().invoke(app, [command[0], "--help"], env={"COLUMNS": "200"}).output


def test_a_launch_that_fails_leaves_no_campaign(tmp_path: Path, own: Path) -> None:
    spoil(own, MINE, "{{ nobody }}")
    runs = tmp_path / "runs"
    arguments = ["run", "--name", "never", "--prompts", str(own), "--runs-dir", str(runs), "--sandbox", "process"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert open_store(f"sqlite:///{runs / 'move37.db'}").campaigns() == []
