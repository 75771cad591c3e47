"""`move37 lineage`: relatives, gains with intervals, the summary, cutting large trees, every format."""

import contextlib
import dataclasses
import json
import random
import re
import sqlite3
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import lineage
from memory.asi_arch import import_into
from memory.lineage import Forest
from memory.records import Campaign, Experiment
from memory.testing import new_campaign, new_experiment
from move37.report import graphml, html, mermaid
from move37.report.dot import lineage_dot
from move37.report.lineage import text_of, tree_lines
from move37.report.pruning import prune
from move37.tracing import Tracer
from move37.views import lineage_of
from tests.move37.stored_lineages import HOSTILE, Stored, experiment, make, unmeasured


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return make(tmp_path_factory.mktemp("lineage") / "runs")


def test_json_names_every_experiment_with_its_place(stored: Stored) -> None:
    data = stored.json("lineage", "demo")
    assert data["best_path"] == ["demo-0000", "demo-0001", "demo-0003"]
    assert data["left_out"] == 0
    assert [(n["id"], n["parent"], n["depth"], n["descendants"]) for n in data["nodes"]] == [
        ("demo-0000", None, 0, 5),
        ("demo-0001", "demo-0000", 1, 3),
        ("demo-0002", "demo-0000", 1, 0),
        ("demo-0003", "demo-0001", 2, 2),
        ("demo-0004", "demo-0003", 3, 0),
        ("demo-0005", "demo-0003", 3, 0),
    ]
    assert data["nodes"][3]["gain"] == pytest.approx(0.2)
    assert data["nodes"][4]["gain"] is None


def test_a_path_has_gains_per_edge_and_since_the_root_with_intervals(stored: Stored) -> None:
    data = stored.json("lineage", "--of", "demo-0003")
    assert [step["id"] for step in data["path"]] == ["demo-0000", "demo-0001", "demo-0003"]
    first, second, third = data["path"]
    assert first["delta"] is None
    step = second["delta"]
    # Student's t over the three seeds' differences of means over tasks: 0.05, 0.105, 0.065.
    assert step["delta"] == pytest.approx(0.22 / 3)
    half = 4.302652729911275 * 0.02843120351 / 3**0.5
    assert (step["low"], step["high"]) == pytest.approx((0.22 / 3 - half, 0.22 / 3 + half), abs=1e-6)
    assert (step["n"], step["confidence"], step["method"], step["reason"]) == (3, 0.95, "Student t", None)
    assert set(step["tasks"]) == {"recall", "mqar"}
    assert step["tasks"]["recall"]["delta"] == pytest.approx((0.1 + 0.13 + 0.08) / 3)
    assert third["cumulative"]["from"] == "demo-0000"
    assert third["cumulative"]["delta"] == pytest.approx(step["delta"] + third["delta"]["delta"])
    assert data["subtree"]["descendants"] == 2
    assert data["siblings"] == 0


def test_no_interval_says_why(stored: Stored) -> None:
    seeds = stored.json("lineage", "--of", "demo-0002")["path"][1]["delta"]
    assert seeds["low"] is None
    assert seeds["delta"] == pytest.approx(0.225 - 0.165)
    assert seeds["reason"] == "not every task was measured with the same seeds"
    assert seeds["tasks"]["recall"]["reason"] == "different seeds (0, 1, 2 and 0, 5): not paired"
    bare = stored.json("lineage", "--of", "demo-0005")["path"][-1]["delta"]
    assert (bare["low"], bare["reason"]) == (None, "no scored trials stored for demo-0005")
    unscored = stored.json("lineage", "--of", "demo-0004")["path"][-1]["delta"]
    assert (unscored["delta"], unscored["reason"]) == (None, "no score: demo-0004 (failed)")
    text = stored.run("lineage", "--of", "demo-0005").stdout
    assert "no program stored" in text
    assert "+0.262 (no scored trials stored)" in text


