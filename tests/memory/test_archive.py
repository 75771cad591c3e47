"""Export and import: nothing lost, the same bytes again, and nothing half-imported from a bad file."""

import hashlib
import io
import json
import math
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from memory.archive.container import Limits
from memory.archive.encoding import decode, encode
from memory.archive.errors import (
    ArchiveDamaged,
    ArchiveError,
    ArchiveUnreadable,
    ArchiveUnwritable,
    ArchiveVersion,
    CampaignDiffers,
    OriginMissing,
    ParquetUnavailable,
    RowInvalid,
)
from memory.archive.membership import TABLES
from memory.archive.reading import import_into
from memory.archive.writing import export_from
from memory.errors import Conflict, NotFound
from memory.records import Campaign
from memory.store import Store, open_store
from memory.testing import PROGRAM, VERDICT, Ticking, completed, exchange, new_campaign, new_experiment, trial

Files = dict[str, bytes]


def fill(store: Store, name: str = "demo") -> Campaign:
    """A campaign with a row in every table, and awkward contents."""
    campaign = new_campaign(store, name, announcements=["ünïcode \U0001f9e0"])
    store.end_session(store.begin_session(campaign.id, {"pid": 1}).id)
    first = new_experiment(store, campaign, 0)
    store.select(first.id, None, [], {"weights": [0.1, 1e-300, -0.0, 2**60]})
    sha256 = store.put_program(PROGRAM)
    store.put_attempt(first.id, 1, origin="proposal", program_sha256=sha256, hypothesis={"change": "a\x00b \ud800"})
    store.put_verdicts(first.id, 1, [VERDICT])
    store.close_attempt(first.id, 1, "accepted")
    store.reserve(campaign.id, "L0", "k", first.id)
    exchange(store, first, text="half a pair \ud83d, a NUL \x00, the escape \x1a0000")
    metrics = {"accuracy": 0.25, "nested": {"loss": 1 / 3, "steps": 7}, "note": "fine", "list": [1, None]}
    store.finish_trial(trial(store, first).id, state="completed", score=0.5, metrics=metrics)
    store.finish_experiment(first.id, status="completed", score=0.1 + 0.2, program_sha256=sha256, name="first \x00")
    store.put_analysis(first.id, {"summary": "s"})
    second = completed(store, campaign, 1, parent=first.id)
    lesson = store.put_lesson(first.id, "claim")
    store.put_evidence(lesson.id, second.id, "contradicts", "it fell")
    store.put_program_key(sha256, "l1", "", key="s1-0", cost_s=0.01)
    store.put_knowledge_uses(first.id, ["delta-rule"])
    store.put_vectors("program", "hash-1", {sha256: b"\x00\xff12", "of nothing here": b"1"})
    store.put_finding(first.id, second.id, statistics={"p": 0.01}, claim_objective_hash="o9")
    for number in range(3):
        store.put_event(campaign.id, "note", {"number": number}, experiment_id=first.id)
    open_ = new_experiment(store, campaign, 2)
    store.select(open_.id, second.id, [first.id], {})
    exchange(store, open_)
    return store.campaign(campaign.id)


def dump(store: Store) -> dict[str, list[Any]]:
    """Every row of every table."""
    with store._database.read() as session:
        return {name: [tuple(row) for row in session.execute(select(table))] for name, table in TABLES.items()}


def export(store: Store, campaign: str, path: Path, **options: Any) -> bytes:
    export_from(store, campaign, path, written_by="test", **({"with_parquet": False} | options))
    return path.read_bytes()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    """Makes new stores: copies of one, which is quicker than running the migrations for each."""
    folder = tmp_path_factory.mktemp("fresh")
    store = open_store(f"sqlite:///{folder}/blank.db")
    store.close()

    def make() -> Store:
        made = folder / f"{len(list(folder.iterdir()))}.db"
        shutil.copy(folder / "blank.db", made)
        return open_store(f"sqlite:///{made}", clock=Ticking())

    return make


@pytest.fixture
def elsewhere(fresh: Callable[[], Store]) -> Iterator[Store]:
    """Another store, in which things happened before."""
    store = fresh()
    other = new_campaign(store, "other")
    for _ in range(5):
        store.put_event(other.id, "earlier")
    yield store
    store.close()


