"""`identity`: real files through the real command line and a real worker, and every kind of file that is no program."""

import json
from pathlib import Path

import pytest

from evaluator import catalogue
from memory.identity import TEXT_PREFIX
from tests.move37.conftest import Cli

UNSAFE = ("--sandbox", "process", "--accept-unsafe", "--tier", "micro")
REWRITTEN = "(lambda u: u * u.sigmoid())(self.up(x))"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "it's mine & new.py"
    path.write_text(catalogue.source("mlp"))
    return path


def test_the_levels_of_two_programs_and_where_they_agree(cli: Cli, program: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(program.read_text().replace("F.silu(self.up(x))", REWRITTEN).replace("self.down", "self.last"))
    one, two = cli.json("identity", str(program), str(other), *UNSAFE)
    assert list(one) == ["file", "l0", "l1", "l2", "l3", "reasons"]
    assert (one["file"], two["file"], one["reasons"]) == (str(program), str(other), {})
    assert [one[level][:3] for level in ("l0", "l1", "l2", "l3")] == [TEXT_PREFIX, "s1-", "o1-", "f1-"]
    assert [one[level] == two[level] for level in ("l0", "l1", "l2", "l3")] == [False, False, False, True]


def test_a_copy_agrees_in_its_text_and_strangers_at_no_level(cli: Cli, program: Path, tmp_path: Path) -> None:
    copy, stranger = tmp_path / "copied.py", tmp_path / "stranger.py"
    copy.write_text("# mine\n" + program.read_text())
    stranger.write_text(catalogue.source("gated_recurrence"))
    assert "first agreement at l0" in cli("identity", str(program), str(copy), "--text-only").stdout
    assert "they agree at no level" in cli("identity", str(program), str(stranger), "--text-only").stdout


def test_text_only_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "never run.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (answer,) = cli.json("identity", str(path), "--text-only")
    assert (answer["l2"], answer["l3"]) == (None, None)
    assert "not asked for" in answer["reasons"]["l2"]
    assert answer["l0"]
    assert not (tmp_path / "ran").exists()


def test_what_the_static_gates_refuse_is_not_run_and_what_fails_has_no_key(cli: Cli, tmp_path: Path) -> None:
    refused, failing = tmp_path / "refused.py", tmp_path / "failing.py"
    refused.write_text("import os\n" + catalogue.source("mlp"))
    failing.write_text("def build_mixer(d_model, layer_index, n_layers):\n    raise ValueError('no luck')\n")
    first, second = cli.json("identity", str(refused), str(failing), *UNSAFE)
    assert first["l2"] is first["l3"] is None
    assert "imports gate" in first["reasons"]["l2"]
    assert second["l2"] is second["l3"] is None
    assert "no luck" in second["reasons"]["l3"]
    broken = tmp_path / "broken.py"
    broken.write_text("def build_mixer(:\n")
    (third,) = cli.json("identity", str(broken), "--text-only")
    assert third["l0"]
    assert third["l1"] is None
    assert third["reasons"]["l1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read the program"),
        (b"x = '\xff'\n", "not UTF-8"),
        (b"x = 1\n\x00y = 2\n", "NUL byte on line 2"),
        (b"#" * 10_000_000, "larger than 65536 bytes"),
    ],
)
def test_what_is_no_program_is_an_error_with_a_remedy(
    cli: Cli, tmp_path: Path, program: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "odd.py"
    if content is not None:
        path.write_bytes(content)
    done = cli("identity", str(program), str(path), "--json", expect=2)
    assert done.stdout == ""
    assert said in done.stderr
    assert str(path) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_directory_and_unknown_names_are_usage_errors(cli: Cli, tmp_path: Path, program: Path) -> None:
    assert "cannot read the program" in cli("identity", str(tmp_path), expect=2).stderr
    assert "micro, smoke" in cli("identity", str(program), "--tier", "huge", expect=2).stderr
    assert "there is no sandbox" in cli("identity", str(program), "--sandbox", "cloud", expect=2).stderr
    assert "isolat" in cli("identity", str(program), "--sandbox", "process", expect=2).stderr
    assert json.loads(cli("identity", str(program), "--text-only", "--json").stdout)[0]["l1"]
