"""A campaign recorded over HTTP, replayed from its cassette without a model, key or network; its prompts as documents.

See data/recorded/README.md for how it is recorded.
"""

import gzip
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agents.cassettes import Cassette
from memory.archive.reading import import_into
from memory.records import Exchange
from memory.store import Store, open_store
from move37.errors import ReplayDiverged
from move37.replaying import replay_campaign

DATA = Path(__file__).parent / "data" / "recorded"
DOCS = Path(__file__).parents[2] / "docs" / "prompts"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with closing(open_store("sqlite://", create=True)) as opened:
        import_into(opened, DATA / "campaign.zip")
        yield opened


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    path = tmp_path / "cassette.jsonl"
    path.write_bytes(gzip.decompress((DATA / "cassette.jsonl.gz").read_bytes()))
    return path


def test_the_campaign_is_replayed_from_its_cassette(
    store: Store, cassette: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the replay asked the network"))
    campaign = store.campaigns()[0]
    assert campaign.config["model"]["base_url"].startswith("http://127.0.0.1")
    replayed = replay_campaign(store, campaign, cassette=cassette)
    assert replayed.differences == []
    assert replayed.experiments == replayed.stored == 26
    assert replayed.calls_answered == len(store.exchanges(campaign_id=campaign.id)) >= 3 * 24


def test_what_the_cassette_lacks_is_named_with_the_nearest_that_it_holds(store: Store, cassette: Path) -> None:
    lines = cassette.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if "messages" in json.loads(line).get("request", {}))
    cassette.write_text("".join(lines[:first] + lines[first + 1 :]), encoding="utf-8")
    assert len(Cassette.read(cassette).models) == 1
    with pytest.raises(ReplayDiverged, match="nearest"):
        replay_campaign(store, store.campaigns()[0], cassette=cassette)


def shown(store: Store) -> dict[str, Exchange]:
    """What docs/prompts shows: a researcher's per mode, a coder's and an analyst's, the latest of each."""
    found: dict[str, Exchange] = {}
    for experiment in store.experiments(store.campaigns()[0].id):
        for exchange in store.exchanges(experiment.id):
            if exchange.turn or exchange.attempt > 1:
                continue
            mode = experiment.selection.get("mode")
            found[f"researcher-{mode}" if exchange.role == "researcher" else exchange.role] = exchange
    return found


def as_document(exchange: Exchange) -> str:
    messages: list[dict[str, Any]] = exchange.request["messages"]
    parts = [f"<!-- {exchange.id}, as it was sent -->"]
    for message in messages:
        parts.append(f"<!-- {message['role']} -->\n\n{message['content'].rstrip()}")
    return "\n\n".join(parts) + "\n"


def test_the_documented_prompts_are_those_of_the_campaign(store: Store) -> None:
    prompts = shown(store)
    assert prompts.keys() >= {"researcher-improve", "researcher-ablate", "researcher-combine", "coder", "analyst"}
    if os.environ.get("MOVE37_WRITE_GOLDEN"):
        DOCS.mkdir(exist_ok=True)
        for name, exchange in prompts.items():
            (DOCS / f"{name}.md").write_text(as_document(exchange), encoding="utf-8")
    written = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md") if path.stem != "README"}
    assert written == {name: as_document(exchange) for name, exchange in prompts.items()}