def test_different_objectives_have_no_difference(tmp_path: Path) -> None:
    stored = make(tmp_path)
    store = stored.open()
    other = new_campaign(store, "other", objective_hash="o1")
    experiment(store, other, 0, "demo-0001", {"recall": {0: 0.9}}, "x = 1\n")
    store.close()
    path = stored.json("lineage", "--of", "other-0000")["path"]
    assert [step["id"] for step in path] == ["demo-0000", "demo-0001", "other-0000"]  # a fork's way leads on
    assert path[-1]["delta"]["delta"] is None
    assert "different objectives (o0 and o1)" in path[-1]["delta"]["reason"]
    assert path[-1]["delta"]["tasks"]["recall"]["delta"] is None
    tree = stored.run("lineage", "other").stdout
    assert "other-0000" in tree
    assert "demo-0001" not in tree


def test_one_seed_has_a_difference_and_no_interval(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    store = stored.open()
    campaign = new_campaign(store)
    experiment(store, campaign, 0, None, {"recall": {0: 0.5}}, "x = 1\n")
    experiment(store, campaign, 1, "demo-0000", {"recall": {0: 0.6}}, "x = 2\n")
    store.close()
    delta = stored.json("lineage", "--of", "demo-0001")["path"][-1]["delta"]
    assert delta["delta"] == pytest.approx(0.1)
    assert (delta["low"], delta["n"], delta["reason"]) == (None, 1, "one value, no interval")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--ancestors"], [0, 1, 3]),
        (["--descendants"], [3, 4, 5]),
        (["--siblings"], [1, 3]),
        (["--ancestors", "--descendants"], [0, 1, 3, 4, 5]),
        (["--descendants", "--depth", "0"], [3]),
    ],
)
def test_relatives_of_one(stored: Stored, flags: list[str], expected: list[int]) -> None:
    data = stored.json("lineage", "--of", "demo-0003", *flags)
    assert [node["index"] for node in data["nodes"]] == expected
    tree = stored.run("lineage", "--of", "demo-0003", *flags).stdout
    assert re.findall(r"demo-(\d{4})", tree) == [f"{index:04d}" for index in expected]


def test_siblings(stored: Stored) -> None:
    data = stored.json("lineage", "--of", "demo-0002", "--siblings")
    assert [node["index"] for node in data["nodes"]] == [0, 1, 2]


def test_common_ancestor_and_the_ways_from_it(stored: Stored) -> None:
    data = stored.json("lineage", "--common", "demo-0002", "demo-0003")
    assert data["ancestor"]["id"] == "demo-0000"
    assert (data["steps_a"], data["steps_b"]) == (1, 2)
    assert [step["id"] for step in data["path_b"]] == ["demo-0000", "demo-0001", "demo-0003"]
    assert data["comparison"]["from"] == "demo-0002"
    above = stored.json("lineage", "--common", "demo-0001", "demo-0005")
    assert (above["ancestor"]["id"], above["steps_a"], above["steps_b"]) == ("demo-0001", 0, 2)
    assert (
        "come from demo-0000, 1 and 2 steps above" in stored.run("lineage", "--common", "demo-0002", "demo-0003").stdout
    )


def test_no_common_ancestor(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    store = stored.open()
    campaign = new_campaign(store)
    unmeasured(store, campaign, 0, None)
    unmeasured(store, campaign, 1, None)
    store.close()
    data = stored.json("lineage", "--common", "demo-0000", "demo-0001")
    assert (data["ancestor"], data["steps_a"]) == (None, None)
    assert "no common ancestor" in stored.run("lineage", "--common", "demo-0000", "demo-0001").stdout
    assert stored.json("lineage", "--summary")["best"] is None
    assert "none completed" in stored.run("lineage", "--summary").stdout


def test_summary(stored: Stored) -> None:
    data = stored.json("lineage", "--summary")
    assert {key: data[key] for key in ("nodes", "roots", "dangling_roots", "max_depth", "without_program")} == {
        "nodes": 6,
        "roots": 1,
        "dangling_roots": 0,
        "max_depth": 3,
        "without_program": 2,
    }
    assert (data["best"]["id"], data["best"]["depth"], data["best"]["reached_after"]) == ("demo-0003", 2, 4)
    assert [one["id"] for one in data["best_path"]] == ["demo-0000", "demo-0001", "demo-0003"]
    assert data["prolific"][0]["descendants"] == 5
    assert (data["scored_edges"], data["improving_edges"]) == (4, 4)
    text = stored.run("lineage", "--summary").stdout
    assert "no program stored of 2" in text
    assert "index 3, after 4 of 6 experiments, 2 levels below its root" in text
    part = stored.json("lineage", "--summary", "--of", "demo-0003")
    assert (part["nodes"], part["roots"], part["dangling_roots"]) == (3, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--siblings"], "needs --of"),
        (["--common", "demo-0000", "demo-0001", "--summary"], "stands alone"),
        (["--summary", "--format", "dot"], "text or JSON"),
        (["--summary", "--of", "demo-0000", "--siblings"], "--summary"),
        (["--summary", "--limit", "3"], "counts everything"),
        (["--of", "demo-0003", "--depth", "1"], "a path is cut with --limit"),
        (["demo", "--of", "other-0000"], "there is no experiment"),
        (["--of", "nobody"], "there is no experiment 'nobody'"),
        (["--common", "demo-0000", "nobody"], "there is no experiment 'nobody'"),
        (["nothing", "--of", "demo-0000"], "there is no campaign 'nothing'"),
    ],
)
def test_refusals(stored: Stored, arguments: list[str], said: str) -> None:
    assert said in stored.run("lineage", *arguments, expect=2).stderr


