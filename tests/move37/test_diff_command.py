"""`move37 diff`: two experiments or files, in structure, in text and in what was measured."""

from pathlib import Path

import pytest

from evaluator import catalogue
from tests.move37.stored_lineages import Stored, make

MODULE = (
    "from torch import nn\n\n\nclass A(nn.Module):\n    def __init__(self, d):\n        self.up = nn.Linear(d, d)\n"
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return make(tmp_path_factory.mktemp("diff") / "runs")


def test_two_experiments(stored: Stored) -> None:
    data = stored.json("diff", "demo-0000", "demo-0001")
    assert data["identical"] is False
    assert (data["a"]["experiment"]["id"], data["b"]["label"]) == ("demo-0000", "demo-0001")
    assert data["metrics"]["delta"] == pytest.approx(0.22 / 3)
    assert data["metrics"]["low"] < data["metrics"]["delta"] < data["metrics"]["high"]
    assert data["structural"]["counts"] == {"came": 0, "went": 0, "moved": 0, "changed": 1, "renamed": 0}
    (change,) = data["structural"]["changes"]
    assert (change["what"], change["kind"]) == ("changed", "operation")
    assert (change["before"]["value"], change["after"]["value"]) == ("gated=True", "")
    assert data["textual"]["lines"][:2] == ["--- demo-0000", "+++ demo-0001"]
    assert data["textual"]["added"] > 0
    text = stored.run("diff", "demo-0000", "demo-0001").stdout
    assert "b against a  +0.073 [" in text
    assert "~ operation DeltaRule: gated=True → nothing" in text
    assert "--- demo-0000" in text


def test_one_part_alone(stored: Stored) -> None:
    structural = stored.json("diff", "demo-0000", "demo-0001", "--structural")
    assert structural["textual"] is None
    assert structural["structural"]["available"]
    textual = stored.json("diff", "demo-0000", "demo-0001", "--textual")
    assert textual["structural"] is None
    both = stored.json("diff", "demo-0000", "demo-0001", "--textual", "--structural")
    assert both == stored.json("diff", "demo-0000", "demo-0001")


def test_the_same_program(stored: Stored) -> None:
    data = stored.json("diff", "demo-0001", "demo-0003")
    assert data["identical"] is True
    assert data["structural"]["changes"] == []
    assert data["textual"]["lines"] == []
    assert data["metrics"]["delta"] == pytest.approx(0.2)
    assert "the same text" in stored.run("diff", "demo-0001", "demo-0003").stdout


def test_a_program_that_does_not_parse_is_compared_as_text(stored: Stored) -> None:
    data = stored.json("diff", "demo-0001", "demo-0002")
    assert data["structural"]["available"] is False
    assert "demo-0002 has no structure to compare: it does not parse" in data["structural"]["reason"]
    assert "+def build_mixer(:" in data["textual"]["lines"]
    assert "structure: not compared. demo-0002" in stored.run("diff", "demo-0001", "demo-0002").stdout


def test_an_experiment_without_a_program(stored: Stored) -> None:
    data = stored.json("diff", "demo-0003", "demo-0005")
    reason = "no program stored for demo-0005 (failed)"
    assert (data["identical"], data["b"]["missing"], data["b"]["score"]) == (None, reason, 0.7)
    assert data["structural"]["reason"] == data["textual"]["reason"] == reason
    assert data["metrics"]["delta"] == pytest.approx(0.7 - 0.43833333)
    assert data["metrics"]["reason"] == "no scored trials stored for demo-0005"
    assert reason in stored.run("diff", "demo-0003", "demo-0005").stdout


def test_files_need_no_store(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text(MODULE, encoding="utf-8")
    other.write_text(MODULE.replace("self.up = nn.Linear(d, d)", "self.down = nn.Linear(d, d)"), encoding="utf-8")
    nowhere = Stored(tmp_path / "nowhere")
    data = nowhere.json("diff", str(one), str(other))
    assert data["metrics"] is None
    assert [(c["what"], c["before"]["name"], c["after"]["name"]) for c in data["structural"]["changes"]] == [
        ("renamed", "up", "down")
    ]
    assert "= module up is now down" in nowhere.run("diff", str(one), str(other)).stdout


def test_a_file_against_an_experiment(stored: Stored, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(catalogue.source("gated_delta_net"), encoding="utf-8")
    data = stored.json("diff", str(path), "demo-0000")
    assert (data["identical"], data["metrics"]) == (True, None)


def test_refusals(stored: Stored, tmp_path: Path) -> None:
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 at byte 0" in stored.run("diff", str(binary), "demo-0000", expect=2).stderr
    assert "no experiment 'nobody', and no file" in stored.run("diff", "nobody", "demo-0000", expect=2).stderr
    assert "there is no experiment" in stored.run("diff", "n" * 5_000, "demo-0000", expect=2).stderr


def test_control_characters_of_a_program_do_not_reach_the_terminal(stored: Stored, tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("X = 1\n", encoding="utf-8")
    other.write_text("X = '\x1b[31m\u202e'\n# \x1b]0;title\x07\n", encoding="utf-8")
    text = stored.run("diff", str(one), str(other)).stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_ten_megabytes_are_refused_in_words(stored: Stored, tmp_path: Path) -> None:
    large = tmp_path / "large.py"
    large.write_text("x = 1\n" * 1_700_000, encoding="utf-8")
    data = stored.json("diff", str(large), "demo-0000")
    assert "characters" in data["structural"]["reason"]
    assert "more than 20,000 are not compared" in data["textual"]["reason"]
