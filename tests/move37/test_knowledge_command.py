"""`move37 knowledge`: lists, finds, shows, and says what is spelt alike."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from memory.knowledge_base.entries import entries
from memory.symptoms import SYMPTOMS
from move37.cli.knowing import knowledge

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command("knowledge")(knowledge)
    return app


def ask(app: typer.Typer, *arguments: str, expect: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == expect, result.output
    return result.stdout if expect == 0 else result.stderr


def data(app: typer.Typer, *arguments: str) -> Any:
    return json.loads(ask(app, *arguments, "--json"))


def test_without_options_every_entry_is_listed(app: typer.Typer) -> None:
    lines = ask(app).splitlines()
    assert [line.split()[0] for line in lines] == [one.id for one in entries()]
    assert [row["id"] for row in data(app)] == [one.id for one in entries()]


def test_symptoms_are_listed_with_their_entries(app: typer.Typer) -> None:
    rows = data(app, "--symptoms")
    assert [row["symptom"] for row in rows] == list(SYMPTOMS)
    assert all(row["entries"] >= 2 and row["description"] for row in rows)
    assert "no-state-tracking" in ask(app, "--symptoms")


def test_a_symptom_finds_what_treats_it(app: typer.Typer) -> None:
    rows = data(app, "--symptom", "no-state-tracking", "-s", "recall-fails", "--track", "sequence")
    assert rows[0]["by"] == ["no-state-tracking", "recall-fails"]
    assert all({"no-state-tracking", "recall-fails"} & set(row["symptoms"]) for row in rows)
    assert {row["track"] for row in rows} <= {"sequence", "both"}
    assert data(app, "-s", "no-state-tracking", "--limit", "2") == data(app, "-s", "no-state-tracking")[:2]
    assert "[no-state-tracking]" in ask(app, "-s", "no-state-tracking")


def test_search_lists_and_says_when_nothing_fits(app: typer.Typer) -> None:
    assert data(app, "--search", "retnet")[0]["id"] == "retnet"
    assert data(app, "--search", "xyzzy") == []
    assert "no entry fits" in ask(app, "--search", "xyzzy")


def test_an_entry_is_shown_whole_with_its_caveats(app: typer.Typer) -> None:
    text = ask(app, "--show", "kde-attention")
    assert "(2023?)" in text
    assert "not measured by Move37; read in the abstract" in text
    row = data(app, "--show", "kde-attention")
    assert row["year_recalled"] is True
    assert row["pitfalls"].split()[0] in text
    assert {"id", "title", "year", "source", "idea", "when", "pitfalls", "claims", "tags", "symptoms"} <= set(row)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--show", "retnett"), "Did you mean 'retnet'"),
        (("--symptom", "recall-fail"), "Did you mean 'recall-fails'"),
        (("--symptom", "zzz"), "`move37 knowledge --symptoms` lists them"),
        (("--show", "retnet", "--search", "x"), "--search and --show are different questions"),
    ],
)
def test_what_cannot_be_answered_is_said_with_exit_code_2(
    app: typer.Typer, arguments: tuple[str, ...], said: str
) -> None:
    assert said in ask(app, *arguments, expect=2)


def test_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, typer\nfrom move37.cli.knowing import knowledge\n"
        "app = typer.Typer()\napp.command()(knowledge)\nsys.argv = ['knowledge', '--search', 'retnet']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'sqlalchemy', 'numpy', 'pydantic', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