def test_text_is_inert_in_every_format(stored: Stored, tmp_path: Path) -> None:
    for arguments in ([], ["--of", "demo-0004"], ["--summary"], ["--format", "dot"], ["--format", "mermaid"]):
        text = stored.run("lineage", *arguments).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[bold]x[/bold]" in stored.run("lineage").stdout
    page = tmp_path / "page.html"
    stored.run("lineage", "--format", "html", "--out", str(page))
    assert "<img" not in page.read_text(encoding="utf-8")


def test_the_page_holds_what_is_chosen(stored: Stored) -> None:
    page = stored.run("lineage", "--of", "demo-0002", "--siblings", "--format", "html").stdout
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert [node["index"] for node in data["nodes"]] == [0, 1, 2]
    assert all(node["detailed"] and node["program"] and node["trials"] for node in data["nodes"])


def test_a_large_page_has_the_details_of_the_best_only(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "DETAILED", 3)
    page = stored.run("lineage", "--format", "html").stdout
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    nodes = json.loads(found[1])["nodes"]
    assert len(nodes) == 6
    assert sum(node["detailed"] for node in nodes) == 3
    assert all(node["detailed"] or (node["program"] is None and node["trials"] == []) for node in nodes)


def test_graphml_comes_back(stored: Stored) -> None:
    graph = nx.parse_graphml(stored.run("lineage", "--format", "graphml").stdout)
    assert sorted(graph) == [f"demo-{i:04d}" for i in range(6)]
    assert graph.nodes["demo-0003"]["score"] == pytest.approx(0.438333, abs=1e-6)
    assert graph.nodes["demo-0003"]["on_best_path"] is True
    assert "score" not in graph.nodes["demo-0004"]
    assert graph.edges["demo-0001", "demo-0003"]["kind"] == "parent"
    assert graph.edges["demo-0001", "demo-0003"]["gain"] == pytest.approx(0.2)


def many(parents: list[int | None], scores: list[float | None] | None = None, name: str = "") -> list[Experiment]:
    """Experiments made from one of a real store."""
    return [
        dataclasses.replace(
            TEMPLATE,
            id=f"x-{i}",
            index=i,
            name=name,
            parent_id=None if parent is None else f"x-{parent}",
            score=scores[i] if scores else 0.5,
        )
        for i, parent in enumerate(parents)
    ]


def _templates() -> tuple[Campaign, Experiment]:
    with tempfile.TemporaryDirectory() as directory:
        store = make(Path(directory)).open()
        found = store.campaign("demo"), store.experiment("demo-0000")
        store.close()
    return found


CAMPAIGN, TEMPLATE = _templates()


@given(st.text(max_size=30))
def test_any_name_can_be_drawn(name: str) -> None:
    for text in (name, HOSTILE):
        data = {"campaign": text, "nodes": [], "best_path": []}
        data["nodes"] = [
            {"id": "a", "parent": None, "name": text, "status": "completed", "score": 1.0, "duplicate_of": None},
            {
                "id": "b",
                "parent": "a",
                "name": text,
                "status": "failed",
                "score": None,
                "duplicate_of": "a",
                "gain": -0.1,
            },
        ]
        ElementTree.fromstring(graphml.lineage_graphml(data).encode())
        drawn = mermaid.lineage_mermaid(data).split("\n")
        assert drawn[0] == "flowchart LR"
        for line in drawn[1:3]:
            assert re.fullmatch(r'  n\d\["[^"<>`\\&]*(<br/>[^"<>`\\&]*){1,2}"\]:::\w+', line), line
        for line in lineage_dot(data).split("\n")[3:5]:
            assert re.fullmatch(r'  "[ab]" \[label="(?:[^"\\]|\\.)*", color="#\w{6}"\];', line), line


