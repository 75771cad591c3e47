"""`move37 export` and `move37 import`: files, exit codes, JSON, what is said where."""

import json
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from memory.store import Store, open_store
from memory.testing import Ticking, completed, new_campaign
from move37.cli import exchanging, inspecting

DATA = Path(__file__).resolve().parents[1] / "memory" / "data"
TREE, GALLERY = DATA / "asi_arch_small_tree.json", DATA / "asi_arch_small_gallery.json"

app = typer.Typer()
app.command("export")(exchanging.export)
app.add_typer(exchanging.import_app, name="import")
for command in (inspecting.status, inspecting.lineage, inspecting.show):
    app.command(command.__name__)(command)


@dataclass
class Here:
    """The commands over one runs directory."""

    runs: Path

    def __call__(self, *arguments: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(app, list(arguments), env={"MOVE37_RUNS": str(self.runs), "COLUMNS": "140"})
        assert done.exit_code == expect, f"exit {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def store(self) -> Store:
        return open_store(f"sqlite:///{self.runs / 'move37.db'}", clock=Ticking())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A memory with a campaign and its fork, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOVE37_STORE", raising=False)
    made = Here(tmp_path / "here")
    with closing(made.store()) as store:
        origin = new_campaign(store, "tiny")
        for index in range(3):
            completed(store, origin, index, score=0.25 * index, parent="tiny-0000" if index else None)
        forked = new_campaign(store, "fork", forked_from=origin.id, forked_at="tiny-0002")
        completed(store, forked, 0, parent="tiny-0002")
    return made


@pytest.fixture
def there(tmp_path: Path) -> Here:
    """No memory yet."""
    return Here(tmp_path / "there")


def test_a_campaign_travels_as_one_file(here: Here, there: Here, tmp_path: Path) -> None:
    said = here("export", "tiny")
    file = tmp_path / "tiny.move37.zip"
    assert "wrote tiny.move37.zip: 3 experiments" in said.stdout
    assert "imported tiny: 3 experiments" in there("import", str(file)).stdout
    assert there.json("lineage", "tiny") == here.json("lineage", "tiny")
    assert there.json("show", "tiny-0002") == here.json("show", "tiny-0002")
    there("export", "tiny", "--out", "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()
    assert "tiny: already there, nothing changed" in there("import", "archive", str(file)).stdout


def test_the_file_holds_tables_programs_and_parquet(here: Here, tmp_path: Path) -> None:
    result = here.json("export", "tiny", "-o", "a.zip")
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert result["campaign"] == "tiny"
    assert result["rows"]["experiments"] == 3
    assert result["programs"] == sum(name.startswith("programs/") for name in names) == 3
    assert {"manifest.json", "tables/experiments.jsonl", "tables/trials.parquet"} <= set(names)
    here("export", "tiny", "-o", "b.zip", "--no-parquet")
    assert not any(name.endswith(".parquet") for name in zipfile.ZipFile(tmp_path / "b.zip").namelist())


def test_no_file_is_replaced_unasked(here: Here, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("precious")
    assert "--force" in here("export", "tiny", "-o", "a.zip", expect=2).stderr
    assert (tmp_path / "a.zip").read_text() == "precious"
    here("export", "tiny", "-o", "a.zip", "--force")
    assert zipfile.is_zipfile(tmp_path / "a.zip")


def test_a_fork_says_what_it_needs(here: Here, there: Here) -> None:
    assert "it builds on tiny" in here("export", "fork", "-o", "fork.zip").stderr
    refused = there("import", "fork.zip", expect=2)
    assert "'tiny'" in refused.stderr
    assert there.json("status") == []
    here("export", "fork", "-o", "both.zip", "--with-origins")
    assert sorted(there.json("import", "both.zip")["campaigns"]) == ["fork", "tiny"]
    assert there.json("import", "fork.zip")["already_there"] == ["fork"]


def test_bad_files_are_the_users_to_mend(here: Here, there: Here, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    here("export", "tiny", "-o", "a.zip")
    (tmp_path / "half.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:2000])
    for name, message in (("text.zip", "no archive"), ("half.zip", "cut off"), ("none.zip", "No such file")):
        said = there("import", name, expect=2).stderr
        assert said.startswith(f"move37: {name}: ")
        assert message in said
        assert said.count("\n") == 1
    assert "there is no campaign 'nobody'" in here("export", "nobody", expect=2).stderr
    assert "cannot be written" in here("export", "tiny", "-o", "no/such/a.zip", expect=2).stderr
    assert there.json("status") == []


def test_asi_arch_is_read_with_our_own_commands(there: Here) -> None:
    result = there.json("import", "asi-arch", str(TREE), str(GALLERY))
    assert result["rows"]["experiments"] == 11
    [row] = there.json("status")
    assert (row["name"], row["state"], row["best"]) == (
        "asi-arch",
        "finished",
        {"id": "asi-arch-0011", "score": 2.25},
    )
    assert row["experiments"]["total"] == row["experiments"]["planned"] == 11
    nodes = {node["id"]: node for node in there.json("lineage", "asi-arch")["nodes"]}
    assert nodes["asi-arch-0011"]["parent"] == "asi-arch-0006"
    assert "asi-arch-0011 RouteMix" in there("lineage", "asi-arch").stdout
    assert "self.gate" in there("show", "asi-arch-0006", "--code", "--diff").stdout
    assert "A gate on the output" in there("show", "asi-arch-0002").stdout
    assert "already there" in there("import", "asi-arch", str(TREE), str(GALLERY)).stdout
    assert "--name" in there("import", "asi-arch", str(TREE), expect=2).stderr
    there("import", "asi-arch", "--name", "bare", str(TREE))
    assert {row["name"] for row in there.json("status")} == {"asi-arch", "bare"}


def test_oddities_are_warnings_on_stderr(there: Here, tmp_path: Path) -> None:
    tree = json.loads(TREE.read_text()) | {"total_records": 1773}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    done = there("import", "asi-arch", str(tmp_path / "tree.json"))
    assert "warning" in done.stderr
    assert "1773" in done.stderr
    assert "1773" not in done.stdout


def test_a_bad_tree_names_the_node(there: Here, tmp_path: Path) -> None:
    tree = json.loads(TREE.read_text())
    tree["results"][3]["parent"] = 77
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    said = there("import", "asi-arch", str(tmp_path / "tree.json"), expect=2).stderr
    assert "node 4 ('plain_delta_decay'): its parent 77 is not in the file" in said
    assert there.json("status") == []


@pytest.mark.parametrize("command", [("import",), ("import", "archive"), ("import", "asi-arch"), ("export",)])
def test_every_form_has_its_help(there: Here, command: tuple[str, ...]) -> None:
    said = there(*command, "--help").stdout
    assert "Usage" in said
    if command == ("import",):
        assert "asi-arch" in said
    assert not there.runs.exists()
