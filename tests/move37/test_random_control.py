"""The random control in a campaign: trusted as the grammar is, and recorded under its own name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL
from memory.store import open_store
from move37 import launch
from move37.config import CampaignConfig
from tests.move37.conftest import Cli


def test_the_arm_has_its_name(tiny_config: Callable[..., CampaignConfig], tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/move37.db")
    arms = {
        name: launch.start(store, tiny_config(name=f"c{i}", model__name=name)).arms[-1]
        for i, name in enumerate((None, EMBEDDED_MODEL, RANDOM_MODEL))
    }
    store.close()
    assert arms == {None: "grammar", EMBEDDED_MODEL: "grammar", RANDOM_MODEL: "random"}


@pytest.mark.thorough
def test_a_campaign_of_it(cli: Cli) -> None:
    small = ("--tier", "micro", "--tasks", "recall", "--trial-seeds", "0", "--experiments", "4")
    ran = cli("run", *small, "--name", "blind", "--model", RANDOM_MODEL, "--sandbox", "process")
    assert "random control" in ran.stdout + ran.stderr
    store = cli.store()
    experiments = store.experiments(store.campaign("blind").id)
    assert [e.arm for e in experiments] == ["starters", "starters", "random", "random"]
    assert all(e.hypothesis is None or "at random" in e.hypothesis["mechanism"] for e in experiments[2:])
    assert store.campaign("blind").config["objective"]["salt"] == ""
    store.close()