def shown(parents: list[int | None], scores: list[float | None] | None = None, **cut: int) -> list[str]:
    forest = Forest(many(parents, scores))
    return text_of(tree_lines(lineage_of(CAMPAIGN, forest), prune(forest, **cut))).splitlines()


def test_a_wide_tree_shows_the_best_and_counts_the_rest() -> None:
    scores = [0.1, *(i / 1000 for i in range(500))]
    lines = shown([None, *[0] * 500], scores, limit=4)
    assert len(lines) == 7
    assert [re.search(r"x-\d+", line)[0] for line in lines[1:5]] == ["x-0", "x-498", "x-499", "x-500"]
    assert lines[5] == "   └─ … 497 more, best 0.496"
    assert lines[6] == "497 experiments left out; --limit N shows more, 0 all"


def test_depth_cuts_below() -> None:
    lines = shown([None, 0, 1, 2, 0], depth=1)
    assert len(lines) == 6
    assert lines[3] == "   │  └─ … 2 more, best 0.500"


def test_a_line_of_ten_thousand_is_readable() -> None:
    parents = [None, *range(9_999)]
    lines = shown(parents)
    assert len(lines) == 10_001
    assert max(map(len, lines)) < 130
    assert "9999: " in lines[-1]
    cut = shown(parents, [i / 10_000 for i in range(10_000)], limit=10)
    assert len(cut) == 13  # the name, ten, what hangs below them, the sum
    assert any("1.000 +0.000 x-9999" in line for line in cut)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 5))
def test_pruning_keeps_to_its_limits_and_counts_everything(choices: list[int], limit: int, depth: int) -> None:
    parents = [c % (i + 1) if c % (i + 1) < i else None for i, c in enumerate(choices)]
    rng = random.Random(sum(choices))
    scores = [rng.choice([None, rng.random()]) for _ in choices]
    forest = Forest(many(parents, scores))
    pruned = prune(forest, limit=limit, depth=depth)
    assert len(pruned.experiments) + pruned.left_out == len(forest)
    assert len(pruned.experiments) <= limit
    assert all(forest.depth(one.id) <= depth for one in pruned.experiments)
    for one in pruned.experiments:
        above = pruned.above[one.id]
        assert above is None or above in {ancestor.id for ancestor in forest.ancestors(one.id)}
    assert prune(forest).left_out == 0
    kept = {one.id for one in pruned.experiments}
    best = lineage.best(one for one in forest.experiments if forest.depth(one.id) <= depth)
    assert best is None or any(one.score == best.score for one in pruned.experiments), kept


def test_a_cycle_in_foreign_data_is_an_error_that_names_it(tmp_path: Path) -> None:
    stored = make(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "move37.db")) as database:  # the store itself would refuse
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        database.execute("UPDATE experiments SET parent_id = 'demo-0003' WHERE id = 'demo-0001'")
        database.commit()
    for arguments in ([], ["--summary"], ["--format", "html"], ["--of", "demo-0000"], ["--json"]):
        said = stored.run("lineage", *arguments, expect=4).stderr
        assert "2 experiments descend from themselves: demo-0001 from demo-0003 from demo-0001" in said


