"""What the reading commands say about a finished campaign: stable JSON, terminal, DOT, HTML."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.move37.conftest import ROOT, Cli

pytestmark = pytest.mark.campaign


def test_status_counts_every_experiment_once(finished: Cli) -> None:
    (row,) = finished.json("status")
    counts = row["experiments"]
    assert row["name"] == "tiny"
    assert row["state"] == "finished"
    assert row["stopped_because"] == "all experiments done"
    assert counts["total"] == 6
    assert counts["completed"] + counts["rejected"] + counts["duplicate"] + counts["failed"] == 6
    assert row["arms"] == ["starters", "grammar"]
    assert row["spent"]["tokens"] > 0
    assert row["spent"]["cost_usd"] == 0.0
    assert row["spent"]["wall_s"] > 0
    assert row["spent"]["device_s"] > 0
    assert any("not a language model" in notice for notice in row["notices"])


def test_lineage_json_is_a_forest_rooted_in_the_starters(finished: Cli) -> None:
    data = finished.json("lineage", "tiny")
    nodes = {node["id"]: node for node in data["nodes"]}
    assert data["campaign"] == "tiny"
    assert [n["id"] for n in data["nodes"]] == [f"tiny-{i:04d}" for i in range(6)]
    for node in data["nodes"]:
        assert {"id", "parent", "name", "status", "reason", "score", "program_sha256"} <= set(node)
        if node["kind"] == "starter":
            assert node["parent"] is None
        else:
            assert nodes[node["parent"]]["status"] == "completed"


def test_show_holds_everything_about_one_experiment(finished: Cli) -> None:
    nodes = finished.json("lineage", "tiny")["nodes"]
    proposals = [n["id"] for n in nodes if n["status"] == "completed" and n["parent"]]
    data = finished.json("show", proposals[0])
    assert data["program"].count("def build_mixer(") == 1
    assert {v["gate"] for v in data["attempts"][-1]["verdicts"]} >= {"syntax", "identity", "causality"}
    assert data["trials"][0]["metrics"]["accuracy"] >= 0
    assert [round(p["fraction"], 2) for p in data["trials"][0]["curve"]] == [0.1, 0.25, 0.5, 1.0]
    assert data["trials"][0]["environment"]["level"] == "process"
    assert [x["role"] for x in data["exchanges"]] == ["researcher", "coder", "analyst"]
    assert data["hypothesis"]["predictions"]
    assert data["analysis"]["lesson"]["claim"]
    assert data["environment"]["cost"]["parameters"] > 0
    text = finished("show", proposals[0], "--code", "--diff", "--curves", "--exchanges", "--analysis").stdout
    assert "def build_mixer(" in text
    assert data["hypothesis"]["change"] in text


def test_the_terminal_tree_and_dot_name_every_experiment(finished: Cli) -> None:
    tree = finished("lineage", "tiny").stdout
    dot = finished("lineage", "tiny", "--format", "dot").stdout
    for index in range(6):
        assert f"tiny-{index:04d}" in tree
        assert f'"tiny-{index:04d}" [' in dot
    assert dot.startswith("digraph")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [v for k, v in attrs if k in {"src", "href"} and v]


def test_the_html_lineage_needs_nothing_from_outside(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "lineage.html"
    finished("lineage", "tiny", "--format", "html", "--out", str(out))
    page = out.read_text()
    parser = _Page()
    parser.feed(page)
    assert parser.outside == []
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert len(data["nodes"]) == 6


def test_commands_work_from_any_directory(finished: Cli, tmp_path: Path) -> None:
    assert finished("status", "--json", cwd=tmp_path).stdout.startswith("[")


NEVER = ("torch", "numpy", "langgraph", "openai", "docker", "pydantic", "alembic", "usearch", "sklearn", "jinja2")
WITH_INTERVALS = tuple(name for name in NEVER if name != "numpy")
SLOW = ("sqlalchemy", "asyncio", "importlib.metadata", "email", "rich", "memory.lineage", "memory.knowledge_base")


UNWANTED = {
    "status": (*NEVER, *SLOW),
    "status --json": (*NEVER, *SLOW),
    "status tiny": WITH_INTERVALS,
    "lineage tiny": (*NEVER, "memory.knowledge_base"),
    "show tiny-0000 --json": (*WITH_INTERVALS, "rich", "memory.lineage", "memory.knowledge_base"),
    "--help": (*NEVER, "sqlalchemy", "memory"),
}


@pytest.mark.parametrize("command", UNWANTED)
def test_commands_that_read_import_what_they_need(finished: Cli, command: str) -> None:
    code = (
        f"import sys; sys.argv = ['move37', *{command.split()!r}]\n"
        "from move37.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        f"print([name for name in {UNWANTED[command]!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=finished.environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")


def test_what_is_not_there_is_said_with_exit_code_2(finished: Cli, cli: Cli) -> None:
    assert "There are: tiny" in finished("status", "nope", expect=2).stderr
    assert "lineage` lists the ids" in finished("show", "tiny-9999", expect=2).stderr
    assert "no experiment memory" in cli("lineage", expect=2).stderr
    assert cli.json("status") == []
    assert "finished" in finished("resume", "tiny", expect=2).stderr