@pytest.fixture
def empty(fresh: Callable[[], Store]) -> Iterator[Store]:
    store = fresh()
    yield store
    store.close()


def test_a_campaign_comes_back_whole_and_its_export_is_the_same_file(
    store: Store, elsewhere: Store, tmp_path: Path
) -> None:
    new_campaign(store, "not wanted".replace(" ", "-"))
    campaign = fill(store)
    archive = export(store, "demo", tmp_path / "a.zip", with_parquet=True)
    done = import_into(elsewhere, tmp_path / "a.zip")
    assert done.campaigns == ["demo"]
    assert done.already_there == []
    assert all(done.rows.values()), "a table without a row proves nothing"
    assert set(done.rows) == set(TABLES)
    assert elsewhere.campaign(campaign.id) == campaign
    assert [c.name for c in elsewhere.campaigns()] == ["other", "demo"]
    for read in ("experiments", "findings", "lessons", "sessions", "spent", "counts"):
        assert getattr(elsewhere, read)(campaign.id) == getattr(store, read)(campaign.id), read
    for experiment in store.experiments(campaign.id):
        for read in ("attempts", "verdicts", "identities", "trials", "exchanges", "analysis"):
            assert getattr(elsewhere, read)(experiment.id) == getattr(store, read)(experiment.id), read
    assert export(elsewhere, "demo", tmp_path / "b.zip", with_parquet=True) == archive


def test_an_archive_goes_into_any_store_and_comes_out_the_same(store: Store, empty: Store, tmp_path: Path) -> None:
    fill(empty)
    archive = export(empty, "demo", tmp_path / "a.zip")
    import_into(store, tmp_path / "a.zip")
    assert export(store, "demo", tmp_path / "b.zip") == archive
    assert export(store, store.campaign("demo").id, tmp_path / "c.zip") == archive


def test_numbers_of_the_database_are_given_anew_in_the_same_order(
    empty: Store, elsewhere: Store, tmp_path: Path
) -> None:
    campaign = fill(empty)
    new_campaign(empty, "between")
    empty.put_event(empty.campaign("between").id, "not wanted")
    empty.put_event(campaign.id, "last")
    export(empty, "demo", tmp_path / "a.zip")
    import_into(elsewhere, tmp_path / "a.zip")
    before, after = empty.events(campaign.id), elsewhere.events(campaign.id)
    assert [(e.kind, e.payload, e.created_at) for e in before] == [(e.kind, e.payload, e.created_at) for e in after]
    assert [e.id for e in after] == [6, 7, 8, 9]
    assert elsewhere.put_event(campaign.id, "one more").id == 10
    lines = zipfile.ZipFile(tmp_path / "a.zip").read("tables/events.jsonl").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 2, 3, 4]


