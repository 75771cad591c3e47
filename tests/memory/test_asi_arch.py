"""The published lineage of ASI-Arch as a campaign: a small invented one for everybody, the real one where it lies."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from memory.archive.errors import CampaignDiffers, ListingInvalid
from memory.archive.listing import MAX_PROGRAM_BYTES, figures, read
from memory.archive.membership import TABLES
from memory.archive.reading import import_into as import_archive
from memory.archive.writing import export_from
from memory.asi_arch import import_into
from memory.errors import Conflict, ValueRefused
from memory.identity import l0
from memory.store import Store, open_store
from memory.testing import new_campaign, new_experiment

DATA = Path(__file__).parent / "data"
TREE, GALLERY = DATA / "asi_arch_small_tree.json", DATA / "asi_arch_small_gallery.json"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "asi_arch_tree.json"


def rows(store: Store) -> dict[str, list[Any]]:
    with store._database.read() as session:
        return {name: [tuple(row) for row in session.execute(select(table))] for name, table in TABLES.items()}


def test_the_tree_becomes_a_read_only_campaign(store: Store) -> None:
    done = import_into(store, TREE)
    campaign = store.campaign("asi-arch")
    assert done.campaign_id == campaign.id
    assert done.warnings == []
    assert (campaign.state, campaign.read_only, campaign.arms) == ("finished", True, ["asi-arch"])
    assert campaign.origin is not None
    assert campaign.origin["kind"] == "asi-arch"
    assert campaign.origin["file"] == TREE.name
    assert campaign.origin["total_records"] == 11
    assert "published" in campaign.objective["scale"]
    published = {item["index"]: item for item in json.loads(TREE.read_text())["results"]}
    found = store.experiments(campaign.id)
    assert [one.index for one in found] == [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13]
    for one in found:
        item = published[one.index]
        assert one.score == item["score"]
        assert one.parent_id == (None if item["parent"] is None else f"asi-arch-{item['parent']:04d}")
        assert one.name == item.get("name_new", item["name"])
        assert (one.status, one.program_sha256) == ("completed", None)
    assert [one.kind for one in found].count("starter") == 1
    with pytest.raises(Conflict, match="read-only"):
        new_experiment(store, campaign, 99)
    with pytest.raises(Conflict):
        store.set_campaign_state(campaign.id, "running")


def test_the_gallery_adds_programs_hypotheses_analyses_and_results(store: Store) -> None:
    import_into(store, TREE, GALLERY)
    campaign = store.campaign("asi-arch")
    gated = store.experiment("asi-arch-0002")
    assert gated.program_sha256 is not None
    source = store.program(gated.program_sha256).source
    assert "self.gate" in source
    assert gated.hypothesis == {
        "change": "plain_delta_gate",
        "mechanism": "A gate on the output lets the layer forget.",
    }
    analysis = store.analysis(gated.id)
    assert analysis is not None
    assert analysis.body["summary"] == "The gate helped on recall."
    trials = {trial.task: trial for trial in store.trials(gated.id)}
    assert trials["train"].metrics == {"1": 9.5, "100": 6.25, "200": 5.125}
    assert trials["test"].metrics == {"recall": 0.5, "copying": 0.25}
    assert trials["test"].message == "2 figures as published; none for ppl"
    assert trials["test"].log.startswith("Model,recall")
    assert trials["test"].objective_hash != campaign.objective_hash
    assert store.experiment("asi-arch-0013").program_sha256 is None
    assert store.analysis("asi-arch-0013") is None


def test_equal_programs_are_known_as_such(store: Store) -> None:
    import_into(store, TREE, GALLERY)
    campaign = store.campaign("asi-arch")
    first, second = store.experiment("asi-arch-0002"), store.experiment("asi-arch-0006")
    assert first.program_sha256 != second.program_sha256
    key = l0(store.program(str(second.program_sha256)).source)
    held = store.identity(campaign.id, "L0", key)
    assert held is not None
    assert held.experiment_id == first.id
    assert store.identities(second.id) == []


def test_importing_again_changes_nothing_and_another_name_is_another_campaign(store: Store) -> None:
    first = import_into(store, TREE, GALLERY)
    before = rows(store)
    again = import_into(store, TREE, GALLERY)
    assert again.already_there == ["asi-arch"]
    assert again.campaign_id == first.campaign_id
    assert rows(store) == before
    with pytest.raises(CampaignDiffers, match="--name"):
        import_into(store, TREE)
    with pytest.raises(ValueRefused):
        import_into(store, TREE, name="no name")
    assert rows(store) == before
    import_into(store, TREE, name="theirs")
    assert [campaign.name for campaign in store.campaigns()] == ["asi-arch", "theirs"]
    assert store.experiment("theirs-0013").parent_id == "theirs-0009"


def test_a_campaign_of_ours_is_not_overwritten(store: Store) -> None:
    mine = new_campaign(store, "asi-arch")
    with pytest.raises(CampaignDiffers, match="not made of these files"):
        import_into(store, TREE)
    assert store.campaigns() == [mine]


def test_it_is_exported_and_imported_like_any_other(store: Store, tmp_path: Path) -> None:
    import_into(store, TREE, GALLERY)
    export_from(store, "asi-arch", tmp_path / "a.zip", written_by="test", with_parquet=False)
    other = open_store("sqlite://")
    import_archive(other, tmp_path / "a.zip")
    export_from(other, "asi-arch", tmp_path / "b.zip", written_by="test", with_parquet=False)
    assert other.campaign("asi-arch").read_only
    other.close()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


Edit = Callable[[dict[str, Any], list[Any]], Any]


def in_tree(position: int, **values: Any) -> Edit:
    return lambda tree, gallery: tree["results"][position].update(values)


def in_gallery(position: int, **values: Any) -> Edit:
    return lambda tree, gallery: gallery[position].update(values)


def a_circle(tree: dict[str, Any], gallery: list[Any]) -> None:
    tree["results"][1]["parent"] = 6
    tree["results"][4]["parent"] = 2


BAD: dict[str, tuple[Edit, str]] = {
    "index twice": (in_tree(2, index=2), r"node 2 \('plain_delta_conv'\).*'plain_delta_gate' too"),
    "dangling parent": (in_tree(2, parent=99), r"node 3 \('plain_delta_conv'\): its parent 99 is not in the file"),
    "circle": (a_circle, "descends from itself: 2 -> 6 -> 2"),
    "own parent": (in_tree(3, parent=4), "node 4.*itself: 4 -> 4"),
    "NaN": (in_tree(1, score=math.nan), r"node 2 \('plain_delta_gate'\): score is nan"),
    "Infinity": (in_tree(1, score=-math.inf), "node 2.*score is -inf"),
    "huge score": (in_tree(1, score=10**400), "node 2.*no finite number"),
    "score is text": (in_tree(1, score="1.5"), "node 2.*score is str"),
    "score is a truth value": (in_tree(1, score=True), "node 2.*score is bool"),
    "index is text": (in_tree(1, index="2"), "entry 2 of results: index is '2'"),
    "index is negative": (in_tree(1, index=-1), "entry 2 of results: index is -1"),
    "index is huge": (in_tree(1, index=2**31), "entry 2 of results: index"),
    "parent is text": (in_tree(1, parent="1"), "node 2.*parent is str"),
    "no name": (in_tree(1, name=""), "node 2.*no name"),
    "name is a number": (in_tree(1, name=7), "node 2.*name is int"),
    "NUL": (in_tree(1, name="a\x00"), "node 2.*NUL at character 1"),
    "surrogate": (in_tree(1, name_new="\ud800"), "node 2.*name_new: it holds a lone surrogate"),
    "not an object": (lambda tree, gallery: tree["results"].append([]), "entry 12 of results: this is list"),
    "no results": (lambda tree, gallery: tree.pop("results"), "no ASI-Arch tree"),
    "empty": (lambda tree, gallery: tree["results"].clear(), "no ASI-Arch tree"),
    "gallery without node": (in_gallery(0, index=5), "node 5.*the tree has no node"),
    "gallery twice": (in_gallery(1, index=2), "node 2.*twice"),
    "gallery score": (in_gallery(0, score=math.nan), "node 2.*score is nan"),
    "program is a list": (in_gallery(0, program=[]), "node 2.*program is list"),
    "program of 10 MB": (in_gallery(0, program="x = 1\n" * 1_750_000), "node 2.*10,500,000 bytes; at most"),
    "program with NUL": (in_gallery(0, program="x\x00"), "node 2.*program: it holds NUL"),
    "program with a surrogate": (in_gallery(0, program="'\udfff'"), "node 2.*program: it holds a lone surrogate"),
    "motivation with NUL": (in_gallery(0, motivation="\x00"), "node 2.*motivation"),
    "results are text": (in_gallery(0, result="1"), "node 2.*result is not an object"),
    "result is a number": (in_gallery(0, result={"train": 1}), "node 2.*result is not an object"),
    "result of an odd name": (in_gallery(0, result={"a/b": ""}), "node 2.*'a/b'"),
    "result with NUL": (in_gallery(0, result={"train": "\x00"}), "node 2.*'train': it holds NUL"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/move37.db")
    yield store
    store.close()


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_lineage_is_refused_whole(case: str, untouched: Store, tmp_path: Path) -> None:
    edit, message = BAD[case]
    tree, gallery = json.loads(TREE.read_text()), json.loads(GALLERY.read_text())
    edit(tree, gallery)
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    (tmp_path / "gallery.json").write_text(json.dumps(gallery))
    with pytest.raises(ListingInvalid, match=message):
        import_into(untouched, tmp_path / "tree.json", tmp_path / "gallery.json")
    assert not any(rows(untouched).values())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b'{"total_records": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_is_refused(text: bytes, untouched: Store, tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_bytes(text)
    with pytest.raises(ListingInvalid, match="not JSON"):
        import_into(untouched, tmp_path / "tree.json")
    with pytest.raises(ListingInvalid, match="cannot be read"):
        import_into(untouched, tmp_path / "nothing.json")
    with pytest.raises(ListingInvalid, match="has to be a list"):
        import_into(untouched, TREE, TREE)


def test_what_is_odd_is_said_and_imported(store: Store, tmp_path: Path) -> None:
    tree, gallery = json.loads(TREE.read_text()), json.loads(GALLERY.read_text())
    tree["total_records"] = 12
    tree["results"][6]["parent"] = None
    tree["results"][2]["parent"] = 4
    tree["results"][3]["score"] = None
    gallery[0]["score"] = 1.0
    gallery[0]["program"] = "x" * MAX_PROGRAM_BYTES
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    (tmp_path / "gallery.json").write_text(json.dumps(gallery))
    done = import_into(store, tmp_path / "tree.json", tmp_path / "gallery.json")
    said = "\n".join(done.warnings)
    for part in ("total_records is 12", "2 roots", "1 nodes have a parent of a higher index", "another score than"):
        assert part in said
    assert store.experiment("asi-arch-0002").score == 1.75
    assert store.experiment("asi-arch-0003").parent_id == "asi-arch-0004"
    unscored = store.experiment("asi-arch-0004")
    assert (unscored.status, unscored.reason, unscored.score) == ("failed", "no_score", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Model,a,b\nm,1,2.5\n", ({"a": 1.0, "b": 2.5}, [])),
        ("Model,a,b\nm,nan,\n", ({}, ["a", "b"])),
        ("Model,a\nother,1\nm,2\n", ({"a": 2.0}, [])),
        ("Model,a\nother,1\nanother,2\n", ({}, [])),
        ("Model,a\nm,1,2\n", ({}, [])),
        ("", ({}, [])),
        ('a,"b\n', ({}, [])),
    ],
)
def test_figures_of_a_table(text: str, expected: tuple[dict[str, float], list[str]]) -> None:
    assert figures(text, "m") == expected


@st.composite
def forests(draw: st.DrawFn) -> list[tuple[int, int | None]]:
    """(index, parent), in any order; a parent was drawn before its children."""
    indices = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True))
    parents = [draw(st.none() | st.sampled_from(indices[:place])) if place else None for place in range(len(indices))]
    return draw(st.permutations(list(zip(indices, parents, strict=True))))


@given(forest=forests(), data=st.data())
def test_every_forest_is_read_and_any_loop_in_it_found(
    tmp_path_factory: pytest.TempPathFactory, forest: list[tuple[int, int | None]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("forest") / "tree.json"

    def write(edges: list[tuple[int, int | None]]) -> None:
        results = [{"index": i, "name": f"n{i}", "parent": p, "score": 1.0} for i, p in edges]
        path.write_text(json.dumps({"total_records": len(results), "results": results}))

    write(forest)
    assert [(node.index, node.parent) for node in read(path).nodes.values()] == sorted(forest)
    parents = dict(forest)
    line = [data.draw(st.sampled_from(sorted(parents)))]
    while (above := parents[line[-1]]) is not None:
        line.append(above)
    parents[line[-1]] = line[0]  # the root descends from its own descendant
    write(list(parents.items()))
    with pytest.raises(ListingInvalid, match="descends from itself"):
        read(path)


@pytest.mark.skipif(not REAL.exists(), reason="the published tree is not beside this checkout (../shared)")
def test_the_real_lineage(store: Store) -> None:
    done = import_into(store, REAL)
    assert done.warnings == []
    assert done.rows["experiments"] == 1772
    campaign = store.campaign("asi-arch")
    experiments = store.experiments(campaign.id)
    published = {item["index"]: item for item in json.loads(REAL.read_text())["results"]}
    assert {one.index: one.score for one in experiments} == {i: item["score"] for i, item in published.items()}
    assert experiments[-1].index == 1792
    assert [one.id for one in experiments if one.parent_id is None] == ["asi-arch-0001"]
    assert max(experiments, key=lambda one: one.score or 0.0).index == 383
