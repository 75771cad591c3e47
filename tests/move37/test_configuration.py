"""A configuration is strict, frozen, hashed, and its errors name the remedy."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from move37.config import CampaignConfig, load
from move37.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "campaign.toml"
    path.write_text(text)
    return path


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, 'experiments = 9\nparallel = 3\n[objective]\ntier = "micro"\n')
    config = load(path, {"experiments": 5, "objective.tasks": ["mqar"], "seed": None})
    assert (config.experiments, config.parallel, config.objective.tier) == (5, 3, "micro")
    assert config.objective.tasks == ("mqar",)
    assert config.seed == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("experimnts = 3", "did you mean 'experiments'"),
        ("[objective]\ntasg = 1", "did you mean 'objective.tasks'"),
        ("[budget]\nusd = 0", "budget.usd"),
        ("[budget]\ntokens = -5", "budget.tokens"),
        ("experiments = 0", "experiments"),
        ("experiments = '3'", "experiments"),
        ("seed = 1.5", "seed"),
        ("[objective]\ntasks = []", "nothing would be measured"),
        ("[objective]\ntasks = ['recall', 'recall']", "twice"),
        ("[objective]\ntasks = ['recal']", "Did you mean 'recall'"),
        ("[objective]\ntier = 'smok'", "Did you mean 'smoke'"),
        ("[objective]\ntrack = 'audio'", "there is no track"),
        ("[search]\nstarters = ['mamba9']", "there is no starter"),
        ("name = '../evil'", "lower-case"),
        ("objective = 3", "objective"),
        ("[model]\nname = 'm'\n[budget]\nusd = 1.0", "needs prices"),
        ("experiments = ", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(written(tmp_path, text), {})


def test_the_grammar_costs_nothing_beside_other_models_too(tmp_path: Path) -> None:
    other = 'name = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    prices = "input_usd_per_million = 1.0\noutput_usd_per_million = 2.0\n"
    budget = "[budget]\nusd = 1.0\n"
    assert load(written(tmp_path, f"{budget}[[model.others]]\n{other}{prices}"), {}).model.priced
    with pytest.raises(ConfigError, match="needs prices"):
        load(written(tmp_path, f"{budget}[[model.others]]\n{other}"), {})
    served = f'{budget}[model]\n{other}{prices}[[model.others]]\nname = "move37-grammar"\nbase_url = "http://127.0.0.1:8/v1"\n'
    with pytest.raises(ConfigError, match="needs prices"):  # what is there only calls itself so
        load(written(tmp_path, served), {})


def test_the_environment_names_the_model_where_a_file_only_bounds_it(tmp_path: Path) -> None:
    outside = {"model.name": "elsewhere", "model.base_url": "http://127.0.0.1:9/v1"}
    bounded = load(written(tmp_path, "[model]\nmax_output_tokens = 100\n"), {}, defaults=outside).model
    assert (bounded.name, bounded.base_url, bounded.max_output_tokens) == (*outside.values(), 100)
    placed = load(written(tmp_path, '[model]\nbase_url = "http://127.0.0.1:8/v1"\n'), {}, defaults=outside).model
    assert (placed.name, placed.base_url) == (None, "http://127.0.0.1:8/v1")
    with pytest.raises(ConfigError, match="model"):
        load(written(tmp_path, "model = 3\n"), {}, defaults=outside)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml", {})


def test_the_hash_covers_what_decides_results_and_not_the_name(tiny_config: Callable[..., CampaignConfig]) -> None:
    base = tiny_config()
    assert tiny_config(name="other").config_hash() == base.config_hash()
    for change in ({"seed": 1}, {"objective__seeds": [1]}, {"search__exemplars": 1}, {"parallel": 2}):
        assert tiny_config(**change).config_hash() != base.config_hash()


def test_a_configuration_cannot_be_changed_after_load(tiny_config: Callable[..., CampaignConfig]) -> None:
    with pytest.raises(ValidationError):
        tiny_config().seed = 3  # type: ignore[misc]