def test_a_running_campaign_continues_where_it_was_imported(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    campaign = fill(empty)
    export(empty, "demo", tmp_path / "a.zip")
    import_into(elsewhere, tmp_path / "a.zip")
    key = elsewhere.put_program(PROGRAM + "# later\n")
    done = elsewhere.finish_experiment("demo-0002", status="completed", score=0.5, program_sha256=key)
    assert done.parent_id == "demo-0001"
    with pytest.raises(Conflict):
        elsewhere.finish_experiment("demo-0001", status="failed")
    assert (
        elsewhere.open_experiment(campaign.id, 3, arm="agents", kind="proposal", track="sequence", tier="smoke").id
        == "demo-0003"
    )


def test_importing_again_changes_nothing_and_a_changed_campaign_is_refused(
    empty: Store, elsewhere: Store, tmp_path: Path
) -> None:
    campaign = fill(empty)
    export(empty, "demo", tmp_path / "a.zip")
    import_into(elsewhere, tmp_path / "a.zip")
    before = dump(elsewhere)
    again = import_into(elsewhere, tmp_path / "a.zip")
    assert (again.already_there, any(again.rows.values())) == (["demo"], False)
    assert dump(elsewhere) == before
    elsewhere.put_event(campaign.id, "went on")
    before = dump(elsewhere)
    with pytest.raises(CampaignDiffers, match=r"'demo'.*events"):
        import_into(elsewhere, tmp_path / "a.zip")
    assert dump(elsewhere) == before


def test_another_campaign_of_the_name_is_in_the_way(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    fill(empty)
    export(empty, "demo", tmp_path / "a.zip")
    mine = new_campaign(elsewhere, "demo")
    with pytest.raises(CampaignDiffers, match=mine.id):
        import_into(elsewhere, tmp_path / "a.zip")
    assert elsewhere.campaigns()[1:] == [mine]


def fork(store: Store) -> Campaign:
    origin = fill(store)
    forked = new_campaign(store, "fork", forked_from=origin.id, forked_at="demo-0001")
    completed(store, forked, 0, parent="demo-0001")
    store.put_evidence(store.lessons(origin.id)[0].id, "fork-0000", "supports", "")
    return forked


def test_a_fork_names_its_origin_and_needs_it(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    fork(empty)
    archive = export(empty, "fork", tmp_path / "fork.zip")
    [required] = json.loads(zipfile.ZipFile(tmp_path / "fork.zip").read("manifest.json"))["requires"]
    assert required["name"] == "demo"
    assert set(required["rows"]) == {"campaigns", "experiments", "lessons"}
    before = dump(elsewhere)
    with pytest.raises(OriginMissing, match=r"'demo'.*--with-origins"):
        import_into(elsewhere, tmp_path / "fork.zip")
    assert dump(elsewhere) == before
    export(empty, "demo", tmp_path / "demo.zip")
    import_into(elsewhere, tmp_path / "demo.zip")
    assert import_into(elsewhere, tmp_path / "fork.zip").campaigns == ["fork"]
    assert elsewhere.campaign("fork").forked_at == "demo-0001"
    assert export(elsewhere, "fork", tmp_path / "again.zip") == archive


def test_a_fork_with_its_origins_is_one_file(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    fork(store)
    store.put_event(store.campaign("demo").id, "after the fork's")
    archive = export(store, "fork", tmp_path / "fork.zip", with_origins=True)
    assert sorted(import_into(elsewhere, tmp_path / "fork.zip").campaigns) == ["demo", "fork"]
    assert export(elsewhere, "fork", tmp_path / "again.zip", with_origins=True) == archive


def test_an_origin_that_is_there_is_not_imported_twice(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    fork(empty)
    export(empty, "demo", tmp_path / "demo.zip")
    export(empty, "fork", tmp_path / "fork.zip", with_origins=True)
    import_into(elsewhere, tmp_path / "demo.zip")
    done = import_into(elsewhere, tmp_path / "fork.zip")
    assert done.already_there == ["demo"]
    assert done.rows["campaigns"] == 1
    assert elsewhere.experiment("fork-0000").parent_id == "demo-0001"


def test_shared_rows_that_are_there_stay(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    fill(empty)
    export(empty, "demo", tmp_path / "a.zip")
    mine = elsewhere.program(elsewhere.put_program(PROGRAM))
    elsewhere.put_program_key(mine.sha256, "l1", "", key="s1-another", cost_s=1.0)
    done = import_into(elsewhere, tmp_path / "a.zip")
    assert done.kept == 1
    assert elsewhere.program(mine.sha256) == mine


def test_what_is_new_is_told_before_it_can_be_seen(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    """Whoever has to remember it does so first, or nothing is imported."""
    campaign = fill(empty)
    export(empty, "demo", tmp_path / "demo.zip")

    def cannot(_: str) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        import_into(elsewhere, tmp_path / "demo.zip", on_new=cannot)
    assert "demo" not in [held.name for held in elsewhere.campaigns()]
    told: list[str] = []
    import_into(elsewhere, tmp_path / "demo.zip", on_new=told.append)
    import_into(elsewhere, tmp_path / "demo.zip", on_new=told.append)
    assert told == [campaign.id]


def test_a_read_only_campaign_stays_so(empty: Store, elsewhere: Store, tmp_path: Path) -> None:
    campaign = fill(empty)
    with empty._database.write() as session:
        table = TABLES["campaigns"]
        session.execute(table.update().where(table.c.id == campaign.id).values(read_only=True))
    archive = export(empty, "demo", tmp_path / "a.zip")
    import_into(elsewhere, tmp_path / "a.zip")
    assert elsewhere.campaign("demo").read_only
    with pytest.raises(Conflict, match="read-only"):
        new_experiment(elsewhere, campaign, 7)
    assert export(elsewhere, "demo", tmp_path / "b.zip") == archive


def test_parquet_is_for_analysis(empty: Store, tmp_path: Path) -> None:
    import pyarrow.parquet

    fill(empty)
    export(empty, "demo", tmp_path / "a.zip", with_parquet=True)
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    trials = pyarrow.parquet.read_table(io.BytesIO(archive.read("tables/trials.parquet"))).to_pylist()
    experiments = pyarrow.parquet.read_table(io.BytesIO(archive.read("tables/experiments.parquet"))).to_pylist()
    assert trials[0]["metrics.accuracy"] == 0.25
    assert trials[0]["metrics.nested.loss"] == 1 / 3
    assert trials[0]["metrics.list"] == "[1, null]"
    assert [row["score"] for row in experiments] == [0.1 + 0.2, 0.5, None]
    assert experiments[0]["created_at"] == empty.experiment("demo-0000").created_at


def test_without_pyarrow_the_remedy_is_named(
    empty: Store, elsewhere: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(empty)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParquetUnavailable, match="--no-parquet"):
        export(empty, "demo", tmp_path / "a.zip", with_parquet=True)
    assert list(tmp_path.iterdir()) == []
    export(empty, "demo", tmp_path / "a.zip")
    assert import_into(elsewhere, tmp_path / "a.zip").name == "demo"


def test_a_failed_export_leaves_nothing_and_spoils_nothing(empty: Store, tmp_path: Path) -> None:
    fill(empty)
    kept = tmp_path / "a.zip"
    kept.write_bytes(b"precious")
    with pytest.raises(NotFound):
        export(empty, "nobody", kept)
    with pytest.raises(ArchiveUnwritable, match="--out"):
        export(empty, "demo", tmp_path / "no" / "such" / "place.zip")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(ArchiveUnwritable):
        export(empty, "demo", tmp_path / "folder.zip")
    assert kept.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "folder.zip"]


# Bad files. An edit changes the files of a good archive; checksums are brought up to date unless it is about them.


def rows(files: Files, table: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[f"tables/{table}.jsonl"].splitlines()]


def put(files: Files, table: str, changed: list[dict[str, Any]]) -> None:
    files[f"tables/{table}.jsonl"] = "".join(json.dumps(row) + "\n" for row in changed).encode()


def set_in(table: str, row: int, **values: Any) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        changed = rows(files, table)
        changed[row].update(values)
        put(files, table, changed)

    return edit


def set_manifest(**values: Any) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | values).encode()

    return edit


def replaced(table: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        name = f"tables/{table}.jsonl"
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    return edit


def without(name: str, *, listed: bool) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        del files[name]
        if not listed:
            manifest = json.loads(files["manifest.json"])
            manifest["files"].pop(name)
            files["manifest.json"] = json.dumps(manifest).encode()

    return edit


def a_program(files: Files) -> str:
    return next(name for name in files if name.startswith("programs/"))


def other_program_file(files: Files) -> None:
    files[a_program(files)] += b"#"


def other_program_row(files: Files) -> None:
    changed = rows(files, "programs")
    changed[0]["source"] += "#"
    put(files, "programs", changed)


def a_circle(files: Files) -> None:
    changed = rows(files, "experiments")
    changed[0]["parent_id"], changed[1]["parent_id"] = changed[1]["id"], changed[0]["id"]
    put(files, "experiments", changed)


def another_experiment_twice(files: Files) -> None:
    changed = rows(files, "experiments")
    put(files, "experiments", [*changed, changed[0]])


def a_stranger(files: Files) -> None:
    """An event for a campaign that is not in the archive, but may be in the store."""
    changed = rows(files, "events")
    changed[0]["campaign_id"] = "c-00000000"
    put(files, "events", changed)


def renamed(column: str, text: str) -> Callable[[Files], None]:
    """The campaign under another id or name, wherever it stands."""

    def edit(files: Files) -> None:
        old = rows(files, "campaigns")[0][column]
        for name in [one for one in files if one.startswith("tables/") and one.endswith(".jsonl")]:
            if column == "id" or name == "tables/campaigns.jsonl":
                files[name] = files[name].replace(json.dumps(old).encode(), json.dumps(text).encode())
        files["manifest.json"] = files["manifest.json"].replace(json.dumps(old).encode(), json.dumps(text).encode())

    return edit


EDITS: dict[str, tuple[Callable[[Files], None], type[ArchiveError], str]] = {
    "newer format": (set_manifest(version=99), ArchiveVersion, r"99.*Use the Move37 that wrote it \(test\)"),
    "newer schema": (set_manifest(schema_revision="9999"), ArchiveVersion, "9999"),
    "older schema": (set_manifest(schema_revision="0001"), ArchiveVersion, "upgrades"),
    "foreign manifest": (set_manifest(format="bagit"), ArchiveDamaged, "not one of Move37's"),
    "manifest of another shape": (set_manifest(files=[]), ArchiveDamaged, "another shape"),
    "manifest with negative counts": (set_manifest(programs=-1), ArchiveDamaged, "count"),
    "unknown field": (set_manifest(extra=1), ArchiveDamaged, "other fields"),
    "other campaign": (set_manifest(campaigns=[{"id": "c-1", "name": "demo"}]), ArchiveDamaged, "own campaign"),
    "manifest is no JSON": (lambda files: files.update({"manifest.json": b"{"}), ArchiveDamaged, "not JSON"),
    "no manifest": (without("manifest.json", listed=True), ArchiveUnreadable, "no archive of Move37"),
    "missing table": (without("tables/trials.jsonl", listed=True), ArchiveDamaged, "table trials is missing"),
    "table not listed": (without("tables/trials.jsonl", listed=False), ArchiveDamaged, "table trials is missing"),
    "file too many": (lambda files: files.update({"../../evil": b"x"}), ArchiveDamaged, "does not belong"),
    "program file": (other_program_file, ArchiveDamaged, "another program"),
    "program missing": (lambda files: files.pop(a_program(files)), ArchiveDamaged, "1 programs"),  # type: ignore[dict-item]
    "program row": (other_program_row, RowInvalid, r"programs, row 1: the program's hash"),
    "NUL in a program": (set_in("programs", 0, source="a\x00"), RowInvalid, "programs, row 1.*NUL"),
    "surrogate in a program": (set_in("programs", 1, source="\ud800"), RowInvalid, "programs, row 2.*surrogate"),
    "unknown column": (set_in("trials", 0, colour=1), RowInvalid, "trials, row 1: unknown column 'colour'"),
    "missing column": (replaced("trials", b'"tries"', b'"treis"'), RowInvalid, "'treis'"),
    "not JSON": (replaced("trials", b"{", b"["), RowInvalid, "trials, row 1: this is not a line of JSON"),
    "not UTF-8": (replaced("trials", b"completed", b"complete\xff"), RowInvalid, "trials, row 1"),
    "not an object": (lambda files: files.update({"tables/trials.jsonl": b"7\n"}), RowInvalid, "int"),
    "NaN": (set_in("experiments", 1, score=math.nan), RowInvalid, "experiments, row 2.*NaN"),
    "Infinity": (set_in("trials", 0, metrics={"x": math.inf}), RowInvalid, "trials, row 1.*Infinity"),
    "1e999": (replaced("experiments", b'"score":0.5', b'"score":1e999'), RowInvalid, "experiments, row 2.*finite"),
    "1e999 in JSON": (replaced("trials", b"0.25", b"1e999"), RowInvalid, "trials, row 1.*accuracy.*finite"),
    "NUL": (set_in("experiments", 0, arm="a\x00"), RowInvalid, "experiments, row 1: arm holds NUL"),
    "surrogate": (set_in("experiments", 0, arm="\ud800"), RowInvalid, "experiments, row 1: arm holds a lone"),
    "too long": (set_in("experiments", 0, arm="a" * 121), RowInvalid, "at most 120"),
    "too large": (set_in("experiments", 0, index=2**31), RowInvalid, "index does not fit"),
    "truth value for a number": (set_in("experiments", 0, index=True), RowInvalid, "index is bool"),
    "null": (set_in("experiments", 0, arm=None), RowInvalid, "arm is null"),
    "list for an object": (set_in("experiments", 0, selection=[]), RowInvalid, "selection is list"),
    "time without offset": (set_in("experiments", 0, created_at="2030-01-01"), RowInvalid, "without an offset"),
    "no time": (set_in("experiments", 0, created_at="noon"), RowInvalid, "created_at is no ISO 8601"),
    "no base64": (set_in("vectors", 0, data="?"), RowInvalid, "vectors, row 1.*base64"),
    "dangling parent": (set_in("experiments", 1, parent_id="demo-0099"), RowInvalid, "row 2: parent_id is 'demo-0099'"),
    "dangling program": (set_in("attempts", 0, program_sha256="0" * 64), RowInvalid, "attempts, row 1: program_sha256"),
    "dangling owner": (set_in("trials", 0, experiment_id="demo-0099"), RowInvalid, "trials, row 1.*'demo-0099'"),
    "row of another campaign": (a_stranger, RowInvalid, "events, row 1.*'c-00000000'.*not in the archive"),
    "circle": (a_circle, RowInvalid, "in a circle: demo-000. -> demo-000."),
    "key twice": (another_experiment_twice, RowInvalid, "comes again"),
    "name that is a path": (
        renamed("name", "../../escaped"),
        RowInvalid,
        r"campaigns, row 1: name '\.\./\.\./escaped'",
    ),
    "id that is a path": (renamed("id", "../../escaped"), RowInvalid, r"campaigns, row 1: id '\.\./\.\./escaped'"),
    "unknown status": (set_in("experiments", 0, status="splendid"), RowInvalid, "experiments, row 1: the database"),
}


@pytest.fixture(scope="module")
def good(fresh: Callable[[], Store], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good archive."""
    store = fresh()
    fill(store)
    data = export(store, "demo", tmp_path_factory.mktemp("good") / "a.zip")
    store.close()
    return data


def unpacked(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Files, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def sealed(files: Files) -> Files:
    """With the checksums of what is there, so that the edit itself is what is found."""
    try:
        manifest = json.loads(files["manifest.json"])
        for name, entry in manifest["files"].items():
            if name in files:
                data = files[name]
                entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=data.count(b"\n"))
    except (KeyError, ValueError, AttributeError):
        return files
    return files | {"manifest.json": json.dumps(manifest).encode()}


@pytest.fixture(scope="module")
def untouched(fresh: Callable[[], Store]) -> Iterator[Store]:
    """A store that every bad file is offered to."""
    store = fresh()
    store.put_event(new_campaign(store, "other").id, "earlier")
    yield store
    store.close()


@pytest.mark.parametrize("case", EDITS)
def test_a_bad_archive_is_refused_whole(case: str, good: bytes, untouched: Store, tmp_path: Path) -> None:
    edit, error, message = EDITS[case]
    files = unpacked(good)
    edit(files)
    path = packed(sealed(files), tmp_path / "bad.zip")
    before = dump(untouched)
    with pytest.raises(error, match=message) as caught:
        import_into(untouched, path)
    assert str(path) in str(caught.value)
    assert dump(untouched) == before


def test_bad_rows_are_refused_on_every_database(store: Store, good: bytes, tmp_path: Path) -> None:
    before = dump(store)
    for case, (edit, error, message) in EDITS.items():
        if error is RowInvalid:
            files = unpacked(good)
            edit(files)
            with pytest.raises(error, match=message):
                import_into(store, packed(sealed(files), tmp_path / f"{case}.zip"))
    assert dump(store) == before


def test_a_changed_table_is_noticed(good: bytes, untouched: Store, tmp_path: Path) -> None:
    files = unpacked(good)
    files["tables/experiments.jsonl"] = files["tables/experiments.jsonl"].replace(b"0.5", b"0.9")
    with pytest.raises(ArchiveDamaged, match=r"tables/experiments.jsonl.*checksum"):
        import_into(untouched, packed(files, tmp_path / "bad.zip"))


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_no_archive(kept: float, good: bytes, untouched: Store, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(good[: int(len(good) * kept)])
    with pytest.raises(ArchiveUnreadable, match="cut off"):
        import_into(untouched, path)


def test_what_is_no_archive_says_so(untouched: Store, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    for path, message in ((tmp_path / "text.zip", "no archive"), (tmp_path / "nothing", "No such"), (tmp_path, "dir")):
        with pytest.raises(ArchiveUnreadable, match=message):
            import_into(untouched, path)


def test_a_bomb_does_not_go_off(good: bytes, untouched: Store, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    files = unpacked(good)
    files["tables/events.jsonl"] = b" " * 50_000_000
    packed(sealed(files), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ArchiveUnreadable, match=r"inflate.*--max-gib"):
        import_into(untouched, path, limits=Limits(total=10_000_000))
    with pytest.raises(ArchiveUnreadable, match="events, row 1 is larger"):
        import_into(untouched, path, limits=Limits(row=1_000_000))


def test_a_lying_directory_does_not_help_a_bomb(good: bytes, untouched: Store, tmp_path: Path) -> None:
    """The central directory says that the table is small; its data are not."""
    files = unpacked(good)
    honest = len(files["tables/events.jsonl"])
    files["tables/events.jsonl"] += b" " * 5_000_000
    data = packed(files, tmp_path / "bomb.zip").read_bytes()
    path = tmp_path / "lying.zip"
    path.write_bytes(data.replace((honest + 5_000_000).to_bytes(4, "little"), honest.to_bytes(4, "little")))
    with pytest.raises(ArchiveError):
        import_into(untouched, path, limits=Limits(total=1_000_000))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_files_of_one_name_are_refused(good: bytes, untouched: Store, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tables/events.jsonl", b"")
    with pytest.raises(ArchiveUnreadable, match="two files"):
        import_into(untouched, path)


@pytest.fixture(scope="module")
def stores(fresh: Callable[[], Store]) -> Iterator[list[Store]]:
    """Empty stores; the last is the one to use."""
    opened = [fresh()]
    yield opened
    for store in opened:
        store.close()


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_no_flipped_byte_is_imported_as_something_else(
    good: bytes,
    stores: list[Store],
    fresh: Callable[[], Store],
    tmp_path_factory: pytest.TempPathFactory,
    place: float,
    change: int,
) -> None:
    data = bytearray(good)
    data[int(place * len(data))] ^= change
    path = tmp_path_factory.mktemp("flipped") / "a.zip"
    path.write_bytes(data)
    before = dump(stores[-1])
    try:
        import_into(stores[-1], path)
    except ArchiveError:
        assert dump(stores[-1]) == before
        return
    assert export(stores[-1], "demo", path) == good  # a byte that means nothing, like a time in the zip's directory
    stores.append(fresh())


ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(payload=st.dictionaries(ANY_TEXT, ANY_JSON, max_size=4), at=MOMENTS, number=st.integers(0, 2**31 - 1))
def test_rows_survive_their_line(payload: dict[str, Any], at: datetime, number: int) -> None:
    row = {
        "id": number,
        "campaign_id": "c-1",
        "experiment_id": None,
        "kind": "k",
        "payload": payload,
        "created_at": at,
    }
    line = encode(TABLES["events"], row)
    assert line.count(b"\n") == 1
    assert decode(TABLES["events"], line) == row
    assert encode(TABLES["events"], decode(TABLES["events"], line)) == line


@given(data=st.binary(max_size=40), at=MOMENTS)
def test_bytes_survive_their_line(data: bytes, at: datetime) -> None:
    row = {"kind": "program", "key": "k", "encoder": "e", "data": data, "created_at": at}
    assert decode(TABLES["vectors"], encode(TABLES["vectors"], row)) == row