def test_long_paths_are_cut_in_the_middle(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    store = stored.open()
    campaign = new_campaign(store)
    for index in range(60):
        unmeasured(store, campaign, index, f"demo-{index - 1:04d}" if index else None, score=index / 60)
    forest = Tracer(store).forest(campaign)
    assert len(forest.path("demo-0059")) == 60
    store.close()
    text = stored.run("lineage", "--of", "demo-0059").stdout
    assert "… 20 steps left out; --limit 0 shows them" in text
    assert len(stored.json("lineage", "--of", "demo-0059")["path"]) == 60
    cut = stored.json("lineage", "--of", "demo-0059", "--limit", "8")
    assert [step["step"] for step in cut["path"]] == [0, 1, 54, 55, 56, 57, 58, 59]
    assert cut["path"][2]["delta"]["from"] == "demo-0053"
    assert cut["path"][2]["cumulative"]["from"] == "demo-0000"


ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "tests" / "memory" / "data"
REAL = ROOT.parent / "shared" / "data" / "asi_arch_tree.json"


def imported(runs: Path, *files: Path) -> Stored:
    stored = Stored(runs)
    store = stored.open()
    import_into(store, *files)
    store.close()
    return stored


def test_a_published_lineage_is_read_like_any_other(tmp_path: Path) -> None:
    stored = imported(tmp_path, PUBLISHED / "asi_arch_small_tree.json", PUBLISHED / "asi_arch_small_gallery.json")
    summary = stored.json("lineage", "--summary")
    assert (summary["nodes"], summary["roots"], summary["without_program"]) == (11, 1, 8)
    assert (summary["best"]["id"], summary["best"]["depth"]) == ("asi-arch-0011", 3)
    (first, second, *_) = stored.json("lineage", "--of", "asi-arch-0011")["path"]
    assert second["delta"]["delta"] == second["score"] - first["score"] == 0.25
    assert second["delta"]["reason"] == "no scored trials stored for asi-arch-0001 and asi-arch-0002"
    for form in ("tree", "json", "dot", "graphml", "mermaid", "html"):
        assert "asi-arch-0013" in stored.run("lineage", "--format", form).stdout
    with_programs = stored.json("diff", "asi-arch-0001", "asi-arch-0002")
    assert with_programs["structural"]["available"]
    assert with_programs["metrics"]["delta"] == 0.25
    without = stored.json("diff", "asi-arch-0002", "asi-arch-0003")
    assert without["b"]["missing"] == "no program stored for asi-arch-0003 (completed)"


@pytest.mark.skipif(not REAL.is_file(), reason="ASI-Arch's published tree is not beside this repository")
def test_the_published_lineage_of_asi_arch(tmp_path: Path) -> None:
    """What docs/lineage.md says of it."""
    stored = imported(tmp_path, REAL)
    summary = stored.json("lineage", "--summary")
    assert (summary["nodes"], summary["roots"], summary["max_depth"]) == (1772, 1, 11)
    assert (summary["improving_edges"], summary["scored_edges"]) == (153, 1771)
    best = summary["best"]
    assert (best["id"], best["depth"], best["index"], best["reached_after"]) == ("asi-arch-0383", 2, 383, 375)
    assert [one["index"] for one in summary["best_path"]] == [1, 119, 383]
    assert [(one["index"], one["descendants"]) for one in summary["prolific"][:2]] == [(1, 1771), (119, 1314)]
    tree = stored.run("lineage").stdout.splitlines()
    assert sum("asi-arch-" in line for line in tree) == 200
    assert tree[-1] == "1,572 experiments left out; --limit N shows more, 0 all"


def test_repetitions_are_drawn(tmp_path: Path) -> None:
    stored = make(tmp_path)
    store = stored.open()
    campaign = store.campaign("demo")
    for index, link in ((6, {"duplicate_of": "demo-0001"}), (7, {"equivalent_of": "demo-0002"})):
        made = new_experiment(store, campaign, index)
        store.select(made.id, "demo-0003", [], {})
        store.finish_experiment(made.id, status="duplicate", reason="duplicate", **link)
    store.close()
    dot = stored.run("lineage", "--format", "dot").stdout
    assert '"demo-0006" -> "demo-0001" [style=dashed];' in dot
    assert '"demo-0007" -> "demo-0002" [style=dotted];' in dot
    drawn = stored.run("lineage", "--format", "mermaid").stdout
    assert 'n6 -.->|"same program"| n1' in drawn
    assert 'n7 -.->|"same function"| n2' in drawn
    graph = nx.parse_graphml(stored.run("lineage", "--format", "graphml").stdout)
    assert graph.edges["demo-0001", "demo-0006"]["kind"] == "duplicate"
    assert graph.edges["demo-0002", "demo-0007"]["kind"] == "equivalent"
    alone = stored.run("lineage", "--of", "demo-0006", "--siblings", "--format", "dot").stdout
    assert "demo-0001" not in alone  # no edge to what is not drawn
